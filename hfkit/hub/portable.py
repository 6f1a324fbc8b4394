"""Takes the paths of this machine out of texts that are published: they are nobody's business, and of no use."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import JsonValue

from hfkit.data.builtin_templates import BUILTIN
from hfkit.hub.facts import TEMPLATE, RunFacts, hub_id
from hfkit.markdown import escaped


def portable_text(facts: RunFacts) -> Callable[[str], str]:
    """Gives a text with the names that others know in the place of paths: a base model's folder becomes its Hub id, or
    the folder's name where it has none; a path below the working folder becomes relative to it, any other that the
    recipe names its last part; and the home folder becomes `~`."""
    # The plain form comes last, and so holds where all are alike.
    forms = {
        write(path): write(name)
        for path, name in _names(facts).items()
        for write in (escaped, html.escape, _in_json, str)
    }
    ends = (re.escape(form) + ("" if form.endswith("/") else r"(?![\w-])") for form in sorted(forms, key=len)[::-1])
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(ends)})")
    return lambda text: pattern.sub(lambda found: forms[found[0]], text)


def _names(facts: RunFacts) -> dict[str, str]:
    """Path -> what is published in its place."""
    here = Path.cwd()
    names = {f"{here}/": "", str(Path.home()): "~"}
    top = {path.name for path in Path(here.anchor).iterdir()}
    for text in _strings(facts.recipe.model_dump(mode="json")):
        path = Path(text)
        # Text such as /no_think begins with a slash, and is no path.
        if path.is_absolute() and not top.isdisjoint(path.parts[1:2]):
            names[text] = path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name
    base, template = facts.model.base, facts.model.chat_template
    if hub_id(base) is None:
        name = facts.base_id or Path(base).name
        names |= {str(Path(base).resolve()): name} | ({base: name} if "/" in base else {})
    if template is not None and not str(template).startswith(BUILTIN):
        names |= {str(template.resolve()): TEMPLATE} | ({str(template): TEMPLATE} if "/" in str(template) else {})
    return {path: name for path, name in names.items() if path.strip("/")}


def _strings(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]
