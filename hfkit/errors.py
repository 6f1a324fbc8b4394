"""What goes wrong in hfkit, and the exit code that says so."""

from typing import ClassVar


class HfkitError(Exception):
    """Every error hfkit raises on purpose. Its text is written for the user: what was wrong, where, what to do."""

    exit_code: ClassVar[int] = 1


class RequestError(HfkitError):
    """The request was wrong: a bad recipe, a missing file, a bad argument."""

    exit_code: ClassVar[int] = 2


class UnknownOnHubError(RequestError):
    """What the Hub has under a name could not be asked: there is no network, or no right to see it."""


class WorkError(HfkitError):
    """The request was right and the work failed, or a gate was not met."""

    exit_code: ClassVar[int] = 1


def hub_network_error() -> type[Exception]:
    """The base class of what goes wrong between here and the Hub: the HTTP library's own. Which library that is depends
    on the version of huggingface_hub."""
    from huggingface_hub.errors import HfHubHTTPError

    network = HfHubHTTPError.__bases__[0]
    assert issubclass(network, Exception)
    return network
