"""What comes from documents and file names never drives the terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.output import emit, harmless, one_line, say


@given(st.text())
def test_nothing_harmful_is_left(text: str) -> None:
    left = harmless(text)
    assert len(left) == len(text)
    assert all((ord(c) >= 32 and ord(c) != 127 and not 0x80 <= ord(c) <= 0x9F) or c in "\n\t" for c in left)
    assert not set(left) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert len(one_line(text).splitlines()) <= 1


def test_colours_are_kept_where_they_are_our_own_alone(capsys: pytest.CaptureFixture[str]) -> None:
    emit("\x1b[1mbold\x1b[0m \x1b[2J\x07", styled=True)
    assert capsys.readouterr().out == "\x1b[1mbold\x1b[0m \ufffd[2J\ufffd\n"
    emit("\x1b[8mhidden \u202egnp.exe")
    say("\x1b[31mred")
    out, err = capsys.readouterr()
    assert out == "\ufffd[8mhidden \ufffdgnp.exe\n" and err == "\ufffd[31mred\n"
