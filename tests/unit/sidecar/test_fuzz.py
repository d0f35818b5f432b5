"""Rubbish of every kind before the data plane: each complete request has one answer, in its order.

Good requests of every encoding are mutated and sent through a connection, several in a row and in
any pieces, to a data plane whose Triton doubles numbers. Whatever comes: no exception, no 5xx for
the client's mistake, no neighbour's answer, no request beyond one that cannot be told from it.
"""

import asyncio
import gzip
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.shell import upstream
from tidegate_sidecar.shell.connection import Connection
from tidegate_sidecar.shell.grpc_messages import call_of, parse_call
from tidegate_sidecar.shell.server import DataPlane

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SEEDS = st.integers(0, 2**32)
"""Of what an example draws: many requests each, which one by one would cost far more."""


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.protocol: asyncio.BaseProtocol | None = None
        self.closed = self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        assert not self.ended
        self.written += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        """As an event loop would, whatever protocol it has at the time."""
        while data and isinstance(self.protocol, asyncio.BufferedProtocol):
            room = memoryview(self.protocol.get_buffer(-1))
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self.protocol.buffer_updated(count)
        if data and isinstance(self.protocol, asyncio.Protocol):
            self.protocol.data_received(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Triton:
    """Answers y = 2 x at once; holds what reaches it to what Triton must never see broken."""

    url = "triton:8000"

    def send(self, buffers: Sequence[Buffer], done: upstream.Done) -> None:
        head, header, *data = buffers
        request = msgspec.json.decode(header)
        body = b"".join(data)
        (tensor,) = request["inputs"]
        rows, columns = tensor["shape"]
        assert (tensor["name"], tensor["datatype"], columns) == ("x", "FP32", 2)
        assert 1 <= rows <= 8
        assert len(body) == rows * 8 == tensor["parameters"]["binary_data_size"]
        assert b"Content-Length: %d\r\n" % (len(header) + len(body)) in head
        numbers = struct.unpack(f"<{rows * 2}f", body)
        twice = struct.pack(
            f"<{rows * 2}f", *(2 * one if abs(one) < 1e30 else one for one in numbers)
        )
        output = {"name": "y", "datatype": "FP32", "shape": [rows, 2]}
        output["parameters"] = {"binary_data_size": len(twice)}
        text = json.dumps({"model_name": "m", "outputs": [output]}).encode()
        answer = upstream.Response(200, len(text), "application/octet-stream", text + twice)
        asyncio.get_running_loop().call_soon(done, answer)

    async def request(self, buffers: Sequence[Buffer]) -> upstream.Response:
        return upstream.Response(200, None, "application/json", b"{}")


class World:
    """A data plane on a loop of its own."""

    def __init__(self, make: Any) -> None:
        self.loop = uvloop.new_event_loop()
        self.faults: list[Any] = []
        self.loop.set_exception_handler(lambda _, fault: self.faults.append(fault))
        x, y = (Tensor(name=name, datatype="FP32", shape=[2]) for name in "xy")
        table = make.table(batch=BatchSettings(max_wait=0.0, deadline=None))
        runtime = make.runtime(table, make.version(inputs=[x], outputs=[y]))
        self.plane = DataPlane({"m": runtime}, "triton:8000")
        triton: Any = Triton()
        self.plane._triton = triton
        for model in self.plane._models.values():
            model._triton = triton

    def talk(self, pieces: Sequence[bytes]) -> Transport:
        """Send pieces one after the other; returns when nothing more can happen."""
        transport = Transport()
        connection = Connection(self.plane)

        async def run() -> None:
            transport.set_protocol(connection)
            connection.connection_made(transport)
            for piece in pieces:
                if not transport.closed:
                    transport.feed(piece)
                await asyncio.sleep(0)
            while connection._answering and not transport.closed:  # noqa: ASYNC110 - until answered
                await asyncio.sleep(0)
            connection.connection_lost(None)

        self.loop.run_until_complete(asyncio.wait_for(run(), 60))
        assert not self.faults
        assert self.plane.room.free == sys.maxsize
        return transport


@pytest.fixture(scope="module")
def world(make: Any) -> Iterator[World]:
    made = World(make)
    yield made
    made.loop.close()


def answers(transport: Transport) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of each answer."""
    found = []
    rest = bytes(transport.written)
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        assert end
        line, *fields = head.decode("ascii").split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        length = int(headers["content-length"])
        assert len(rest) >= length
        found.append((int(line.split()[1]), headers, rest[:length]))
        rest = rest[length:]
    return found


def body(numbers: Sequence[float], form: str, id_: str) -> tuple[bytes, int | None]:
    """A good request in one of the protocol's forms, and how much of it is JSON, if said."""
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    if form == "raw":
        return data[:8], 0
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [len(numbers) // 2, 2]}
    output: dict[str, Any] = {"name": "y"}
    request = {"id": id_, "inputs": [tensor], "outputs": [output], "parameters": {"timeout": 0}}
    if form in ("json", "json out"):
        tensor["data"] = list(numbers)
    else:
        tensor["parameters"] = {"binary_data_size": len(data)}
    if form in ("binary", "json out"):
        output["parameters"] = {"binary_data": True}
    header = json.dumps(request).encode()
    if form in ("json", "json out"):
        return header, None
    return header + data, len(header)


def message(content: bytes, json_length: int | None, coding: str, *, chunked: bool) -> bytes:
    """A whole request."""
    lines = [b"POST /v2/models/m/infer HTTP/1.1", b"Host: a"]
    if json_length is not None:
        lines.append(b"Inference-Header-Content-Length: %d" % json_length)
    if coding:
        lines.append(b"Content-Encoding: " + coding.encode())
        content = gzip.compress(content, mtime=0) if coding == "gzip" else zlib.compress(content)
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
        cuts = content[: len(content) // 2], content[len(content) // 2 :]
        content = b"".join(b"%x\r\n%b\r\n" % (len(cut), cut) for cut in cuts if cut)
        content += b"0\r\n\r\n"
    else:
        lines.append(b"Content-Length: %d" % len(content))
    return b"\r\n".join([*lines, b"", b""]) + content


_FORMS = ("json", "json out", "binary", "binary in", "raw")
_NUMBERS = st.lists(st.integers(-1000, 1000), min_size=2, max_size=6).filter(
    lambda found: len(found) % 2 == 0
)
_SHAPES = st.tuples(
    _NUMBERS, st.sampled_from(_FORMS), st.sampled_from(["", "", "gzip", "deflate"]), st.booleans()
)


def good(shape: tuple[list[int], str, str, bool], id_: str = "i") -> bytes:
    numbers, form, coding, chunked = shape
    return message(*body(numbers, form, id_), coding, chunked=chunked)


def _numbers_of(headers: dict[str, str], content: bytes) -> list[float]:
    cut = headers.get("inference-header-content-length")
    header = msgspec.json.decode(content[: int(cut)] if cut else content)
    (output,) = header["outputs"]
    if "data" in output:
        return list(output["data"])
    data = content[int(cut or 0) :]
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def _cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True) if a < b]


_PLACES = st.lists(st.integers(0, 10_000), max_size=4)


@given(st.lists(_SHAPES, min_size=1, max_size=6), _PLACES)
@settings(FUZZ, max_examples=150)
def test_good_requests_in_a_row_are_answered_in_their_order(
    world: World, shapes: list[Any], places: list[int]
) -> None:
    data = b"".join(good(shape, f"i{i}") for i, shape in enumerate(shapes))
    pieces = _cut(data, places)
    if any(chunked for *_, chunked in shapes):
        # What follows chunks in one piece is lost with the connection: one request in each piece.
        pieces = [good(shape, f"i{i}") for i, shape in enumerate(shapes)]
    found = answers(world.talk(pieces))
    count = next((i + 1 for i, one in enumerate(found) if "connection" in one[1]), len(shapes))
    assert len(found) == count
    for (status, headers, content), (numbers, form, *_) in zip(found, shapes, strict=False):
        assert status == 200
        sent = numbers[:2] if form == "raw" else numbers
        assert _numbers_of(headers, content) == [2 * one for one in sent]


_JUNK: list[bytes] = [b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b"{", b"}", b"[", b'"', b",", b":"]
_JUNK += [
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"NaN",
    b"null",
    b"true",
    b"[[[[",
    b"\\u0",
]
_JUNK += [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"]
_JUNK += [b"Content-Encoding: gzip\r\n", b"Connection: close\r\n", b"Host: b\r\n", b"0\r\n\r\n"]
_JUNK += [b"Inference-Header-Content-Length: 0\r\n", b"tidegate-priority: x\r\n", b"HTTP/1.0"]
_JUNK += [
    b"Accept-Encoding: gzip\r\n",
    b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"shared_memory_region",
]

_KINDS = ("insert", "delete", "replace", "cut", "twice")


def drawn(draw: Random) -> tuple[list[int], str, str, bool]:
    """A good request's shape."""
    numbers = [draw.randint(-1000, 1000) for _ in range(draw.choice((2, 4, 6)))]
    coding = draw.choice(("", "", "gzip", "deflate"))
    return numbers, draw.choice(_FORMS), coding, draw.random() < 0.3


def mutated(draw: Random, data: bytes, most: int = 3) -> bytes:
    """What is left of some bytes after a few changes, or none."""
    for _ in range(draw.randint(0, most)):
        kind = draw.choice(_KINDS)
        at, count = draw.randint(0, len(data)), draw.randint(1, 20)
        junk = draw.choice(_JUNK) if draw.random() < 0.7 else draw.randbytes(draw.randint(1, 6))
        if kind == "insert":
            data = data[:at] + junk + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + count :]
        elif kind == "replace":
            data = data[:at] + junk + data[at + len(junk) :]
        elif kind == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[max(0, at - count) :]
    return data


@given(SEEDS)
@settings(FUZZ, max_examples=400)
def test_mutated_requests(world: World, seed: int) -> None:
    """Eight thousand of them, four to a connection."""
    draw = Random(seed)
    for _ in range(5):
        data = b"".join(mutated(draw, good(drawn(draw))) for _ in range(4))
        transport = world.talk(_cut(data, [draw.randrange(10_000) for _ in range(3)]))
        found = answers(transport)
        for status, _, content in found:
            assert status in (100, 200) or 400 <= status < 500, (status, content)
            if status >= 400:
                assert msgspec.json.decode(content)["error"]
        closing = [i for i, (_, headers, _) in enumerate(found) if "connection" in headers]
        assert closing in ([], [len(found) - 1])


@given(SEEDS)
@settings(FUZZ, max_examples=150)
def test_a_mutated_body_costs_its_neighbours_nothing(world: World, seed: int) -> None:
    """Whatever a body of a stated length holds, the request behind it is read as it was sent."""
    draw = Random(seed)
    for _ in range(5):
        numbers, form, coding, _ = drawn(draw)
        content, json_length = body(numbers, form, "i")
        first = message(mutated(draw, content), json_length, coding, chunked=False)
        after = drawn(draw)
        found = answers(world.talk([first + good(after)]))
        assert len(found) == 2
        assert found[0][0] < 500
        assert found[1][0] == 200
        sent = after[0][:2] if after[1] == "raw" else after[0]
        assert _numbers_of(*found[1][1:]) == [2 * one for one in sent]


_LENGTHS: dict[str, Callable[[int], bytes]] = {
    "twice": lambda n: b"Content-Length: %d\r\nContent-Length: %d\r\n" % (n, n),
    "two": lambda n: b"Content-Length: %d\r\nContent-Length: %d\r\n" % (n, n + 1),
    "listed": lambda n: b"Content-Length: %d, %d\r\n" % (n, n),
    "both": lambda n: b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % n,
    "both, the other way": lambda n: b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n" % n,
    "signed": lambda n: b"Content-Length: +%d\r\n" % n,
    "spaced": lambda n: b"Content-Length : %d\r\n" % n,
    "folded": lambda n: b"X: a\r\n Content-Length: %d\r\n" % n,
    "coded twice": lambda n: b"Transfer-Encoding: gzip, chunked\r\n",
    "odd coding": lambda n: b"Transfer-Encoding: xchunked\r\n",
    "bare line feed": lambda n: b"X: a\nContent-Length: %d\r\n" % n,
}


@pytest.mark.parametrize("lengths", _LENGTHS)
@given(st.integers(0, 60), st.binary(max_size=20))
@settings(FUZZ, max_examples=25)
def test_contradicting_lengths_end_the_connection(
    world: World, lengths: str, length: int, rest: bytes
) -> None:
    """Nothing of what follows is taken for a request."""
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n" + _LENGTHS[lengths](length) + b"\r\n"
    transport = world.talk([head + rest + good(([1, 2], "json", "", False))])
    ((status, headers, _),) = answers(transport)
    assert (status, headers["connection"]) == (400, "close")


@given(SEEDS)
@settings(FUZZ, max_examples=150)
def test_mutated_grpc_messages(make: Any, seed: int) -> None:
    """A message is read, or refused as the client's mistake; never anything else."""
    draw = Random(seed)
    runtime = make.runtime()
    for _ in range(10):
        numbers, form, *_ = drawn(draw)
        request = ModelInferRequest(model_name="m", id="i")
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[len(numbers) // 2, 2])
        request.parameters["priority"].int64_param = 1
        if form == "json":
            tensor.contents.fp32_contents.extend(numbers)
        else:
            request.raw_input_contents.append(struct.pack(f"<{len(numbers)}f", *numbers))
        status = 200
        try:
            call = call_of(parse_call(mutated(draw, request.SerializeToString(), 2)))
            length = call.json_length
            runtime.submit(None, call.body, json_length=length, version=None, headers={}, now=0.0)
        except Refusal as refusal:
            status = refusal.status
        assert status == 200 or 400 <= status < 500
