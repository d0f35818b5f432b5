"""Connections to Triton: kept alive, one request at a time on each, as many as are needed.

Callbacks in place of coroutines: one batch after another goes through here, and a task for each
would cost more than the parsing.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, cast

from tidegate_sidecar.core.refusal import Refusal, lost, unavailable
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.shell.body import LARGE_BYTES, Body, Owner
from tidegate_sidecar.shell.http import (
    HEAD_END,
    JOIN_BYTES,
    MAX_HEAD_BYTES,
    Memory,
    ResponseHead,
    read_response_head,
)

_MOST_IDLE: Final = 64
"""Connections kept: more than a model has slots, less than many callers' questions may open."""


class Response(NamedTuple):
    """Triton's answer. ``json_length``: of the body, how much is JSON; None: all."""

    status: int
    json_length: int | None
    content_type: str
    body: Buffer


Done = Callable[[Response | Refusal], None]


def infer_request(
    host: str, path: str, json: bytes, buffers: Sequence[Buffer], fields: str = ""
) -> list[Buffer]:
    """Write an inference request; ``fields`` are further header lines."""
    length = len(json) + sum(map(len, buffers))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{fields}"
        f"Inference-Header-Content-Length: {len(json)}\r\nContent-Length: {length}\r\n\r\n"
    )
    return [head.encode(), json, *buffers]


def plain_request(host: str, method: str, path: str, body: Buffer) -> list[Buffer]:
    """Write any other request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode(), body]


class Upstream(Protocol):
    """Whoever answers requests: one Triton. ``busy``: requests under way."""

    url: str
    busy: int

    def send(self, buffers: Sequence[Buffer], done: Done) -> None:
        """Send a request; ``done`` is called once, with its answer or with why there is none."""

    async def request(self, buffers: Sequence[Buffer]) -> Response:
        """Send a request that is no inference.

        Raises:
            Refusal: Triton cannot be reached, or went away.
        """

    def close(self) -> None:
        """Close what is idle."""

    def renew(self) -> None:
        """Use new connections from now on; those in use end with their request."""


class Pool:
    """Sends requests to one Triton."""

    def __init__(self, url: str) -> None:
        self.url = url
        host, _, port = url.rpartition(":")
        self._address = host, int(port)
        self._idle: list[_Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._generation = 0
        self.busy = 0
        """Requests under way."""
        self.read_head = Memory(read_response_head)

    def send(self, buffers: Sequence[Buffer], done: Done) -> None:
        """Send a request; ``done`` is called once, with its answer or with why there is none."""
        self.busy += 1

        def ended(result: Response | Refusal) -> None:
            self.busy -= 1
            done(result)

        if self._idle:
            self._idle.pop().send(buffers, ended)
            return
        task = asyncio.get_running_loop().create_task(self._send_anew(buffers, ended))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def request(self, buffers: Sequence[Buffer]) -> Response:
        """Send a request that is no inference.

        Raises:
            Refusal: Triton cannot be reached, or went away.
        """
        self.busy += 1
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            result = await connection.ask(buffers)
        finally:
            self.busy -= 1
        if isinstance(result, Refusal):
            raise result
        return result

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    def renew(self) -> None:
        """Use new connections from now on; those in use end with their request."""
        self._generation += 1
        self.close()

    async def _send_anew(self, buffers: Sequence[Buffer], done: Done) -> None:
        try:
            connection = await self._connect()
        except Refusal as refusal:
            done(refusal)
            return
        connection.send(buffers, done)

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self, self._generation), *self._address
            )
        except OSError as error:
            reason = error.strerror or error
            raise unavailable(f"the model server cannot be reached: {reason}") from error
        return connection

    def put_back(self, connection: "_Connection") -> None:
        """Keep a connection for the next request."""
        if len(self._idle) < _MOST_IDLE and connection.generation == self._generation:
            self._idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: "_Connection") -> None:
        """Forget a connection that has ended."""
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(Owner):
    def __init__(self, pool: Pool, generation: int) -> None:
        self.generation = generation
        self._pool = pool
        self._transport: asyncio.Transport
        self._done: Done | None = None
        self._head: ResponseHead | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def send(self, buffers: Sequence[Buffer], done: Done) -> None:
        self._done = done
        if self._transport.is_closing():
            self._end(unavailable("the model server closed the connection"))
        elif sum(map(len, buffers)) <= JOIN_BYTES:
            self._transport.write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)

    async def ask(self, buffers: Sequence[Buffer]) -> Response | Refusal:
        """Send a request and wait; who gives up takes the connection with him."""
        future: asyncio.Future[Response | Refusal] = asyncio.get_running_loop().create_future()
        self.send(buffers, lambda result: None if future.done() else future.set_result(result))
        try:
            return await future
        except asyncio.CancelledError:
            self._transport.abort()
            raise

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            self._fail("the model server sent more than an answer")
            return
        if self._head is None:
            rest = self._read_head(b"".join((*self._parts, data)))
            if rest is None:
                return
            data = rest
        self._missing -= len(data)
        if self._missing >= LARGE_BYTES and not self._parts:
            Body(self._transport, self, self._missing + len(data), data)
            return
        self._parts.append(data)
        if self._missing > 0:
            return
        if self._missing < 0:
            self._fail("the model server sent more than an answer")
            return
        self._answered(data if len(self._parts) == 1 else b"".join(self._parts))

    def body_received(self, body: memoryview) -> None:
        """The body of a large answer is there."""
        self._answered(body)

    def _answered(self, body: Buffer) -> None:
        head = self._head
        if head is None or self._done is None:
            self._fail("the model server sent more than an answer")
            return
        self._head = None
        self._parts = []
        if head.close:
            self._transport.close()
        else:
            self._pool.put_back(self)
        self._end(Response(head.status, head.json_length, head.content_type, body))

    def connection_lost(self, _: Exception | None) -> None:
        self._pool.drop(self)
        self._end(lost("the model server closed the connection"))

    def _read_head(self, data: bytes) -> bytes | None:
        """Read a head; returns what follows it, None where there is no whole one."""
        end = data.find(HEAD_END) + len(HEAD_END)
        if end < len(HEAD_END):
            self._parts = [data]
            if len(data) > MAX_HEAD_BYTES:
                self._fail("the model server's answer is not understood")
            return None
        try:
            self._head = self._pool.read_head(data[:end])
        except Refusal as refusal:
            self._fail(f"the model server's answer is not understood: {refusal.message}")
            return None
        self._parts = []
        self._missing = self._head.length
        return data[end:]

    def _fail(self, message: str) -> None:
        self._pool.drop(self)
        self._transport.abort()
        self._end(lost(message))

    def _end(self, result: Response | Refusal) -> None:
        if self._done is not None:
            done, self._done = self._done, None
            done(result)
