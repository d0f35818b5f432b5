"""What can go wrong, by the exit code that it ends with. Messages say what, why, what next."""

from typing import ClassVar


def reason(error: Exception) -> str:
    """What went wrong on the network, without the object that it happened to."""
    whole = str(error).rpartition("): ")[2]
    return whole.rpartition("connection: ")[2]


class CommandError(Exception):
    """The command was understood and has no good end."""

    exit_code: ClassVar[int] = 1


class NotFoundError(CommandError):
    """There is no such object."""

    exit_code = 3


class ClusterError(CommandError):
    """The API server cannot be reached, or refuses."""

    exit_code = 4


class ForbiddenError(ClusterError):
    """The API server knows who asks, and they may not."""


class TimedOutError(CommandError):
    """It did not happen in the time that was given."""

    exit_code = 5


class NoSidecarError(CommandError):
    """No sidecar gave what was asked of it."""

    exit_code = 6
