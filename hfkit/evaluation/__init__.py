"""Evaluation: tasks, metrics, and comparisons that say how sure they are."""
