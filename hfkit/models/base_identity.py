"""Which base model an adapter was trained on: one of the same shape would load without a word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BASE = "base.json"

# Of each weight file the header, which names every tensor with its shape, and so much from its start and its end.
_SAMPLED_BYTES = 1 << 16


def write_base(config: PreTrainedConfig, adapter: Path) -> None:
    """Say in the folder `adapter` which base it is for. `config` is that of the base, as it was loaded."""
    weights = base_fingerprint(config)
    if weights is None:
        return
    # The name of a folder says nothing to others, that of a Hub model does, and so does its commit.
    commit = _commit(config)
    base = {"weights": weights} | ({} if commit is None else {"hub": config.name_or_path, "revision": commit})
    (adapter / BASE).write_text(json.dumps(base) + "\n", encoding="utf-8")


def require_same_base(config: PreTrainedConfig, adapter: Path) -> None:
    """Raises RequestError where `adapter` says that it was trained on another base than that of `config`.

    An adapter from elsewhere says nothing; whether it fits in shape shows when it is loaded.
    """
    require_unmoved_base(config, adapter)
    written = _written(adapter)
    found = base_fingerprint(config)
    if written is not None and found is not None and written["weights"] != found:
        raise RequestError(
            f"{adapter}: the adapter was trained on another base model than {config.name_or_path} (the weights of the "
            f"two differ); name that base in model.base, or remove {BASE} there if you are sure that they are the same"
        )


def require_unmoved_base(config: PreTrainedConfig, adapter: Path) -> None:
    """Raises RequestError where the base of `config` is the Hub's model that `adapter` was trained on, at a commit that
    has other weights."""
    written = _written(adapter)
    if written is None or written.get("hub") != config.name_or_path or written.get("revision") == _commit(config):
        return
    found = base_fingerprint(config)
    if found is not None and written["weights"] != found:
        revision = written.get("revision")
        raise RequestError(
            f"{adapter}: the adapter was trained on the commit {revision} of {config.name_or_path}, which moved on to "
            f"{_commit(config)} with other weights; set model.revision={revision}, or train anew"
        )


def _commit(config: PreTrainedConfig) -> str | None:
    """At which commit of the Hub the base was loaded, as `load_weights` writes it down; None for a folder."""
    commit: str | None = vars(config).get("_commit_hash")
    return commit


def _written(adapter: Path) -> dict[str, str] | None:
    """What `write_base` left; None where an adapter says nothing."""
    path = adapter / BASE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    if not isinstance(written, dict) or not isinstance(written.get("weights"), str):
        raise RequestError(f"{path} cannot be read: it does not say which weights the adapter is for")
    return written


def base_fingerprint(config: PreTrainedConfig) -> str | None:
    """A hash that tells apart weights of one shape, read from 128 KiB of each file; None where there are no files."""
    name = config.name_or_path
    if not name:
        return None
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json", revision=_commit(config))
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    return folder_fingerprint(folder)


def folder_fingerprint(folder: Path) -> str | None:
    """As `base_fingerprint`, of the weights in `folder`."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            header = file.read(8)
            digest.update(header + file.read(min(int.from_bytes(header, "little"), size) + _SAMPLED_BYTES))
            file.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(file.read())
    return digest.hexdigest()
