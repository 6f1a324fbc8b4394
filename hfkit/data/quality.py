"""Looks at one example at a time: empty and misplaced turns, broken characters, addresses and secrets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import (
    Example,
    LabelledText,
    PlainText,
    Preference,
    RatedReply,
    RetrievalExample,
    TextPair,
)
from hfkit.data.personal import Found, find_emails, find_secrets, without_emails, without_secrets
from hfkit.data.texts import every_text, with_texts
from hfkit.recipe.data import QualitySection

# What no text that was decoded rightly holds: control characters beside tab and line ends, halves of surrogate pairs,
# U+FFFD (put where bytes could not be decoded), and the code points that Unicode keeps free for good.
_BROKEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffd-\uffff"
    + "".join(chr(plane + last) for plane in range(0x10000, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF))
    + "]+"
)

# The same where there is nothing but ASCII, as in most texts; it is several times as fast.
_BROKEN_ASCII = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")

EMPTY = "an empty turn or text"
ORDER = "turns in the wrong order"
UNICODE = "invalid Unicode"
EMAIL = "an e-mail address"
SECRET = "a secret"


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of one example.

    Attributes:
        example: the example, perhaps with texts replaced; None where it is dropped.
        dropped: (reason, detail) of the first fault that drops it; a row counts once.
        noted: (reason, detail) of all that was changed in a row that stays.
    """

    example: Example | None
    dropped: tuple[tuple[str, str], ...] = ()
    noted: tuple[tuple[str, str], ...] = ()


def examine(example: Example, settings: QualitySection) -> Examined:
    """Put one example through the gates of `settings` that need no other row.

    Texts are mended first, where the settings say so, and looked at then: what is left of a turn may be nothing.
    """
    noted: list[tuple[str, str]] = []
    texts = (*every_text(example), *_of_the_row(example))
    broken = next((match for text in texts if (match := _first_broken(text))), None)
    if broken is not None:
        detail = f"U+{ord(broken.group()[0]):04X} in {_around(broken)}"
        if settings.invalid_unicode == "drop":
            return Examined(None, dropped=((UNICODE, detail),))
        example = _without_broken(example)
        noted.append((f"{UNICODE}, replaced by a space", detail))
    # Secrets first: a password in a URL reads like the beginning of an address.
    if settings.secrets != "keep":
        secret = _first_found(example, find_secrets)
        if secret is not None:
            if settings.secrets == "drop":
                return Examined(None, dropped=((SECRET, secret),))
            example = with_texts(example, without_secrets)
            noted.append((f"{SECRET}, redacted", secret))
    if settings.emails != "keep":
        email = _first_found(example, find_emails)
        if email is not None:
            if settings.emails == "drop":
                return Examined(None, dropped=((EMAIL, email),))
            example = with_texts(example, without_emails)
            noted.append((f"{EMAIL}, redacted", email))
    hidden = _with_hidden_group(example, settings)
    if hidden is not None:
        example = hidden
        noted.append(("a group with an e-mail address or a secret in its name, which is kept as a hash", ""))
    shorter = _without_empty_system(example)
    if shorter is not None:
        example = shorter
        noted.append(("an empty system prompt, left out", ""))
    fault = _fault(example)
    if fault is not None:
        return Examined(None, dropped=(fault,))
    return Examined(example, noted=tuple(noted))


def _of_the_row(example: Example) -> Iterator[str]:
    """The texts that a model never sees, and that have to be written to files all the same."""
    yield example.document
    for key, value in example.metadata.items():
        yield key
        if isinstance(value, str):
            yield value


def _without_broken(example: Example) -> Example:
    kept = {
        _mended(key): _mended(value) if isinstance(value, str) else value for key, value in example.metadata.items()
    }
    mended = with_texts(example, _mended)
    return mended.model_copy(update={"document": _mended(example.document), "metadata": kept})


def _first_broken(text: str) -> re.Match[str] | None:
    return (_BROKEN_ASCII if text.isascii() else _BROKEN).search(text)


def _mended(text: str) -> str:
    return _BROKEN.sub(" ", text)


def _around(match: re.Match[str]) -> str:
    """Some characters to either side of what was found, in a form that any terminal can show."""
    text = match.string
    return ascii(text[max(0, match.start() - 15) : match.end() + 15])


def _first_found(example: Example, find: Callable[[str], list[Found]]) -> str | None:
    """What was found first. It is never shown: a report that quotes a secret tells it."""
    found = [item for text in every_text(example) for item in find(text)]
    if not found:
        return None
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0].what}{more}"


def _with_hidden_group(example: Example, settings: QualitySection) -> Example | None:
    """The example with a hash for its group's name where that holds what the gates look for; None where it does not.

    The name is written to files and published, and all that a group needs is to differ from others.
    """
    gates = ((settings.secrets, find_secrets), (settings.emails, find_emails))
    if example.document == example.id or not any(gate != "keep" and find(example.document) for gate, find in gates):
        return None
    digest = hashlib.blake2b(example.document.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return example.model_copy(update={"document": f"group:{digest}"})


def _without_empty_system(example: Example) -> Example | None:
    """The example without the system prompt that says nothing; None where it has no such."""
    match example:
        case Conversation():
            field, turns = "messages", example.messages
        case Preference() | RatedReply():
            field, turns = "prompt", example.prompt
        case _:
            return None
    if len(turns) < 2 or turns[0].role not in ("system", "developer") or turns[0].content.strip():
        return None
    return example.model_copy(update={field: turns[1:]})


def _fault(example: Example) -> tuple[str, str] | None:
    """Why the example cannot be used as it stands."""
    match example:
        case Conversation():
            return _turn_fault(example.messages)
        case Preference():
            chosen = _turn_fault((*example.prompt, *example.chosen))
            return chosen or _turn_fault((*example.prompt, *example.rejected))
        case RatedReply():
            return _turn_fault((*example.prompt, *example.completion))
        case PlainText():
            texts: dict[str, str | None] = {"text": example.text}
        case LabelledText():
            texts = {"text": example.text, "second_text": example.second_text}
        case TextPair():
            texts = {"first": example.first, "second": example.second}
        case RetrievalExample():
            texts = {"query": example.query}
            texts |= {f"positives.{number}": text for number, text in enumerate(example.positives)}
            texts |= {f"negatives.{number}": text for number, text in enumerate(example.negatives)}
    empty = next((name for name, text in texts.items() if text is not None and not text.strip()), None)
    return None if empty is None else (EMPTY, f"{empty} is empty")


def _turn_fault(turns: Sequence[Turn]) -> tuple[str, str] | None:
    for number, turn in enumerate(turns):
        # A tool may well answer nothing, as a command that prints nothing does.
        if not turn.content.strip() and not turn.tool_calls and turn.role != "tool":
            return EMPTY, f"messages.{number}, the {turn.role}'s, is empty"
    before: Turn | None = None
    for number, turn in enumerate(turns):
        if not _may_follow(turn, before):
            after = "at the beginning" if before is None else f"after the {before.role}'s"
            return ORDER, f"messages.{number}: the {turn.role}'s turn {after}"
        before = turn
    return None


def _may_follow(turn: Turn, before: Turn | None) -> bool:
    """Whether `turn` may stand after `before`, by what chat templates can show without changing it."""
    last = None if before is None else before.role
    if turn.role in ("system", "developer"):
        return last in (None, "system", "developer")
    if turn.role == "user":
        return last in (None, "system", "developer") or (
            last == "assistant" and before is not None and not before.tool_calls
        )
    if turn.role == "assistant":
        return last in ("user", "tool")
    return last in ("assistant", "tool")
