"""The YAML that recipes are written in: version 1.2's core rules for what a plain word means.

PyYAML follows version 1.1, where `5e-4` is text, `on` is a boolean, `1:30` is ninety and `2026-01-01` is a date.
"""

import re

import yaml

TAG = "tag:yaml.org,2002:"
MAX_DEPTH = 100

# tag, what a plain word of that kind looks like, and the characters it can begin with (PyYAML looks these up first).
SCALARS: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    (TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ("~", "n", "N", "")),
    (TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), tuple("tTfF")),
    (TAG + "int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), tuple("-+0123456789")),
    (
        TAG + "float",
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        tuple("-+.0123456789"),
    ),
)
MERGE = (TAG + "merge", re.compile(r"^<<$"), ("<",))


class TooDeepError(yaml.MarkedYAMLError):
    """Values inside values inside values, further than any recipe needs."""


class RecipeLoader(yaml.SafeLoader):
    """Reads YAML to PyYAML's nodes, with version 1.2's meanings and a limit on depth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooDeepError(problem_mark=None if parent is None else parent.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class RecipeDumper(yaml.SafeDumper):
    """Writes YAML that both versions read alike: what either would take for something else than text is quoted."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: RecipeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML would write U+0085 and its kin as line breaks, and read them back as "\n".
    style = None if text.replace("\n", "").isprintable() else '"'
    return dumper.represent_scalar(TAG + "str", text, style=style)


RecipeDumper.add_representer(str, _text)
# A table of its own, and empty: version 1.1's meanings stay with SafeLoader.
RecipeLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (*SCALARS, MERGE):
    RecipeLoader.add_implicit_resolver(_tag, _pattern, list(_first))
    RecipeDumper.add_implicit_resolver(_tag, _pattern, list(_first))
