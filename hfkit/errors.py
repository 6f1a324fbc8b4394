"""What goes wrong in hfkit, and the exit code that says so."""

from typing import ClassVar


class HfkitError(Exception):
    """Every error hfkit raises on purpose. Its text is written for the user: what was wrong, where, what to do."""

    exit_code: ClassVar[int] = 1


class RequestError(HfkitError):
    """The request was wrong: a bad recipe, a missing file, a bad argument."""

    exit_code: ClassVar[int] = 2


class WorkError(HfkitError):
    """The request was right and the work failed, or a gate was not met."""

    exit_code: ClassVar[int] = 1
