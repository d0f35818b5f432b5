"""A light load generator: each connection asks again as soon as it was answered, or at a rate.

It speaks just enough HTTP for servers that say `Content-Length`, so that it costs little beside
what it measures; the same for every side of a comparison.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import cast

import uvloop

_HEAD_END = b"\r\n\r\n"
_VERSION = b"tidegate-version: "


@dataclass
class Sample:
    """One run. Latencies in seconds, of requests that were answered 200; ``versions``: of each of
    them the version that answered, as the answer's header says it.
    """

    seconds: float = 0.0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)
    versions: list[bytes] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests answered well, each second."""
        return len(self.latencies) / self.seconds

    def quantile(self, q: float) -> float:
        """The latency that a share q of the requests did not exceed, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def run(host: str, port: int, request: bytes, *, connections: int, seconds: float) -> Sample:
    """Load a server for some time, on an event loop of its own.

    Raises:
        OSError: it does not listen.
        ConnectionError: it closed a connection.
    """
    return uvloop.run(_run(host, port, request, connections, seconds))


def infer_request(path: str, json: bytes, data: bytes) -> bytes:
    """An inference request with binary data, as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(json)}\r\n"
        f"Content-Length: {len(json) + len(data)}\r\n\r\n"
    )
    return head.encode() + json + data


async def _run(host: str, port: int, request: bytes, connections: int, seconds: float) -> Sample:
    loop = asyncio.get_running_loop()
    sample = Sample()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(request, sample, _Client.ask), host, port
        )
        clients.append(client)
    started = time.perf_counter()
    for client in clients:
        client.ask()
    await asyncio.sleep(seconds)
    sample.seconds = time.perf_counter() - started
    for client in clients:
        client.stop()
    if any(client.lost for client in clients):
        raise ConnectionError("the server closed a connection")
    return sample


def at_rate(
    host: str,
    port: int,
    request: bytes,
    *,
    connections: int,
    rate: float,
    seconds: float,
    seed: int,
) -> Sample:
    """Load a server with Poisson arrivals, whatever it answers, on an event loop of its own.

    ``rate``: requests a second. What finds no connection free waits for one; that counts.

    Raises:
        OSError: it does not listen.
        ConnectionError: it closed a connection.
    """
    return uvloop.run(_at_rate(host, port, request, connections, rate, seconds, Random(seed)))


async def _at_rate(
    host: str,
    port: int,
    request: bytes,
    connections: int,
    rate: float,
    seconds: float,
    draw: Random,
) -> Sample:
    loop = asyncio.get_running_loop()
    sample = Sample()
    free: list[_Client] = []
    waiting: deque[float] = deque()

    def answered(client: _Client) -> None:
        if waiting:
            client.ask(waiting.popleft())
        else:
            free.append(client)

    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Client(request, sample, answered), host, port
        )
        clients.append(client)
    free += clients
    started = time.perf_counter()

    def arrived() -> None:
        now = time.perf_counter()
        if free:
            free.pop().ask(now)
        else:
            waiting.append(now)

    # The loop's own timers are a millisecond coarse, and would bunch what is to come by chance.
    arrive = partial(loop.call_soon_threadsafe, arrived)
    await asyncio.to_thread(_at_random, arrive, rate, seconds, draw)
    while waiting or len(free) < connections:  # noqa: ASYNC110 - the last answers
        await asyncio.sleep(0.01)
    sample.seconds = time.perf_counter() - started
    for client in clients:
        client.stop()
    if any(client.lost for client in clients):
        raise ConnectionError("the server closed a connection")
    return sample


def _at_random(arrive: Callable[[], object], rate: float, seconds: float, draw: Random) -> None:
    """Call at the times of a Poisson process, from now on."""
    started = time.perf_counter()
    due = draw.expovariate(rate)
    while due < seconds:
        time.sleep(max(due - (time.perf_counter() - started), 0))
        arrive()
        due += draw.expovariate(rate)


class _Client(asyncio.Protocol):
    def __init__(
        self, request: bytes, sample: Sample, answered: Callable[["_Client"], None]
    ) -> None:
        self.lost = False
        self._answered = answered
        self._request = request
        self._sample = sample
        self._stopped = False
        self._pieces: list[bytes] = []
        self._missing = 0
        self._asked = 0.0
        self._lengths: dict[bytes, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def ask(self, since: float | None = None) -> None:
        self._asked = time.perf_counter() if since is None else since
        self._transport.write(self._request)

    def stop(self) -> None:
        self._stopped = True
        self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = not self._stopped

    def data_received(self, data: bytes) -> None:
        if self._stopped:
            return
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._pieces)
            self._pieces = []
        end = data.find(_HEAD_END) + len(_HEAD_END)
        whole = end >= len(_HEAD_END)
        self._missing = end + self._length(data[:end]) - len(data) if whole else 1
        if self._missing > 0:
            self._pieces = [data]
            return
        if data.startswith(b"HTTP/1.1 200"):
            self._sample.latencies.append(time.perf_counter() - self._asked)
            begin = data.find(_VERSION)
            self._sample.versions.append(data[begin + len(_VERSION) :][:1] if begin > 0 else b"")
        else:
            self._sample.failed += 1
        self._answered(self)

    def _length(self, head: bytes) -> int:
        if head not in self._lengths:
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            self._lengths[head] = int(fields[b"content-length"])
        return self._lengths[head]
