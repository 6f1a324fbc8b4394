"""Looks for what must not be published in what is about to be: tokens, keys, passwords."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import yaml

from hfkit.data.assigned_secrets import is_secret_setting
from hfkit.data.personal import Found, find_secrets
from hfkit.hub.files import DATABASE, PARQUET, TEXT, PlannedRepository
from hfkit.recipe.yaml_rules import RecipeLoader

_RECIPE = ".yaml"
_ROWS_AT_ONCE = 2000


def secrets_in(repositories: Sequence[PlannedRepository], token: str | None) -> list[str]:
    """Where something that looks like a secret, or the very `token` that publishes, stands; never the secret itself.
    In a recipe, keys count too: what is called a password is one, whatever it looks like.

    Each is told as `file:line: what`, in Parquet and SQLite files with the row's number in place of the line's. A file
    that goes to several repositories is read once.
    """
    found: list[str] = []
    seen: set[Path] = set()
    for repository in repositories:
        for file in repository.files:
            if file.source in seen:
                continue
            seen.add(file.source)
            is_recipe = file.source.suffix == _RECIPE
            for place, text in _texts(file.source):
                found += [f"{place(at)}: {what}" for at, what in _places(text, token, is_recipe=is_recipe)]
    return found


class _Place:
    """Says where in a file an offset is."""

    def __init__(self, path: Path, text: str, row: str | None) -> None:
        self.path, self.text, self.row = path, text, row

    def __call__(self, offset: int) -> str:
        line = self.text.count("\n", 0, offset) + 1
        return f"{self.path}:{line}" if self.row is None else f"{self.path}:{self.row}"


def _places(text: str, token: str | None, *, is_recipe: bool) -> Iterator[tuple[int, str]]:
    found = find_secrets(text)
    if is_recipe:
        found += [item for item in _settings(text) if not any(item.start < f.end and f.start < item.end for f in found)]
    for item in found:
        yield item.start, item.what
    if token and (at := text.find(token)) >= 0:
        yield at, "the token that publishes"


def _settings(text: str) -> Iterator[Found]:
    """The values in a recipe whose keys say that they are secrets."""
    try:
        document = yaml.compose(text, Loader=RecipeLoader)
    except yaml.YAMLError:
        return
    yield from _settings_below(document, "")


def _settings_below(node: yaml.Node | None, name: str) -> Iterator[Found]:
    """`name` is the key whose value, or one of whose values, `node` is."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _settings_below(value, key.value if isinstance(key, yaml.ScalarNode) else "")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _settings_below(item, name)
    elif isinstance(node, yaml.ScalarNode) and is_secret_setting(name, node.value):
        yield Found(node.start_mark.index, node.end_mark.index, f"a secret, as its key {name} says")


def _texts(path: Path) -> Iterator[tuple[_Place, str]]:
    if path.suffix in TEXT:
        text = path.read_text(encoding="utf-8")
        yield _Place(path, text, None), text
    elif path.suffix == PARQUET:
        for number, text in _parquet_texts(path):
            yield _Place(path, text, f"row {number}"), text
    elif path.suffix == DATABASE:
        for table, number, text in _database_texts(path):
            yield _Place(path, text, f"{table} row {number}"), text


def _parquet_texts(path: Path) -> Iterator[tuple[int, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    columns = [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]
    number = 0
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
        for row in batch.to_pylist():
            number += 1
            yield number, "\n".join(text for text in row.values() if text)


def _database_texts(path: Path) -> Iterator[tuple[str, int, str]]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        # The full text of a virtual table stands in another one already.
        named = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
        tables = [name for (name,) in database.execute(named)]
        for table in tables:
            quoted = '"' + table.replace('"', '""') + '"'
            for number, row in enumerate(database.execute(f"SELECT * FROM {quoted}"), start=1):
                text = "\n".join(value for value in row if isinstance(value, str))
                if text:
                    yield table, number, text
