"""Heads of HTTP/1.1 messages, read by httptools and remembered by their bytes.

There is one parser. In front of it stands a bounded memory of the heads that it has accepted: a
client sends the same head again and again, and equal bytes have equal meanings.

A message whose length two readers could see differently is refused: that is how a request is
smuggled past one of them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import httptools

from tidegate_sidecar.core.endpoints import Target, not_offered, understand
from tidegate_sidecar.core.refusal import Refusal, malformed, too_large
from tidegate_sidecar.core.trace_context import FRESH
from tidegate_sidecar.shell.coding import coding_of, wanted_coding

MAX_HEAD_BYTES: Final = 16 * 2**10
MAX_BODY_BYTES: Final = 256 * 2**20
HEAD_END: Final = b"\r\n\r\n"
JOIN_BYTES: Final = 64 * 2**10
"""Below, one copy is cheaper than a system call with many buffers; above it would hold the loop."""

_REMEMBERED_BYTES: Final = 2048
_REMEMBERED: Final = 1024
_JSON_LENGTH: Final = "inference-header-content-length"
_FRESH: Final = re.compile(
    rb"\r\n(%b):([\t -~\x80-\xff]*+)(?=\r\n[^ \t])" % "|".join(FRESH).encode(), re.IGNORECASE
)
"""Whole lines, of bytes that may stand in a header: what remains is as good a head as before."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request line and its headers.

    ``target``: or why nothing is offered there. ``length``: bytes of the body, None: chunked.
    ``json_length``: of the body, how much is JSON; None: all. ``close``: the client wants no
    further answer on this connection. ``expects``: it waits for a word before it sends the body.
    ``coding``: how the body is compressed. ``wanted_coding``: how the answer is to be, if large;
    empty: not at all. ``bare``: it asks for the answer's head alone.
    """

    target: Target | Refusal
    headers: Mapping[str, str]
    length: int | None
    json_length: int | None
    close: bool = False
    expects: bool = False
    coding: str = ""
    wanted_coding: str = ""
    bare: bool = False


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A status line and what matters of the headers."""

    status: int
    length: int
    json_length: int | None
    content_type: str
    close: bool


H = TypeVar("H")


class Memory(Generic[H]):
    """Reads heads; remembers short ones that were good."""

    def __init__(self, read: Callable[[bytes], H]) -> None:
        self._read = read
        self._remembered: dict[bytes, H] = {}

    def __call__(self, head: bytes) -> H:
        """Read a head, its empty line included.

        Raises:
            Refusal: it is wrong, or not understood.
        """
        known = self._remembered.get(head)
        if known is None:
            known = self._read(head)
            if len(head) <= _REMEMBERED_BYTES:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[head] = known
        return known


class RequestMemory(Memory[RequestHead]):
    """Reads requests' heads; remembers them without what is another in each.

    Else a client that traces its requests would be read anew each time, and drive out what others
    are remembered by. Such a head costs a look more; one without such headers does not.
    """

    def __init__(self) -> None:
        super().__init__(read_request_head)

    def __call__(self, head: bytes) -> RequestHead:
        """Read a head, its empty line included.

        Raises:
            Refusal: it is wrong, or not understood.
        """
        known = self._remembered.get(head)
        if known is not None:
            return known
        parts = _FRESH.split(head)  # what is before the first line, its name and value, and so on
        if len(parts) == 1 or head[:1].isspace():  # a line ahead of the request line is none
            return super().__call__(head)
        known = super().__call__(b"".join(parts[::3]))
        headers = dict(known.headers)
        for name, value in zip(parts[1::3], parts[2::3], strict=True):
            key, text = name.decode().lower(), value.decode("latin-1").strip(" \t")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        return replace(known, headers=headers)


class _Events:
    """What httptools calls back while it reads one head."""

    def __init__(self, parser: Callable[["_Events"], Any]) -> None:
        self.parser = parser(self)
        self.keep_alive = False
        self.url = b""
        self.fields: dict[str, list[str]] = {}
        self.complete = False
        self.beyond = False

    def on_message_begin(self) -> None:
        self.beyond |= self.complete

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        text = value.decode("latin-1").rstrip(" \t")
        self.fields.setdefault(name.decode("latin-1").lower(), []).append(text)

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()  # reset with the message's end

    def on_body(self, _: bytes) -> None:
        self.beyond = True

    def feed(self, head: bytes) -> None:
        """Read the head."""
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # we may ignore the wish to speak something else
        except httptools.HttpParserError as error:
            raise malformed(f"HTTP: {error}") from error
        if not self.complete or self.beyond:
            raise malformed("HTTP: the head does not end where its empty line stands")

    def single(self, name: str) -> str | None:
        """A header that may stand there only once."""
        values = self.fields.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise malformed(f"header {name} stands there {len(values)} times")
        return values[0].strip()

    def number(self, name: str) -> int | None:
        """A header that is an unsigned integer."""
        value = self.single(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()) or len(value) > 18:  # noqa: PLR2004 - 64 bits
            raise malformed(f"header {name}: {value!r} is no unsigned integer")
        return int(value)


def read_request_head(head: bytes) -> RequestHead:
    """Read a request's head.

    Raises:
        Refusal: no HTTP/1.x, or a length that could be read in two ways. Close the connection.
    """
    events = _Events(httptools.HttpRequestParser)
    events.feed(head)
    parser = events.parser
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise malformed(f"HTTP/{version} is not spoken here")
    if events.single("host") is None and version == "1.1":
        raise malformed("header host is missing")
    length = _body_length(events, version)
    coding = coding_of(events.fields)
    method = parser.get_method().decode("ascii")
    if method == "CONNECT":  # what follows it would be no HTTP
        raise not_offered(method)
    try:
        target: Target | Refusal = understand(method, events.url.decode("latin-1"))
    except Refusal as refusal:
        target = refusal.with_traceback(None)  # it is remembered, what led to it is not to be
    return RequestHead(
        target=target,
        headers={name: ", ".join(values) for name, values in events.fields.items()},
        length=length,
        json_length=events.number(_JSON_LENGTH),
        close=version == "1.0" or not events.keep_alive,
        expects=version == "1.1" and (events.single("expect") or "").lower() == "100-continue",
        coding=coding,
        wanted_coding=wanted_coding(events.fields),
        bare=method == "HEAD",
    )


def _body_length(events: _Events, version: str) -> int | None:
    """Bytes of the body; None: chunked."""
    coding = events.single("transfer-encoding")
    length = events.number("content-length")
    if coding is None:
        if length and length > MAX_BODY_BYTES:
            raise too_large(f"content-length: more than {MAX_BODY_BYTES} bytes")
        return length or 0
    if length is not None or version == "1.0":
        raise malformed("header transfer-encoding contradicts the rest of the head")
    if "upgrade" in events.fields:
        raise malformed("header transfer-encoding: not together with upgrade")
    if coding.lower() != "chunked":
        raise malformed(f"header transfer-encoding: {coding!r} is not understood")
    return None


def read_response_head(head: bytes) -> ResponseHead:
    """Read the head of an answer of Triton, which always says its length.

    Raises:
        Refusal: it is not understood.
    """
    events = _Events(httptools.HttpResponseParser)
    events.feed(head)
    length = events.number("content-length")
    if length is None or "transfer-encoding" in events.fields:
        raise malformed("an answer without content-length")
    return ResponseHead(
        status=events.parser.get_status_code(),
        length=length,
        json_length=events.number(_JSON_LENGTH),
        content_type=events.single("content-type") or "application/octet-stream",
        close=not events.keep_alive,
    )


class ChunkedBody:
    """Puts a chunked body together. What follows it on the connection is not told apart.

    ``done``: it is complete. ``overrun``: the beginning of a next message came with its end, and
    is lost: the connection cannot go on.
    """

    def __init__(self, head: bytes) -> None:
        self._body = bytearray()  # a list of chunks of a byte would take many times as much
        self._size = 0
        self.done = False
        self.overrun = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(head)

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
            Refusal: no chunks, or more than a body may hold.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self._size > MAX_BODY_BYTES:
                raise too_large(f"more than {MAX_BODY_BYTES} bytes of body") from error
            if not self.done:
                raise malformed(f"HTTP: {error}") from error
            self.overrun = True

    @property
    def size(self) -> int:
        """Bytes of the body so far."""
        return self._size

    @property
    def body(self) -> bytes:
        """The body as far as it came."""
        return bytes(self._body)

    def on_message_begin(self) -> None:
        """httptools: a message starts."""
        self.overrun = self.done

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        if not self.done:
            self._size += len(data)
            if self._size > MAX_BODY_BYTES:
                raise ValueError("too large")
            self._body += data

    def on_message_complete(self) -> None:
        """httptools: the body is complete."""
        self.done = True
