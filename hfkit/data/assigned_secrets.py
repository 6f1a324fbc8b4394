"""Values that are secrets by the name they are given: in code, configuration and prose, and in a recipe's keys."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

# One of these stands in the name of all that is assigned below.
_HINTS = ("pass", "pwd", "secret", "token", "key", "credential", "bearer")
_PASSWORDS = r"password|passwd|passphrase|pwd|secret"
_NAME = rf"(?:{_PASSWORDS}|token|credentials?|(?:api|access|auth|private|secret)[ _-]?key)"
# In JSON that stands in JSON, quotes have backslashes before them.
_QUOTE = r"\\{0,3}['\"`]"
_IN_QUOTES = rf"\s{{0,4}}{_QUOTE}([^\s'\"`<>\[\]{{}}()$]{{9,199}}[^\s'\"`<>\[\]{{}}()$\\]){_QUOTE}"
# As YAML, INI files and notes have it. What ends in a bracket, or has one in it, is code.
_BARE = (
    r"[ \t]{0,4}([a-z0-9+/_.~!@#%^*-][a-z0-9+/=_.~!@#%^*-]{10,198}[a-z0-9+/=_])"
    r"(?=[.!?]{0,3}(?:$|[\s,;&)}\]'\"`\\<|]))"
)
_ASSIGNED = re.compile(
    rf"{_NAME}(?:{_QUOTE})?\s{{0,4}}(?::=|=>|[:=])(?:{_IN_QUOTES}|{_BARE})",
    re.IGNORECASE,
)
# As .env files and shells write it, at the beginning of a line.
_EXPORTED = re.compile(
    r"^[ \t]{0,8}(?:export |set )?[A-Z][A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|SECRET|TOKEN|KEY)[ ]?=[ ]?"
    r"([^\s'\"<>\[\]{}()$_]{12,200})[ \t]*$",
    re.MULTILINE,
)
_BEARER = re.compile(r"\bBearer[ ]+([\w.~+/-]{20,}=*)")

_PLACEHOLDER = re.compile(
    r"example|sample|dummy|placeholder|your|changeme|change_me|replace|insert|xxxx|\*\*\*|\.\.\.|0?1234[5-9]*0?|"
    r"abcde?f?|a1b2c3(?:d4)?(?:e5)?(?:f6)?|test|password|passwd|secret|token|apikey|api_key|api-key|env\.|environ",
    re.IGNORECASE,
)
# From small letters to others, from capitals to digits, from digits to letters; not from a capital to small letters,
# which is how words begin.
_TURN = re.compile(r"(?<=[a-z])[A-Z0-9]|(?<=[A-Z])[0-9]|(?<=[0-9])[A-Za-z]")
_FEWEST_TURNS = 4
_SHORTEST_REST = 10

# How a recipe's keys for secrets are called, and values of them that only say where the secret is to be found.
_SETTING = re.compile(rf"{_NAME}$", re.IGNORECASE)
_PASSWORD_SETTING = re.compile(rf"(?:{_PASSWORDS})$", re.IGNORECASE)
_ELSEWHERE = re.compile(r"env:|\$|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$|.*?[<\[{].*[>\]}]", re.DOTALL)
_SHORTEST_PASSWORD = 6
_SHORTEST_KEY = 10


def find_assigned(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the values in `text` that are given to a name such as password and look like no word, in no
    order; they may overlap."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return
    for match in _ASSIGNED.finditer(text):
        group = 1 if match[1] is not None else 2
        # What has no quotes around it is mostly a word or a variable, so more is asked of it.
        if _looks_random(match[group], 3.0) and (group == 1 or _is_jumbled(match[group])):
            yield match.span(group)
    for expression in (_EXPORTED, _BEARER):
        for match in expression.finditer(text):
            if _looks_random(match[1], 3.5):
                yield match.span(1)


def is_secret_setting(name: str, value: str) -> bool:
    """Whether a recipe's key of this name holds a secret. The key says what it is, so no more is asked of a password
    than that it is no placeholder and does not name the place where the password is."""
    if _SETTING.search(name) is None or _ELSEWHERE.match(value) or _is_path(value):
        return False
    if _PASSWORD_SETTING.search(name):
        return _letters(_PLACEHOLDER.sub(" ", value)) >= _SHORTEST_PASSWORD
    return len(value) >= _SHORTEST_KEY and not re.search(r"\s", value) and _looks_random(value, 3.0)


def is_placeholder(value: str) -> bool:
    """Whether `value` stands where a secret would: it holds a word that says so, and beside such words nothing that
    looks like a secret."""
    rest = _PLACEHOLDER.sub(" ", value)
    if rest == value:
        return False
    # What is cut off is no secret; the key in AWS's own documents is as random as a true one but for this word.
    marked = any(mark in value for mark in ("EXAMPLE", "...", "***"))
    return marked or _letters(rest) < _SHORTEST_REST or not _is_jumbled(rest)


def _is_jumbled(value: str) -> bool:
    """Whether letters, capitals and digits take turns as they do in no word, no identifier and no date."""
    turns = len(_TURN.findall(value))
    return turns >= _FEWEST_TURNS and turns * 5 >= _letters(value)


def _letters(value: str) -> int:
    """How many letters and digits there are."""
    return sum(map(str.isalnum, value))


def _looks_random(value: str, bits: float) -> bool:
    """Whether `value` is no word, no path and no placeholder: letters and digits in an order that says little."""
    if not (re.search(r"[0-9]", value) and re.search(r"[A-Za-z]", value)) or is_placeholder(value):
        return False
    # Paths, addresses and dotted names are long and varied without being secret.
    if _is_path(value) or re.fullmatch(r"[A-Za-z_]\w*(?:\.\w+)+", value):
        return False
    if re.fullmatch(r"[a-z]+(?:[-_.][a-z]+)*[-_.]?[0-9]{1,4}", value):
        return False
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return entropy >= bits


def _is_path(value: str) -> bool:
    return "://" in value or value.startswith(("/", "./", "../", "~"))
