"""JSONL files of conversations, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.data.sources import read_conversations
from hfkit.errors import RequestError

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
GOOD_BYTES = GOOD.encode()


def row(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


# Name, the file's bytes, the line at fault, what the message must say of it.
BROKEN_LINES = [
    ("not JSON", b"hello\n", 1, "JSON"),
    ("cut off", GOOD_BYTES + b"\n" + GOOD_BYTES[:-5], 2, "JSON"),
    ("two objects on a line", GOOD_BYTES + GOOD_BYTES, 1, "JSON"),
    ("a trailing comma", GOOD_BYTES + b"\n" + GOOD_BYTES + b",", 2, "JSON"),
    ("a JSON array of rows", b"[" + GOOD_BYTES + b"]", 1, "object"),
    ("a pretty-printed object", json.dumps(json.loads(GOOD), indent=2).encode(), 1, "JSON"),
    ("a number", b"\n\n42\n", 3, "object"),
    ("null", b"null", 1, "object"),
    ("a string", b'"hello"', 1, "object"),
    ("no messages", b'{"conversation": []}', 1, "messages: Field required"),
    ("messages is null", b'{"messages": null}', 1, "messages"),
    ("messages is text", b'{"messages": "hi"}', 1, "messages"),
    ("messages is an object", b'{"messages": {"role": "user", "content": "x"}}', 1, "messages"),
    ("messages is empty", b'{"messages": []}', 1, "messages"),
    ("a message is null", b'{"messages": [null]}', 1, "messages.0"),
    ("a message is text", b'{"messages": ["hi"]}', 1, "messages.0"),
    ("no role", b'{"messages": [{"content": "x"}]}', 1, "messages.0.role: Field required"),
    ("no content", b'{"messages": [{"role": "user"}]}', 1, "messages.0.content: Field required"),
    ("an unknown role", row(("user", "a"), ("robot", "b")).encode(), 1, "messages.1.role"),
    ("ShareGPT's role", b'{"messages": [{"from": "human", "value": "x"}]}', 1, "messages.0.role"),
    ("role is null", b'{"messages": [{"role": null, "content": "x"}]}', 1, "messages.0.role"),
    ("content is null", b'{"messages": [{"role": "assistant", "content": null}]}', 1, "messages.0.content"),
    ("content is a number", b'{"messages": [{"role": "assistant", "content": 5}]}', 1, "messages.0.content"),
    ("content is empty", row(("user", "a"), ("assistant", "")).encode(), 1, "messages.1.content"),
    (
        "content is a list of parts",
        b'{"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}]}',
        1,
        "messages.0.content",
    ),
    (
        "a message has a key too many",
        b'{"messages": [{"role": "assistant", "content": "x", "weight": 1}]}',
        1,
        "messages.0.weight",
    ),
    ("the last is the user's", row(("assistant", "a"), ("user", "b")).encode(), 1, "last"),
    ("the last is the system's", row(("user", "a"), ("assistant", "b"), ("system", "c")).encode(), 1, "last"),
    ("a lone surrogate", b'{"messages": [{"role": "assistant", "content": "\\ud800"}]}', 1, "JSON"),
    ("nested too deep", b"[" * 5000, 1, "JSON"),
    ("bytes that are no UTF-8", GOOD_BYTES + b'\n{"messages": [{"role": "user", "content": "\xff"}]}\n', 2, "UTF-8"),
    ("UTF-16", GOOD.encode("utf-16"), 1, "UTF-8"),
    ("a broken line after a BOM and blank lines", b"\xef\xbb\xbf\n  \n" + GOOD_BYTES + b"\nx", 4, "JSON"),
    ("a broken line with Windows line ends", GOOD_BYTES + b"\r\n\r\nx\r\n", 3, "JSON"),
]


@pytest.mark.parametrize(
    ("content", "line", "said"), [case[1:] for case in BROKEN_LINES], ids=[c[0] for c in BROKEN_LINES]
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, line: int, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_conversations(path)
    assert f"{path}:{line}: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b" \t\r\n\n", b"\xef\xbb\xbf"], ids=["empty", "blank", "spaces", "BOM"]
)
def test_a_file_without_conversations_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"rows\.jsonl: holds no conversations"):
        read_conversations(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl", tmp_path / "rows.jsonl" / "x"):
        (tmp_path / "rows.jsonl").write_bytes(GOOD_BYTES)
        with pytest.raises(RequestError) as caught:
            read_conversations(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_many_broken_lines_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(["x", GOOD] * 13), encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        read_conversations(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == [f"{path}:{number}" for number in range(1, 20, 2)]
    assert lines[-1] == "(and 3 more such lines)"


def test_what_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    other = json.dumps({"id": 3, "messages": json.loads(GOOD)["messages"], "score": None})
    raw = '{"messages": [{"role": "assistant", "content": "a\u2028b"}]}'
    text = f"\ufeff{GOOD}\r\n\n   \n{other}\n{raw}"
    path.write_bytes(text.encode("utf-8"))
    read = read_conversations(path)
    assert [conversation.id for conversation in read] == [f"{path}:{line}" for line in (1, 4, 5)]
    assert [conversation.document for conversation in read] == [conversation.id for conversation in read]
    assert [turn.content for turn in read[2].messages] == ["a\u2028b"]
    assert all(conversation.grounding is None for conversation in read)


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["system", "user", "assistant"]),
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            ),
            max_size=4,
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, written: list[list[tuple[str, str]]], escaped: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [[*turns, ("assistant", "end")] for turns in written]
    lines = [
        json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}, ensure_ascii=escaped) for turns in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    read = read_conversations(path)
    assert [[(turn.role, turn.content) for turn in conversation.messages] for conversation in read] == rows
