"""What tells the rows of one source from those of another that names its rows alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

_BYTES = 3


def short_hash(parts: Mapping[str, object]) -> str:
    """Six hex digits for what a source is: enough to tell the few sources of a recipe apart, and short enough to read.

    Whoever adds, takes out or moves another source does not change it.
    """
    said = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(said.encode(), digest_size=_BYTES).hexdigest()
