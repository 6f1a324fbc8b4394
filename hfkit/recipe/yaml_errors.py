"""What is wrong with a text that is not YAML, in plain words."""

from dataclasses import replace

import yaml

from hfkit.recipe.problems import Location, Problem
from hfkit.recipe.yaml_rules import MAX_DEPTH, TooDeepError

_OPENINGS = {"while parsing a flow sequence": "[", "while parsing a flow mapping": "{"}


def syntax_problem(error: yaml.YAMLError, place: Location, key: str) -> Problem:
    """The problem that PyYAML met, at its line and column; in an override, which has no lines, at the override."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return Problem(place, key, f"is not valid YAML: {error}")
    mark, message = _in_words(error)
    in_file = place.file is not None
    if in_file and mark is not None:
        place = replace(place, line=mark.line + 1, column=mark.column + 1)
    return Problem(place, "" if in_file else key, message)


def _in_words(error: yaml.MarkedYAMLError) -> tuple[yaml.Mark | None, str]:
    """Where to look, which is where the trouble begins and not where the parser gave up, and what is wrong there."""
    said = error.problem or ""
    mark = error.problem_mark
    start = error.context_mark
    opening = _OPENINGS.get(error.context or "")
    if isinstance(error, TooDeepError):
        return mark, f"nested more than {MAX_DEPTH} levels deep"
    if "'\\t'" in said:
        return mark, "a tab stands here; YAML indents with spaces"
    if opening is not None:
        return start, f"the {opening} that opens here is not closed, or a comma is missing{_until(mark)}"
    if "expected the node content" in said:
        return mark, "a value is missing here, or a bracket or comma is one too many"
    if error.context in ("while scanning a quoted scalar", "while scanning a double-quoted scalar"):
        if "escape" in said:
            return mark, f"{said}; write \\\\ for a backslash, or use single quotes"
        return start, "the quote that opens here is not closed"
    if "mapping values are not allowed" in said:
        return mark, 'a ":" cannot stand here: quote a value that holds ": ", or check how this line is indented'
    if "could not find expected ':'" in said:
        return start or mark, 'a key without ":" after it; write "key: value"'
    if "expected <block end>" in said or "<document start>" in said:
        since = "" if start is None else f", from line {start.line + 1} on"
        return mark, f"does not line up with what stands above{since}; keys of one mapping need the same indentation"
    if "found undefined alias" in said:
        name = said.split("'")[1]
        return mark, f"*{name} repeats &{name}, which does not stand before it"
    if "found duplicate anchor" in (error.context or ""):
        return mark, "an anchor of this name stands above already; give this one another"
    if "expected a single document" in (error.context or ""):
        return mark, "a second document begins here; a recipe is one"
    if "cannot start any token" in said:
        return mark, f"a value cannot begin with {said.split()[2]}; put it in quotes"
    return mark or start, f"is not valid YAML: {error.context + ', ' if error.context else ''}{said}"


def _until(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f" before line {mark.line + 1}, column {mark.column + 1}"
