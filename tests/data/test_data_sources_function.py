"""Rows from Python functions, which run only where the recipe allows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hfkit.data.ledger import Ledger
from hfkit.data.sources import check_source, identify_source, read_source
from hfkit.data.sources.function import function_name
from hfkit.errors import RequestError
from hfkit.recipe import CallableSource

CODE = """
from pathlib import Path

Path("imported").touch()

def chats(count=2, word="x"):
    for number in range(count):
        yield {"text": f"{word}{number}", "tags": ("a", "b")}

def as_list():
    return [{"n": 1}, {"n": 2}]

class Chats:
    def __iter__(self):
        return iter([{"n": 3}])
"""


@pytest.fixture
def chat_source(workplace: Path) -> Iterator[Path]:
    """The module `own.chat_source` in the working directory, forgotten again after the test."""
    (workplace / "own").mkdir()
    (workplace / "own/__init__.py").touch()
    path = workplace / "own/chat_source.py"
    path.write_text(CODE, encoding="utf-8")
    yield path
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        del sys.modules[name]


def read(name: str, **arguments: Any) -> list[tuple[str, dict[str, Any]]]:
    ledger = Ledger()
    batches = list(read_source(CallableSource(callable=name, arguments=arguments), ledger, allow_code=True))
    assert ledger.dropped == ()
    return [(place, dict(row)) for batch in batches for place, row in zip(batch.places, batch.rows, strict=True)]


def test_a_function_gives_rows(chat_source: Path) -> None:
    path = list(sys.path)
    name = function_name(CallableSource(callable="own.chat_source:chats", arguments={"word": "y"}))
    assert read("own.chat_source:chats", word="y") == [
        (f"{name}#0", {"text": "y0", "tags": ["a", "b"]}),
        (f"{name}#1", {"text": "y1", "tags": ["a", "b"]}),
    ]
    assert [row for _, row in read("own.chat_source:as_list")] == [{"n": 1}, {"n": 2}]
    assert [row for _, row in read("own.chat_source:Chats")] == [{"n": 3}]
    assert sys.path == path


def test_arguments_tell_one_calls_rows_from_anothers(chat_source: Path) -> None:
    def names(**arguments: Any) -> list[str]:
        return [place for place, _ in read("own.chat_source:chats", **arguments)]

    assert names() == ["own.chat_source:chats#0", "own.chat_source:chats#1"]
    assert len({*names(), *names(word="y"), *names(word="z")}) == 6
    assert names(word="y", count=2) == names(count=2, word="y") != names(word="y")


def test_rows_are_asked_for_as_they_are_needed(chat_source: Path) -> None:
    source = CallableSource(callable="own.chat_source:chats", arguments={"count": 10**12})
    batches = read_source(source, Ledger(), batch_rows=3, allow_code=True)
    assert [len(next(batches).rows) for _ in range(2)] == [3, 3]


def test_nothing_is_run_without_permission(chat_source: Path) -> None:
    source = CallableSource(callable="own.chat_source:chats")
    with pytest.raises(RequestError, match=r"own\.chat_source:chats: .*allow_code: true"):
        list(read_source(source, Ledger()))
    severity, text = check_source(source)
    assert severity == "error" and "allow_code: true" in text
    assert not Path("imported").exists()


def test_checking_and_identifying_run_nothing(chat_source: Path) -> None:
    source = CallableSource(callable="own.chat_source:chats")
    before = identify_source(source)
    assert identify_source(source) == before
    assert check_source(source, allow_code=True)[0] == "ok"
    assert not Path("imported").exists() and "own" not in sys.modules
    chat_source.write_text(CODE + "\n", encoding="utf-8")
    assert identify_source(source) != before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own.chat_source:missing", "has nothing named missing"),
        ("own.missing:chats", "there is no module own.missing"),
        ("missing:chats", "there is no module missing"),
        ("own.chat_source.deeper:chats", "there is no module own.chat_source.deeper"),
    ],
)
def test_what_is_missing_is_found_by_check(chat_source: Path, name: str, said: str) -> None:
    severity, text = check_source(CallableSource(callable=name), allow_code=True)
    assert severity == "error" and said in text


def test_a_module_that_is_no_python_is_found_by_check(chat_source: Path) -> None:
    chat_source.write_text("def chats(:\n", encoding="utf-8")
    severity, text = check_source(CallableSource(callable="own.chat_source:chats"), allow_code=True)
    assert severity == "error" and "chat_source.py:1" in text


LOUD = """
import os
import subprocess
import sys
from sys import stdout as kept

def speak(what):
    print("printed", what)
    kept.write(f"kept {what}\\n")
    os.write(1, f"written {what}\\n".encode())
    subprocess.run([sys.executable, "-c", f"print('other program {what}')"])

speak("import")

def chats():
    speak("call")
    return Rows()

class Rows:
    def __iter__(self):
        speak("row")
        yield {"n": 1}
"""


def test_what_a_function_prints_is_kept_out_of_standard_output(
    chat_source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chat_source.write_text(LOUD, encoding="utf-8")
    print("before")
    assert read("own.chat_source:chats") == [("own.chat_source:chats#0", {"n": 1})]
    print("after")
    said = capfd.readouterr()
    assert said.out == "before\nafter\n"
    for how in ("printed", "kept", "written", "other program"):
        for what in ("import", "call", "row"):
            assert f"{how} {what}\n" in said.err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def chats():\n    raise GeneratorExit('out')", "chats: GeneratorExit: out, when it was called"),
        ("def chats():\n    yield {'n': 1}\n    raise GeneratorExit", "chats#1: GeneratorExit: without a word, before"),
        ("class Odd(BaseException): pass\ndef chats():\n    yield {}\n    raise Odd('x')", "chats#1: Odd: x, before"),
        ("def chats():\n    yield {'n': 1}\n    raise SystemExit(0)", "chats#1: SystemExit: 0, before"),
        ("raise GeneratorExit", "chats: GeneratorExit: without a word, when the module own.chat_source was imported"),
        ("class chats:\n    def __iter__(self): raise ValueError('no')", "chats: ValueError: no, when its rows were"),
    ],
)
def test_whatever_a_function_raises_is_one_sentence(chat_source: Path, code: str, said: str) -> None:
    chat_source.write_text(code + "\n", encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        read("own.chat_source:chats")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_users_interruption_is_not_the_functions(chat_source: Path) -> None:
    chat_source.write_text("def chats():\n    yield {'n': 1}\n    raise KeyboardInterrupt\n", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        read("own.chat_source:chats")


@pytest.mark.parametrize("body", ["yield {'n': 1}", "return [{'n': 1}]"])
@pytest.mark.filterwarnings("error")
def test_an_asynchronous_function_is_said_to_be_one(chat_source: Path, body: str) -> None:
    chat_source.write_text(f"async def chats():\n    {body}\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"own\.chat_source:chats: is asynchronous"):
        read("own.chat_source:chats")
    severity, text = check_source(CallableSource(callable="own.chat_source:chats"), allow_code=True)
    assert severity == "error" and "is asynchronous" in text


def test_a_database_in_a_variable_without_a_name_is_refused() -> None:
    pytest.importorskip("sqlalchemy")
    from hfkit.data.sources.database import Database

    with pytest.raises(RequestError, match=r"^url: env: names no environment variable; write env:NAME"):
        Database("env:")
