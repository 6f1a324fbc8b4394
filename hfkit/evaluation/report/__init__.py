"""What an evaluation found out, for people: tables, plots and pages over an EvaluateResult."""

REPORT, REPORT_JSON, REPORT_MARKDOWN = "report.html", "report.json", "report.md"
"""The files that the evaluate stage leaves: for people, for programs, for a model card."""
