"""At which commit of its base model an adapter was trained, so that a base that moves on does not break it."""

from __future__ import annotations

import json
from pathlib import Path

from hfkit.errors import hub_network_error
from hfkit.hub.facts import RunFacts, hub_id
from hfkit.models.base_identity import BASE, folder_fingerprint
from hfkit.models.embedded import PREFIX
from hfkit.recipe.model import FULL_COMMIT


def trained_revision(facts: RunFacts) -> str | None:
    """The revision that the adapter names: the commit that training wrote down, or else the recipe's, or else the
    cached commit of the base whose weights are those that training wrote down. None where nobody knows: the base is no
    model of the Hub, or no longer in the cache."""
    base = facts.model.base
    if base.startswith(PREFIX) or hub_id(base) is None:
        return facts.model.revision
    try:
        written = json.loads((facts.trained_folder / BASE).read_text(encoding="utf-8"))
        weights = written["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return facts.model.revision
    if written.get("hub") == base and isinstance(written.get("revision"), str):
        return str(written["revision"])
    if facts.model.revision is not None:
        return facts.model.revision
    snapshots = sorted(path for path in _snapshots(base).glob("*") if path.is_dir())
    return next((path.name for path in snapshots if folder_fingerprint(path) == weights), None)


def _snapshots(id: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=id, repo_type="model") / "snapshots"


def moved_since(facts: RunFacts, revision: str | None) -> str | None:
    """A sentence where the base model has a newer commit on the Hub than the adapter was trained on; None where it has
    not, or the Hub does not say."""
    base = facts.model.base
    followed = facts.model.revision
    if revision is None or (followed is not None and FULL_COMMIT.fullmatch(followed)):
        return None
    newest = newest_commit(base, followed)
    if newest is None or newest == revision:
        return None
    return (
        f"model.base: {base} moved on to {newest[:10]} since the adapter was trained on {revision[:10]}; the "
        f"adapter names that revision, and loads with it. Set model.revision={revision} to keep to it, or train anew"
    )


def newest_commit(id: str, revision: str | None = None) -> str | None:
    """Of the model's branch or tag `revision` on the Hub, or of its default branch; None where the Hub does not say."""
    from huggingface_hub import HfApi

    network = hub_network_error()
    try:
        return HfApi().model_info(id, revision=revision).sha
    except (network, ConnectionError):
        return None
