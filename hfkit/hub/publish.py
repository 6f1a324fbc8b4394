"""The publish stage: a finished run to the Hub, one commit a repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hfkit.artifact import Artifact
from hfkit.errors import WorkError
from hfkit.hub.access import require_token
from hfkit.hub.base_revision import moved_since, trained_revision
from hfkit.hub.facts import RunFacts, gather_facts
from hfkit.hub.failures import explained
from hfkit.hub.files import PlannedRepository, PublishResult
from hfkit.hub.plan import plan
from hfkit.hub.pushing import push, require_pushable
from hfkit.hub.secrets import secrets_in
from hfkit.hub.standing import standing, target_of
from hfkit.run import Run
from hfkit.stage import StageContext

_MOST_NAMED = 10


def publish(context: StageContext) -> PublishResult:
    """Push what the recipe's `hub` section names. What an interrupted publishing left is gone on from.

    Raises:
        RequestError: there is no token, it may not write there, or nobody could load what would be published.
        WorkError: a gate was not met, a file holds what looks like a secret, the repository has commits of somebody
            else, or the Hub fails.
    """
    from huggingface_hub import HfApi

    facts = gather_facts(context.recipe, context.upstream)
    refused = gates_refusal(facts)
    if refused is not None:
        raise WorkError(refused)
    token = require_token(f"model {facts.hub.repo}")
    planned = plan(facts, context.folder)
    refused = secrets_refusal(facts, secrets_in(planned, token))
    if refused is not None:
        raise WorkError(refused)
    moved = moved_since(facts, trained_revision(facts)) if facts.publishes_adapter else None
    if moved is not None:
        context.progress.say(f"  {moved}")
    api = HfApi(token=token, library_name="hfkit")
    require_pushable(api, planned, facts.hub, _memory(context), context.progress)
    published = []
    for repository in planned:
        done = push(api, repository, facts.hub, _message(facts, repository), _memory(context), context.progress)
        context.progress.say(f"  {'published' if done.new_commit else 'there already'}: {done.url}")
        published.append(done)
    return PublishResult(repositories=tuple(published))


def lost(context: StageContext, artifact: Artifact) -> str | None:
    """Why what was published is not on the Hub any more as `artifact` says, or is no longer the newest there; None
    where nothing happened to it.

    Raises:
        RequestError: there is no token, it may not read there, or the repository was made public.
        WorkError: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    section = context.recipe.hub
    assert section is not None
    api = HfApi(token=require_token(f"model {section.repo}"), library_name="hfkit")
    for published in PublishResult.model_validate(artifact.result).repositories:
        repository = PlannedRepository(published.kind, published.id, ())
        target = target_of(repository)
        with explained(target):
            there = standing(api, repository, section, _memory(context))
        if there is None:
            return f"{target} is not on the Hub any more"
        if not there.has_branch:
            return f"{target}: the branch {there.branch} is not there any more"
        if there.commit != published.commit:
            return f"{target}: {there.branch} moved on from {published.commit[:10]} to {there.commit[:10]}"
        if there.tag is not None and there.tagged != published.commit:
            return f"{target}: the tag {there.tag} is not on {published.commit[:10]} any more"
    return None


def gates_refusal(facts: RunFacts) -> str | None:
    """Why a run that missed a gate is not published; None where it may be."""
    failed = facts.failed_gates
    if not failed or "gates" in facts.hub.despite:
        return None
    named = "; ".join(gate.gate for gate in failed)
    return (
        f"{facts.recipe.name}: a gate was not met, so nothing is published: {named}. Train better, or publish it all "
        "the same with hub.despite=[gates]; the card says so then"
    )


def secrets_refusal(facts: RunFacts, found: Sequence[str]) -> str | None:
    """Why files with what looks like a secret are not published; None where they may be."""
    if not found or "secrets" in facts.hub.despite:
        return None
    more = f"\n  and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    listed = "".join(f"\n  {place}" for place in found[:_MOST_NAMED])
    return (
        f"{facts.recipe.name}: what looks like a secret stands in files that would be published, so nothing is. Take "
        "it out of the source (data.quality has a filter; a recipe can name an environment variable instead) and run "
        "again; where it is none, set hub.despite=[secrets]:"
        f"{listed}{more}"
    )


def _message(facts: RunFacts, repository: PlannedRepository) -> str:
    what = {"model": "model", "dataset": "training data", "space": "app"}[repository.kind]
    return f"Publish the {what} of the run {facts.recipe.name}"


def _memory(context: StageContext) -> Path:
    return Run(context.recipe).folder
