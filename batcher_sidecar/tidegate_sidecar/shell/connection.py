"""One client's connection: requests in, one after the other, and one answer to each.

What a client sends ahead of its answer waits in the connection's buffer: answers are in order, and
nobody can have more than one request under way for each connection. Who does not read his answers
gets no further one, and who is too slow in sending or in reading is cut off.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import lru_cache
from http import HTTPStatus
from math import ceil
from typing import Final, Protocol, cast

import msgspec

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.shell.body import LARGE_BYTES, Body, Owner
from tidegate_sidecar.shell.coding import AT_ONCE_BYTES, WORTH_BYTES, Inflater, compress
from tidegate_sidecar.shell.http import (
    HEAD_END,
    JOIN_BYTES,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    ChunkedBody,
    RequestHead,
)

_log = logging.getLogger(__name__)

_AHEAD_BYTES: Final = 256 * 2**10
"""How much may be sent ahead before the socket is left to fill up."""
_LINGER: Final = 2.0
"""Seconds in which a client that is refused while it still sends can read why."""
_LOOK_SECONDS: Final = 10.0
_MOST_LOOKS: Final = 3
"""Who was found slow so many times one after the other is cut off: after 30 to 40 seconds."""
_PROGRESS_BYTES: Final = MAX_HEAD_BYTES
"""Fewer between two looks is slow."""
_SLOW: Final = Refusal(HTTPStatus.REQUEST_TIMEOUT, "the request does not come to an end")
_MISTAKE: Final = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of the sidecar")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"Connection: close\r\n"
_ERROR_FIELDS: Final = b"Content-Type: application/json\r\n"
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class Caller(Protocol):
    """Who waits for an answer. ``cancel``: what to call when it goes before that."""

    cancel: Callable[[], None] | None

    def respond(
        self, status: int, fields: bytes, parts: Sequence[Buffer], *, close: bool = False
    ) -> None:
        """Take the answer; ``fields`` are whole header lines."""

    def refuse(self, refusal: Refusal, fields: bytes = b"", *, close: bool = False) -> None:
        """Take why there is none; ``fields`` are further header lines."""


class Handler(Protocol):
    """Who answers."""

    draining: bool
    connections: "set[Connection]"
    read_head: Callable[[bytes], RequestHead]

    room: Room

    def admit(self, head: RequestHead, size: int, begun: int = 0) -> None:
        """Take ``size`` bytes more of a body from ``room``; see ``Room.take``.

        Raises:
            Refusal: there is no room, which is counted.
        """

    def handle(self, connection: Caller, head: RequestHead, body: Buffer) -> None:
        """See that the caller gets one ``respond`` or ``refuse``, now or later.

        Raises:
            Refusal: in place of calling ``refuse``.
        """


class Connection(Owner):
    """A client's connection. ``cancel``: what to call when the client goes before its answer."""

    def __init__(self, handler: Handler) -> None:
        self.cancel: Callable[[], None] | None = None
        self._handler = handler
        self._transport: asyncio.Transport
        self._rest = b""  # belongs to no request yet
        self._head: RequestHead | None = None  # of the request that is under way
        self._parts: list[bytes] = []
        self._missing = 0
        self._chunked: ChunkedBody | None = None
        self._large: Body | None = None
        self._answering = False
        self._paused = False
        self._advancing = False
        self._lingering = False
        self._unread = False  # the client has not read what it was answered
        self._coding: asyncio.Task[None] | None = None
        self._looks = 0
        self._progress: int | None = None  # at the last look that this request has had
        self._held = 0  # bytes of the handler's room: of the body
        self._stuck = 0  # likewise: of the answers that are not read

    @property
    def under_way(self) -> bool:
        """Whether a request is being received or answered."""
        return self._head is not None or bool(self._rest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._handler.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """The client has gone: what it asked for is not wanted any more."""
        self._handler.connections.discard(self)
        self._abandon()
        self._handler.room.give(self._held + self._stuck)
        self._held = self._stuck = 0

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered: what else it asks for waits."""
        self._unread = True
        self._set_stuck(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has read."""
        self._unread = False
        self._set_stuck(0)
        if self._paused:
            self._resume_reading()
        self._advance()

    def look(self) -> None:
        """Cut the client off where it has been too slow in too many looks."""
        progress = self._moved()
        last, self._progress = self._progress, progress
        if progress is None or last is None or abs(progress - last) >= _PROGRESS_BYTES:
            self._looks = 0
        else:
            self._looks += 1
        if self._looks < _MOST_LOOKS:
            return
        if self._unread or self._lingering:
            self._transport.abort()
        else:
            self._give_up(_SLOW)

    def _moved(self) -> int | None:
        """A number that changes as the client sends or reads; None: it is not its turn."""
        if self._unread:
            return self._transport.get_write_buffer_size()
        if self._answering:
            return None
        if self._chunked:
            return self._chunked.size
        if self._large:
            return self._large.missing
        if self._head:
            return self._missing
        return len(self._rest) or None

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of a body, or of the next request."""
        if self._lingering:
            return
        if self._head is None or self._answering:
            self._rest = self._rest + data if self._rest else data
            if len(self._rest) > _AHEAD_BYTES and (self._answering or self._unread):
                self._paused = True
                self._transport.pause_reading()
        else:
            self._receive_body(self._head, data)
        self._advance()

    def respond(
        self, status: int, fields: bytes, parts: Sequence[Buffer], *, close: bool = False
    ) -> None:
        """Answer the request that is under way; ``fields`` are whole header lines."""
        head = self._head
        if head is not None and head.wanted_coding and sum(map(len, parts)) >= WORTH_BYTES:
            self._pack(head.wanted_coding, status, fields, parts, close)
        else:
            self._write(status, fields, parts, close)

    def _pack(
        self, coding: str, status: int, fields: bytes, parts: Sequence[Buffer], close: bool
    ) -> None:
        """Answer in fewer bytes."""
        fields += b"Content-Encoding: %b\r\n" % coding.encode()
        if sum(map(len, parts)) <= AT_ONCE_BYTES:
            self._write(status, fields, [compress(parts, coding)], close)
            return

        async def aside() -> None:
            packed = await asyncio.to_thread(compress, parts, coding)
            self._write(status, fields, [packed], close)

        self.cancel = None
        self._aside(aside)

    def _write(self, status: int, fields: bytes, parts: Sequence[Buffer], close: bool) -> None:
        asked = self._head
        close = close or self._handler.draining or asked is None or asked.close
        received = self._answering and not self._rest
        if self._chunked is not None and self._chunked.overrun:
            close, received = True, False
        length = sum(map(len, parts))
        head = _answer_head(status, fields, length, close)
        if asked is not None and asked.bare:
            parts = ()
        self.cancel = None
        self._head = self._chunked = None
        self._answering = False
        self._handler.room.give(self._held)
        self._held = 0
        if self._transport.is_closing():
            return
        if length <= JOIN_BYTES:
            self._transport.write(b"".join((head, *parts)))
        else:
            self._transport.writelines((head, *parts))
        if not close:
            if self._paused:
                self._resume_reading()
            if self._rest:
                self._advance()
        elif received:
            self._transport.close()
        else:
            self._linger()

    def refuse(self, refusal: Refusal, fields: bytes = b"", *, close: bool = False) -> None:
        """Answer with why there is no inference; ``fields`` are further header lines."""
        fields += _ERROR_FIELDS
        if refusal.retry_after is not None:
            fields += b"Retry-After: %d\r\n" % max(1, ceil(refusal.retry_after))
        body = msgspec.json.encode({"error": refusal.message})
        self.respond(refusal.status, fields, [body], close=close)

    def shut(self, refusal: Refusal) -> None:
        """Close, with a last word to who still waits for an answer."""
        if self._answering:
            self._abandon()
            self.refuse(refusal, close=True)
        else:
            self._transport.close()

    def _resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()

    def _abandon(self) -> None:
        if self._coding:
            self._coding.cancel()
        if self.cancel:
            cancel, self.cancel = self.cancel, None
            cancel()

    def _admit(self, head: RequestHead, size: int) -> None:
        """Take room for so much more of the body, or raise why there is none."""
        if size:
            self._handler.admit(head, size, self._held)
            self._held += size

    def _set_stuck(self, size: int) -> None:
        self._handler.room.give(self._stuck - size)
        self._stuck = size

    def _linger(self) -> None:
        """Close so that the client, which still sends, gets to read: data unread would reset it."""
        self._lingering = True
        self._rest = b""
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)

    def _advance(self) -> None:
        """Take up requests as far as they are complete; an answer may come while we do."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._rest and self._head is None and not self._unread:
                if self._transport.is_closing() or not self._take_up():
                    break
        finally:
            self._advancing = False

    def _take_up(self) -> bool:
        """Begin the next request; False while its head is not complete."""
        rest = self._rest
        end = rest.find(HEAD_END) + len(HEAD_END)
        complete = end >= len(HEAD_END)
        if (end if complete else len(rest)) > MAX_HEAD_BYTES:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._give_up(Refusal(status, f"a head of more than {MAX_HEAD_BYTES} bytes"))
            return False
        if not complete:
            if rest[0] in b"\r\n":  # some clients end a body with a line of its own
                self._rest = rest.lstrip(b"\r\n")
            return False
        try:
            head = self._handler.read_head(rest[:end])
        except Refusal as refusal:
            self._give_up(refusal)
            return False
        self._head = head
        if head.length is None:
            self._chunked = ChunkedBody(rest[:end])
        elif len(rest) >= end + head.length:
            self._rest = rest[end + head.length :]
            self._dispatch(head, rest[end : end + head.length])
            return True
        try:
            self._admit(head, head.length or 0)
        except Refusal as refusal:
            self._give_up(refusal)
            return False
        self._rest = b""
        self._parts = []
        self._missing = head.length or 0
        if head.expects and end == len(rest):
            self._transport.write(_CONTINUE)
        if head.length is not None and end + head.length - len(rest) >= LARGE_BYTES:
            self._large = Body(self._transport, self, head.length, rest[end:])
        else:
            self._receive_body(head, rest[end:])
        return True

    def body_received(self, body: memoryview) -> None:
        """A large body is there."""
        self._large = None
        if self._head is not None and not self._lingering:
            self._dispatch(self._head, body)

    def _receive_body(self, head: RequestHead, data: bytes) -> None:
        if self._chunked is not None:
            self._receive_chunks(self._chunked, head, data)
            return
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return
        body, self._parts = b"".join(self._parts), []
        if self._missing < 0:
            self._rest = body[self._missing :]
            body = body[: self._missing]
        self._dispatch(head, body)

    def _receive_chunks(self, chunked: ChunkedBody, head: RequestHead, data: bytes) -> None:
        try:
            chunked.feed(data)
            self._admit(head, chunked.size - self._held)
        except Refusal as refusal:
            self._give_up(refusal)
            return
        if chunked.done:
            self._dispatch(head, chunked.body)

    def _give_up(self, refusal: Refusal) -> None:
        """Refuse what cannot be read: nobody knows where the next request begins."""
        self._rest = b""
        self.refuse(refusal, close=True)

    def _dispatch(self, head: RequestHead, body: Buffer) -> None:
        self._answering = True
        self._progress = None
        try:
            self._admit(head, len(body) - self._held)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        if head.coding:
            self._unpack(head, body)
        else:
            self._handle(head, body)

    def _unpack(self, head: RequestHead, body: Buffer) -> None:
        inflater = Inflater(body, head.coding, min(MAX_BODY_BYTES, self._handler.room.largest))
        try:
            if inflater.unpack(AT_ONCE_BYTES):
                self._handle(head, inflater.body)
                return
        except Refusal as refusal:
            self.refuse(refusal)
            return

        async def aside() -> None:
            whole = await inflater.finish()
            self._admit(head, max(0, len(whole) - self._held))
            self._handle(head, whole)

        self._aside(aside)

    def _aside(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what comes next for the request that is under way."""

        async def guarded() -> None:
            try:
                await work()
            except Refusal as refusal:
                self.refuse(refusal)
            except Exception:  # noqa: BLE001 - whatever it is, this client gets an answer
                _log.exception("a body met a mistake of ours")
                self.refuse(_MISTAKE)

        self._coding = asyncio.get_running_loop().create_task(guarded())

    def _handle(self, head: RequestHead, body: Buffer) -> None:
        try:
            self._handler.handle(self, head, body)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:  # noqa: BLE001 - whatever it is, this client gets an answer
            _log.exception("a request met a mistake of ours")
            self.refuse(_MISTAKE)


@lru_cache(maxsize=1024)  # answers of one shape have equal heads: 0.1 us for 0.4
def _answer_head(status: int, fields: bytes, length: int, close: bool) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b%bContent-Length: %d\r\n\r\n" % (
        status,
        _REASONS.get(status, b""),
        fields,
        _CLOSE if close else b"",
        length,
    )


class Watch:
    """Looks at all connections now and then: one timer, whatever their number."""

    def __init__(self, connections: Collection[Connection], seconds: float = _LOOK_SECONDS) -> None:
        self._connections = connections
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer:
            self._timer.cancel()

    def _look(self) -> None:
        for connection in list(self._connections):
            connection.look()
        self.start()
