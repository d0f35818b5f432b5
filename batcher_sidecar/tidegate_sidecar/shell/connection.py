"""One client's connection: requests in, one after the other, and one answer to each.

What a client sends ahead of its answer waits in the connection's buffer: answers are in order, and
nobody can have more than one request under way for each connection.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol, cast

import msgspec

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.shell.http import (
    HEAD_END,
    JOIN_BYTES,
    MAX_HEAD_BYTES,
    ChunkedBody,
    RequestHead,
)

_log = logging.getLogger(__name__)

_AHEAD_BYTES: Final = 256 * 2**10
"""How much may be sent ahead before the socket is left to fill up."""
_LINGER: Final = 2.0
"""Seconds in which a client that is refused while it still sends can read why."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSE: Final = b"Connection: close\r\n"
_ERROR_FIELDS: Final = b"Content-Type: application/json\r\n"
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class Handler(Protocol):
    """Who answers."""

    draining: bool
    connections: "set[Connection]"
    read_head: Callable[[bytes], RequestHead]

    def handle(self, connection: "Connection", head: RequestHead, body: bytes) -> None:
        """See that the connection gets one ``respond`` or ``refuse``, now or later.

        Raises:
            Refusal: in place of calling ``refuse``.
        """


class Connection(asyncio.Protocol):
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
        self._answering = False
        self._paused = False
        self._advancing = False
        self._lingering = False

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

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of a body, or of the next request."""
        if self._lingering:
            return
        if self._head is None or self._answering:
            self._rest = self._rest + data if self._rest else data
            if self._answering and len(self._rest) > _AHEAD_BYTES:
                self._paused = True
                self._transport.pause_reading()
        else:
            self._receive_body(self._head, data)
        self._advance()

    def respond(
        self, status: int, fields: bytes, parts: Sequence[Buffer], *, close: bool = False
    ) -> None:
        """Answer the request that is under way; ``fields`` are whole header lines."""
        close = close or self._handler.draining or self._head is None or self._head.close
        if self._chunked is not None:
            close = close or self._chunked.overrun
        length = sum(map(len, parts))
        head = b"HTTP/1.1 %d %b\r\n%b%bContent-Length: %d\r\n\r\n" % (
            status,
            _REASONS.get(status, b""),
            fields,
            _CLOSE if close else b"",
            length,
        )
        self.cancel = None
        received = self._answering
        self._head = self._chunked = None
        self._answering = False
        if self._transport.is_closing():
            return
        if length <= JOIN_BYTES:
            self._transport.write(b"".join((head, *parts)))
        else:
            self._transport.writelines((head, *parts))
        if not close:
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            if self._rest:
                self._advance()
        elif received:
            self._transport.close()
        else:
            self._linger()

    def refuse(self, refusal: Refusal, fields: bytes = b"", *, close: bool = False) -> None:
        """Answer with why there is no inference; ``fields`` are further header lines."""
        fields += _ERROR_FIELDS + (b"Retry-After: 1\r\n" if refusal.retry_after else b"")
        body = msgspec.json.encode({"error": refusal.message})
        self.respond(refusal.status, fields, [body], close=close)

    def shut(self, refusal: Refusal) -> None:
        """Close, with a last word to who still waits for an answer."""
        if self._answering:
            self._abandon()
            self.refuse(refusal, close=True)
        else:
            self._transport.close()

    def _abandon(self) -> None:
        if self.cancel:
            cancel, self.cancel = self.cancel, None
            cancel()

    def _linger(self) -> None:
        """Close so that the client, which still sends, gets to read: data unread would reset it."""
        self._lingering = True
        self._transport.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)

    def _advance(self) -> None:
        """Take up requests as far as they are complete; an answer may come while we do."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._rest and self._head is None and not self._transport.is_closing():
                if not self._take_up():
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
        self._rest = b""
        self._parts = []
        self._missing = head.length or 0
        if head.expects and end == len(rest):
            self._transport.write(_CONTINUE)
        self._receive_body(head, rest[end:])
        return True

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
        except Refusal as refusal:
            self._give_up(refusal)
            return
        if chunked.done:
            self._dispatch(head, chunked.body)

    def _give_up(self, refusal: Refusal) -> None:
        """Refuse what cannot be read: nobody knows where the next request begins."""
        self._rest = b""
        self.refuse(refusal, close=True)

    def _dispatch(self, head: RequestHead, body: bytes) -> None:
        self._answering = True
        try:
            self._handler.handle(self, head, body)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:  # noqa: BLE001 - whatever it is, this client gets an answer
            _log.exception("a request met a mistake of ours")
            self.refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of the sidecar"))
