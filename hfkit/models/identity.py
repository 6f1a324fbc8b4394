"""What a name in a recipe stands for now, so that a change of it is noticed. Loads nothing."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from hfkit.artifact import file_sha256, fingerprint_of
from hfkit.data.builtin_templates import BUILTIN, builtin_template
from hfkit.models.embedded import PREFIX, embedded_model

_HASH = re.compile(r"[0-9a-f]{40}")


def model_identity(reference: str, revision: str | None) -> str:
    """What `reference` stands for now. A folder is told by its files' names, sizes and times: weights are large. A
    model of the Hub is told by the commit that its revision stands for, where it is in the cache or can be fetched."""
    if reference.startswith(PREFIX):
        return f"{reference}@{embedded_model(reference).revision}"
    folder = Path(reference)
    if not folder.is_dir():
        return f"{reference}@{_commit(reference, revision) or revision}"
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return fingerprint_of({str(path.relative_to(folder)): [s.st_size, s.st_mtime_ns] for path, s in files})


@lru_cache(maxsize=256)
def _commit(reference: str, revision: str | None) -> str | None:
    """The commit of a Hub model; None where nobody here can say. Looked up once, so that a branch that moves while a
    stage runs does not seem to be another input than the one that was read at its start.

    The configuration is what a stage would fetch first. With it the cache points to the commit that is loaded next.
    """
    if revision is not None and _HASH.fullmatch(revision):
        return revision
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(reference, "config.json", revision=revision)).parent.name
    except (HfHubHTTPError, HFValidationError, OSError):
        return None


def template_identity(template: Path | None) -> str | None:
    """What a recipe's chat template says now."""
    if template is None:
        return None
    return builtin_template(str(template)) if str(template).startswith(BUILTIN) else file_sha256(template)
