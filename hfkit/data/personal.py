"""E-mail addresses and obvious secrets in text: where they stand, and the text without them.

The patterns are narrow on purpose. They look for forms that hardly anything else has, such as the prefix of a token,
and for values that are assigned to a name like password and look random. A secret told in plain words is not found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hfkit.data.assigned_secrets import find_assigned, is_placeholder

EMAIL_MARK = "[e-mail]"
SECRET_MARK = "[secret]"


@dataclass(frozen=True, slots=True)
class Found:
    """Something at [start, end) of a text, and what it is."""

    start: int
    end: int
    what: str


_LOCAL = re.compile(r"(?<!\w)\w[\w.+%'-]{0,63}$")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
# RFC 2606 and RFC 6761 keep these free of anybody's address, for documents to use.
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)$", re.IGNORECASE)
_FILE_ENDINGS = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "json", "yaml", "yml", "xml", "md"})


def find_emails(text: str) -> list[Found]:
    """The e-mail addresses in `text`, in order. Addresses of the domains reserved for examples are nobody's."""
    found: list[Found] = []
    at = text.find("@")
    while at != -1:
        # Each side is looked at within the longest that an address may have, so that no text takes long, and not within
        # the address before: what stands behind it would show as an address once that one is taken out.
        begin = max(0, at - 65, found[-1].end if found else 0)
        local = _LOCAL.search(text, begin, at)
        domain = _DOMAIN.match(text, at + 1, min(len(text), at + 256))
        if local and domain and _is_address(text, local, domain):
            found.append(Found(local.start(), domain.end(), "an e-mail address"))
        at = text.find("@", at + 1)
    return found


def _is_address(text: str, local: re.Match[str], domain: re.Match[str]) -> bool:
    name = domain.group()
    if _RESERVED.search(name) or name.rpartition(".")[2].lower() in _FILE_ENDINGS:
        return False
    # git@host:path is how repositories are named, and user:password@host belongs to a URL.
    if local.group() == "git":
        return False
    before = text[max(0, local.start() - 100) : local.start()]
    return re.search(r"://[^\s/@]*$", before) is None


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A form that a secret has.

    Attributes:
        hints: a text with none of these need not be searched.
        group: what is secret in a match.
        mixed: whether it must hold capitals, small letters and digits.
    """

    what: str
    hints: tuple[str, ...]
    expression: re.Pattern[str]
    group: int = 0
    mixed: bool = False


_KEY_BEGINS = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_ENDS = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINE = re.compile(r"[A-Za-z0-9+/]{40}")
_KEY_REST = re.compile(r"(?:(?:\s|\\[nr])*(?:[A-Za-z0-9+/]{16,}={0,2}|[A-Za-z0-9+/]+={1,2}))*")
_LONGEST_KEY = 20_000

_PATTERNS = (
    _Pattern("an AWS key", ("AKIA", "ASIA"), re.compile(r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b")),
    _Pattern(
        "a GitHub token",
        ("gh", "github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{36,251})\b"),
    ),
    _Pattern("a GitLab token", ("glpat-",), re.compile(r"\bglpat-[\w-]{20,60}"), mixed=True),
    _Pattern(
        "a Hugging Face token", ("hf_", "api_org_"), re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{34}\b"), mixed=True
    ),
    _Pattern("an API key", ("sk-",), re.compile(r"\bsk-(?:[a-z0-9]{2,10}-){0,2}[\w-]{32,}"), mixed=True),
    _Pattern(
        "a Slack token",
        ("xox",),
        re.compile(r"\bxox[abeoprs]-(?:[A-Za-z0-9]{1,80}-){1,6}[A-Za-z0-9]{10,80}\b"),
    ),
    _Pattern(
        "a Slack webhook",
        ("hooks.slack.com",),
        re.compile(r"hooks\.slack\.com/services/(T\w{6,14}/B\w{6,14}/\w{16,32})"),
        group=1,
    ),
    _Pattern("a Google API key", ("AIza",), re.compile(r"\bAIza[\w-]{35}(?![\w-])")),
    _Pattern("a Stripe key", ("k_live_", "k_test_"), re.compile(r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,120}\b")),
    _Pattern("an npm token", ("npm_",), re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"), mixed=True),
    _Pattern("a JSON web token", ("eyJ",), re.compile(r"\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{16,1000}")),
    _Pattern(
        "a password in a URL",
        ("://",),
        re.compile(r"://[^\s/:@'\"<>\[\]]{1,64}:([^\s/:@'\"<>\[\]{}$]{4,128})@[\w.-]"),
        group=1,
    ),
)


def find_secrets(text: str) -> list[Found]:
    """What looks like a password, token or private key in `text`, in order and apart from each other."""
    found = _private_keys(text)
    for pattern in _PATTERNS:
        if not any(hint in text for hint in pattern.hints):
            continue
        for match in pattern.expression.finditer(text):
            value = match.group(pattern.group)
            if pattern.mixed and not _is_mixed(value):
                continue
            if pattern.what == "a password in a URL" and (is_placeholder(value) or value in ("pass", "user")):
                continue
            if not value.endswith("EXAMPLE"):
                found.append(Found(*match.span(pattern.group), pattern.what))
    found += [Found(start, end, "a password or key in an assignment") for start, end in find_assigned(text)]
    return _apart(found)


def _private_keys(text: str) -> list[Found]:
    """Blocks from their first line to their last. A first line without a key below it is somebody writing of keys."""
    found: list[Found] = []
    for begin in _KEY_BEGINS.finditer(text):
        start, body = begin.span()
        if (found and start < found[-1].end) or not _KEY_LINE.search(text, body, body + 400):
            continue
        last = _KEY_ENDS.search(text, body, body + _LONGEST_KEY)
        rest = last if last is not None else _KEY_REST.match(text, body)
        found.append(Found(start, body if rest is None else rest.end(), "a private key"))
    return found


def _is_mixed(value: str) -> bool:
    return bool(re.search(r"[0-9]", value) and re.search(r"[a-z]", value) and re.search(r"[A-Z]", value))


def _apart(found: list[Found]) -> list[Found]:
    kept: list[Found] = []
    for item in sorted(found, key=lambda item: (item.start, -item.end)):
        if not kept or item.start >= kept[-1].end:
            kept.append(item)
    return kept


def without_emails(text: str) -> str:
    """`text` with EMAIL_MARK for every e-mail address."""
    # What stands behind an address may be one itself once that is out of the way; each mark takes an @ with it.
    while found := find_emails(text):
        text = _marked(text, found, EMAIL_MARK)
    return text


def without_secrets(text: str) -> str:
    """`text` with SECRET_MARK for every secret."""
    # A mark holds brackets, which no pattern takes in: what is left over grows shorter each time.
    while found := find_secrets(text):
        text = _marked(text, found, SECRET_MARK)
    return text


def _marked(text: str, found: list[Found], mark: str) -> str:
    pieces, done = [], 0
    for item in found:
        pieces += [text[done : item.start], mark]
        done = item.end
    return "".join([*pieces, text[done:]])
