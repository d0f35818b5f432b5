"""An inference call over gRPC, as the data plane sees it: the HTTP request that says the same."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol

from tidegate_contract import names
from tidegate_sidecar.core.endpoints import Kind, Target, version_number
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.shell.connection import Caller
from tidegate_sidecar.shell.grpc_messages import call_of
from tidegate_sidecar.shell.http import RequestHead

_log = logging.getLogger(__name__)

_MISTAKE: Final = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of the sidecar")

Write = Callable[[Sequence[Buffer], str], bytes]
"""Writes the message for an answer and the call's id."""


class Plane(Protocol):
    """Who answers inference."""

    health_ready: Callable[[], bool]
    draining: bool

    room: Room

    def admit(self, head: RequestHead, size: int) -> None:
        """Take room for a body.

        Raises:
            Refusal: there is none.
        """

    def handle(self, connection: Caller, head: RequestHead, body: bytes) -> None:
        """See that the caller gets one ``respond`` or ``refuse``, now or later.

        Raises:
            Refusal: in place of calling ``refuse``.
        """


class Waiting:
    """A call that waits for its answer: a ``Caller``. ``id``: as the client named it."""

    def __init__(self) -> None:
        self.id = ""
        self.cancel: Callable[[], None] | None = None
        self.fields = b""
        self._give_room: Callable[[], None] | None = None
        self._answered: asyncio.Future[Sequence[Buffer] | Refusal] = (
            asyncio.get_running_loop().create_future()
        )

    def hand_in(self, plane: Plane, request: Any, headers: Mapping[str, str]) -> None:
        """Hand a ``ModelInferRequest``, which is used up by that, to the data plane.

        Raises:
            Refusal: the client's mistake, or nothing can serve it.
        """
        call = call_of(request)
        target = Target(Kind.INFER, "POST", "", call.model, named_version(call.version))
        size = len(call.body)
        head = RequestHead(target, headers, size, call.json_length)
        plane.admit(head, size)
        self._give_room = partial(plane.room.give, size)
        plane.handle(self, head, call.body)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever goes wrong within is the call's answer."""
        try:
            yield
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:  # noqa: BLE001 - whatever it is, this client gets an answer
            _log.exception("a call met a mistake of ours")
            self.refuse(_MISTAKE)

    async def answer(self, write: Write) -> bytes | Refusal:
        """The message for its answer, or why there is none. Cancelled: its caller has gone."""
        try:
            answer = await self._answered
            return answer if isinstance(answer, Refusal) else write(answer, self.id)
        except asyncio.CancelledError:
            self.leave()
            raise
        except Exception:  # noqa: BLE001 - as above
            _log.exception("an answer met a mistake of ours")
            return _MISTAKE

    def leave(self) -> None:
        """Its caller has gone."""
        if self.cancel:
            self.cancel()
        self._end()

    def respond(
        self,
        status: int,  # noqa: ARG002 - an answer that is no refusal is a good one
        fields: bytes,
        parts: Sequence[Buffer],
        *,
        close: bool = False,  # noqa: ARG002 - a call is no connection
    ) -> None:
        """Take the answer; ``fields`` are HTTP's header lines."""
        self._take(fields, parts)

    def refuse(
        self,
        refusal: Refusal,
        fields: bytes = b"",
        *,
        close: bool = False,  # noqa: ARG002 - as above
    ) -> None:
        """Take why there is none."""
        self._take(fields, refusal)

    def _take(self, fields: bytes, answer: Sequence[Buffer] | Refusal) -> None:
        self.cancel = None
        self._end()
        if not self._answered.done():
            self.fields = fields
            self._answered.set_result(answer)

    def _end(self) -> None:
        """Its body is not needed any more."""
        if self._give_room:
            self._give_room()
            self._give_room = None


def named_version(version: str) -> int | None:
    """The version that a message names.

    Raises:
        Refusal: it is no number.
    """
    return version_number(version, "model_version") if version else None


def headers_of(metadata: Any) -> dict[str, str]:
    """Metadata as headers."""
    headers: dict[str, str] = {}
    for name, value in metadata or ():
        if isinstance(value, str):
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def with_deadline(headers: dict[str, str], remaining: float | None) -> dict[str, str]:
    """Headers with the call's own deadline, in seconds, where it ends before the one they name."""
    if remaining is None:
        return headers
    own = max(1, int(remaining * 1000))
    named = headers.get(names.HEADER_DEADLINE, "")
    if named and not (named.isdecimal() and int(named[:18]) > own):
        return headers
    return headers | {names.HEADER_DEADLINE: str(own)}
