"""Why a request gets no inference: the status and the sentence that its client reads."""

from http import HTTPStatus
from typing import Final

MOST_CHARACTERS: Final = 4096
"""Of a message, which may quote what the client sent, however much that is."""

_PASSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a failure of ours
    """An answer other than the model's own.

    ``status`` is HTTP's. A client's own mistake is a 4xx that names the field. ``retry_after``:
    seconds after which the same request may well succeed; None: it will not by waiting.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        self.message = message[:MOST_CHARACTERS]
        super().__init__(self.message)
        self.status = status
        if retry_after is None and status in _PASSING:
            retry_after = 1.0
        self.retry_after = retry_after


class Unserved(Refusal):
    """No version was asked: none is ready, or the model server cannot be reached.

    That says nothing about the version that the request would have gone to.
    """

    def __init__(self, message: str) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, message)


def malformed(message: str) -> Refusal:
    """The request breaks the protocol or contradicts the model's metadata."""
    return Refusal(HTTPStatus.BAD_REQUEST, message)


def too_large(message: str) -> Refusal:
    """The request is beyond a limit of size."""
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def unavailable(message: str) -> Unserved:
    """Nothing here can serve the request now."""
    return Unserved(message)


def lost(message: str) -> Refusal:
    """A version was asked, and its answer did not come."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message)


def late(why: str) -> Refusal:
    """The request's time is over, or will be before it can be answered; in Triton's words."""
    return Refusal(HTTPStatus.GATEWAY_TIMEOUT, f"Request timeout expired: {why}")
