"""What the Hub answers where something fails, as one sentence that says what to do; never with a token in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hfkit.errors import HfkitError, RequestError, WorkError, hub_network_error

# Links to storage carry their permission in what follows the question mark.
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")

LOG_IN = "set HF_TOKEN, or log in with `hf auth login`, with a token that may write"
AGAIN = "run `hfkit publish` again: what was uploaded is not uploaded twice"
WHOLE = "A commit is there whole or not at all"


@contextmanager
def explained(target: str) -> Iterator[None]:
    """Turns what huggingface_hub raises while it talks of `target` into a RequestError or a WorkError."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    network = hub_network_error()
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise RequestError(f"{target}: HF_HUB_OFFLINE is set, so nothing can be published; unset it") from error
    except LocalTokenNotFoundError as error:
        raise RequestError(f"{target}: there is no token for the Hub; {LOG_IN}") from error
    except (network, RuntimeError, ValueError, OSError) as error:
        answered = _first(error, HfHubHTTPError)
        if answered is not None:
            raise refusal(target, answered) from error
        if _first(error, network) is None and _first(error, ConnectionError) is None:
            raise
        raise WorkError(
            f"{target}: the connection to the Hub broke ({in_one_line(error)}). {WHOLE}; {AGAIN}"
        ) from error


@contextmanager
def upload_explained(target: str) -> Iterator[None]:
    """As `explained`, which stays around it, for the one call that sends files: hf_xet, which does it, raises Python's
    own errors for what the network or the storage does (xet-core, hf_xet/src/error.rs), and none of them has an errno.
    """
    from huggingface_hub.errors import HfHubHTTPError

    known = (HfHubHTTPError, hub_network_error(), ConnectionError)
    try:
        yield
    except (RuntimeError, OSError) as error:
        own = isinstance(error, OSError) and error.errno is not None and not isinstance(error, TimeoutError)
        if own or any(_first(error, kind) is not None for kind in known):
            raise
        if isinstance(error, PermissionError):
            raise WorkError(
                f"{target}: the Hub's storage refused an upload ({in_one_line(error)}). {WHOLE}; {AGAIN}. Where it "
                f"refuses once more, {LOG_IN}"
            ) from error
        raise WorkError(f"{target}: an upload broke off ({in_one_line(error)}). {WHOLE}; {AGAIN}") from error


def _first(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """`error` or what caused it, where it is of this kind: uploads wrap what went wrong in a thread."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__
    return cause


def refusal(target: str, error: BaseException) -> HfkitError:
    """What an answer of the Hub means for publishing to `target`."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    said = in_one_line(error)
    if isinstance(error, RepositoryNotFoundError):
        return WorkError(
            f"{target}: is not on the Hub any more, or the token may not see it. {WHOLE}; run `hfkit publish` again, "
            "which creates it anew, or see whether the token is of the right account"
        )
    if isinstance(error, RevisionNotFoundError):
        return WorkError(f"{target}: the branch is not there any more. {WHOLE}; {AGAIN}")
    if status == 401:
        return RequestError(f"{target}: the Hub does not know the token; {LOG_IN}")
    if status == 403:
        return RequestError(
            f"{target}: the token may not write there; take a token that may (fine-grained ones name the repositories "
            f"that they may write to), or an owner whose repositories you may write to. The Hub says: {said}"
        )
    if status == 400:
        return RequestError(f"{target}: the Hub refuses it; another name, or the keys of the card, may help: {said}")
    if status in (409, 412):
        return WorkError(
            f"{target}: somebody else changed it at this moment. {WHOLE}; look at what they did, and run "
            "`hfkit publish` again"
        )
    if status == 429:
        return WorkError(f"{target}: the Hub asks for fewer requests. Wait some minutes and {AGAIN}")
    return WorkError(f"{target}: the Hub answered {status} ({said}). {WHOLE}; wait a little and {AGAIN}")


def in_one_line(error: BaseException) -> str:
    """What an error says, without what follows the question mark of its links."""
    return _QUERY.sub(r"\1", " ".join(str(error).split()))[:300] or type(error).__name__
