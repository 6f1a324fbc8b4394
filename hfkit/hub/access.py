"""Whether the token may write where a recipe wants to publish, asked before anything is trained for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hfkit.errors import hub_network_error
from hfkit.hub.failures import LOG_IN, explained, in_one_line
from hfkit.hub.files import RepositoryKind
from hfkit.recipe import HubSection

Answer = tuple[str, Literal["ok", "note", "error"], str]
"""A recipe's key, how it stands, and in words why."""

_SECONDS = 10.0
_WRITES = ("admin", "write", "contributor")


def targets(section: HubSection) -> list[tuple[str, RepositoryKind, str]]:
    """The repositories that `section` names: the key, the kind, the id."""
    named: list[tuple[str, RepositoryKind, str | None]] = [
        ("hub.dataset", "dataset", section.dataset),
        ("hub.repo", "model", section.repo),
        ("hub.space", "space", section.space),
    ]
    return [(key, kind, id) for key, kind, id in named if id is not None]


def check_access(section: HubSection) -> list[Answer]:
    """What can be said of each repository before anything is pushed. A network that is away is a note: it may be
    there by the time that it is needed."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError

    if HF_HUB_OFFLINE:
        return [("hub", "error", "HF_HUB_OFFLINE is set, so nothing can be published; unset it, or set hub=null")]
    if get_token() is None:
        return [("hub", "error", f"there is no token for the Hub; {LOG_IN}")]
    network = hub_network_error()
    api = HfApi(library_name="hfkit")
    try:
        account = api.whoami()
        return [_answer(api, account, section, *target) for target in targets(section)]
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            return [("hub", "error", f"the Hub does not know the token; {LOG_IN}")]
        return [("hub", "note", f"the Hub could not be asked whether the token may write ({in_one_line(error)})")]
    except (network, ConnectionError) as error:
        return [("hub", "note", f"the Hub could not be asked whether the token may write ({in_one_line(error)})")]


def _answer(
    api: Any, account: Mapping[str, Any], section: HubSection, key: str, kind: RepositoryKind, id: str
) -> Answer:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    owner = id.split("/")[0]
    if (fault := _no_right(account, owner, id)) is not None:
        return key, "error", fault
    try:
        info = api.repo_info(id, repo_type=kind, timeout=_SECONDS)
        api.auth_check(id, repo_type=kind, write=True)
    except RepositoryNotFoundError:
        words = "private" if section.private else "public"
        return key, "ok", f"{account['name']} may create the {words} {kind} {id}"
    except HfHubHTTPError as error:
        if error.response.status_code == 403:
            return key, "error", f"the token may not write to {id}; {LOG_IN}"
        raise
    if section.private and not info.private:
        return key, "error", public_words(id)
    return key, "ok", f"{account['name']} may write to {id}"


def public_words(id: str) -> str:
    return (
        f"{id} is public, and hub.private is true; make it private in its settings, or set hub.private=false to "
        "publish to everybody"
    )


def _no_right(account: Mapping[str, Any], owner: str, id: str) -> str | None:
    """Why a token cannot write to `owner`'s repositories, by what the Hub says of it; None where it may."""
    roles = {org["name"]: org.get("roleInOrg", "read") for org in account.get("orgs", ())}
    if owner != account["name"] and owner not in roles:
        own = ", ".join([account["name"], *roles])
        return f"{owner} is neither your account nor an organisation of yours; yours are {own}"
    token = account.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        return f"the token may read and not write; {LOG_IN}"
    if token.get("role") == "fineGrained" and not _scoped(token.get("fineGrained", {}).get("scoped", ()), owner, id):
        return f"the fine-grained token has no permission to write to {id}; give it repo.write there"
    # The owner of an organisation may have given more to a repository than the role says; asked below.
    if owner != account["name"] and roles[owner] not in _WRITES:
        return f"your role in {owner} is {roles[owner]}, which may not write; ask for the role write"
    return None


def _scoped(scopes: Sequence[Mapping[str, Any]], owner: str, id: str) -> bool:
    return any(
        scope.get("entity", {}).get("name") in (owner, id) and "repo.write" in scope.get("permissions", ())
        for scope in scopes
    )


def require_token(target: str) -> str:
    """The token that publishes: from HF_TOKEN or the Hub's login. Raises RequestError where there is none."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import LocalTokenNotFoundError

    token = get_token()
    with explained(target):
        if token is None:
            raise LocalTokenNotFoundError
    return str(token)
