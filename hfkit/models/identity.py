"""What a name in a recipe stands for now, so that a change of it is noticed. Loads nothing."""

from __future__ import annotations

from pathlib import Path

from hfkit.artifact import file_sha256, fingerprint_of
from hfkit.data.builtin_templates import BUILTIN, builtin_template
from hfkit.models.embedded import PREFIX, embedded_model


def model_identity(reference: str, revision: str | None) -> str:
    """What `reference` stands for now. A folder is told by its files' names, sizes and times: weights are large."""
    if reference.startswith(PREFIX):
        return f"{reference}@{embedded_model(reference).revision}"
    folder = Path(reference)
    if not folder.is_dir():
        return f"{reference}@{revision}"
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return fingerprint_of({str(path.relative_to(folder)): [s.st_size, s.st_mtime_ns] for path, s in files})


def template_identity(template: Path | None) -> str | None:
    """What a recipe's chat template says now."""
    if template is None:
        return None
    return builtin_template(str(template)) if str(template).startswith(BUILTIN) else file_sha256(template)
