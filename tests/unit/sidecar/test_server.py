"""The data plane over real sockets, with a small Triton of our own behind it."""

import asyncio
import contextlib
import gc
import json
import random
import struct
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import BatchSettings, ErrorCheck, Experiment, Outcome, RoutingTable
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.upstream import Pool, plain_request
from tidegate_tools.addresses import free_port

HOST = "127.0.0.1"
LONG = {"tidegate-deadline-ms": "600000"}


class FakeTriton:
    """Answers y = x + 1. ``gate`` closed: it answers nothing until it is opened."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[str] = []
        self.rows: list[int] = []
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Callable[[web.Request], web.Response | None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port).start()

    async def stop(self) -> None:
        if self._runner:
            self.gate.set()
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        body = await request.read()
        self.bodies.append(body)
        await self.gate.wait()
        if self.fault and (response := self.fault(request)):
            return response
        if not request.path.endswith("/infer"):
            return web.json_response({"path": request.path})
        cut = int(request.headers["Inference-Header-Content-Length"])
        header = json.loads(body[:cut])
        (tensor,) = header["inputs"]
        assert tensor["parameters"]["binary_data_size"] == len(body) - cut
        self.rows.append(tensor["shape"][0])
        values = struct.unpack(f"<{(len(body) - cut) // 4}f", body[cut:])
        data = struct.pack(f"<{len(values)}f", *(value + 1 for value in values))
        output = {
            "name": "y",
            "datatype": "FP32",
            "shape": tensor["shape"],
            "parameters": {"binary_data_size": len(data)},
        }
        text = json.dumps({"model_name": "m", "model_version": "1", "outputs": [output]}).encode()
        return web.Response(
            body=text + data, headers={"Inference-Header-Content-Length": str(len(text))}
        )


class Served:
    """A data plane, its Triton and its address."""

    def __init__(self, plane: DataPlane, runtime: ModelRuntime, triton: FakeTriton) -> None:
        self.plane, self.runtime, self.triton = plane, runtime, triton
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.infer = f"{self.url}/v2/models/m/infer"
        self.room = sys.maxsize

    def set_room(self, size: int) -> None:
        """Hold no more bytes of requests than that; before there are any."""
        self.room = size
        self.plane.room = Room(size)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(HOST, self.port)

    async def talk(self, data: bytes) -> bytes:
        """Send bytes; all that comes back until the server closes."""
        reader, writer = await self.open()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer


@pytest.fixture
async def triton() -> AsyncIterator[FakeTriton]:
    fake = FakeTriton()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def served(make: Any, triton: FakeTriton) -> AsyncIterator[Served]:
    errors = ErrorCheck(id="errors@1", arms=["stable"])
    runtime = make.runtime(make.table(checks=[errors]))
    plane = DataPlane({"m": runtime}, f"{HOST}:{triton.port}")
    plane.health_ready = lambda: True
    made = Served(plane, runtime, triton)
    await plane.start(HOST, made.port)
    yield made
    triton.gate.set()
    await plane.drain(5)
    await until(lambda: not plane.connections)
    assert plane.room.free == made.room


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


def wire(body: bytes, json_length: int | None = None, *fields: str, path: str = "m") -> bytes:
    lines = [f"POST /v2/models/{path}/infer HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
    if json_length is not None:
        lines.append(f"Inference-Header-Content-Length: {json_length}")
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


def numbers(*values: float, id_: str = "", binary: bool = True) -> tuple[bytes, int]:
    """A request of rows of two numbers."""
    data = struct.pack(f"<{len(values)}f", *values)
    header: dict[str, Any] = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [len(values) // 2, 2],
                "parameters": {"binary_data_size": len(data)},
            }
        ],
        "parameters": {"binary_data_output": binary},
    }
    if id_:
        header["id"] = id_
    text = json.dumps(header).encode()
    return text + data, len(text)


def as_json(*values: float, **fields: Any) -> dict[str, Any]:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [len(values) // 2, 2],
        "data": list(values),
    }
    return {"inputs": [tensor]} | fields


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.005)


def outcomes(runtime: ModelRuntime) -> dict[str, int]:
    found: dict[str, int] = {}
    for tally in runtime.counters.tallies.values():
        for outcome, count in tally.outcomes.items():
            found[outcome] = found.get(outcome, 0) + count
    return found


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.split("\r\n")[:-2]
        fields = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(fields["content-length"]))
    return int(status.split()[1]), fields, body


async def test_json_in_json_out(served: Served, client: aiohttp.ClientSession) -> None:
    async with client.post(served.infer, json=as_json(1, 2, 3, 4, id="7")) as answer:
        assert answer.status == 200
        assert answer.headers["tidegate-model"] == "m"
        assert answer.headers["tidegate-version"] == "1"
        assert answer.headers["tidegate-arm"] == "stable"
        assert await answer.json() == {
            "id": "7",
            "model_name": "m",
            "model_version": "1",
            "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 3.0, 4.0, 5.0]}
            ],
        }


async def test_binary_in_binary_out(served: Served, client: aiohttp.ClientSession) -> None:
    body, cut = numbers(1, 2)
    fields = {"Inference-Header-Content-Length": str(cut)}
    async with client.post(served.infer, data=body, headers=fields) as answer:
        assert answer.status == 200
        cut = int(answer.headers["Inference-Header-Content-Length"])
        got = await answer.read()
    assert got[cut:] == struct.pack("<2f", 2, 3)
    (output,) = json.loads(got[:cut])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    assert served.triton.asked == ["POST /v2/models/m/versions/1/infer"]


async def test_everybody_gets_their_own_answer(
    served: Served, client: aiohttp.ClientSession
) -> None:
    """Many clients at once, of all sizes and ways of asking: batched, and never mixed up."""

    async def one(seed: int) -> None:
        draw = random.Random(seed)
        for i in range(15):
            values = [float(draw.randrange(1000)) for _ in range(2 * draw.randint(1, 5))]
            id_ = f"{seed}-{i}"
            if draw.random() < 0.5:
                async with client.post(served.infer, json=as_json(*values, id=id_)) as answer:
                    shown = await answer.json()
                    got = shown["outputs"][0]["data"]
            else:
                body, cut = numbers(*values, id_=id_)
                fields = {"Inference-Header-Content-Length": str(cut)}
                async with client.post(served.infer, data=body, headers=fields) as answer:
                    cut = int(answer.headers["Inference-Header-Content-Length"])
                    raw = await answer.read()
                    shown = json.loads(raw[:cut])
                    got = list(struct.unpack(f"<{len(raw[cut:]) // 4}f", raw[cut:]))
            assert shown["id"] == id_
            assert got == [value + 1 for value in values]

    await asyncio.gather(*(one(seed) for seed in range(40)))
    assert max(served.triton.rows) > 1
    assert outcomes(served.runtime) == {"ok": 600}


async def test_requests_sent_ahead_are_answered_in_order(served: Served) -> None:
    reader, writer = await served.open()
    many = 300
    for i in range(many):
        writer.write(wire(b"{" if i % 3 == 0 else numbers(i, i)[0], numbers(i, i)[1]))
        if i % 50 == 0:
            writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
    for i in range(many):
        status, fields, body = await read_answer(reader)
        if i % 3 == 0:
            assert (status, fields["content-type"]) == (400, "application/json")
        else:
            cut = int(fields["inference-header-content-length"])
            assert struct.unpack("<2f", body[cut:]) == (i + 1, i + 1)
        if i % 50 == 0:
            assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_a_request_may_come_in_any_pieces(served: Served) -> None:
    reader, writer = await served.open()
    data = wire(*numbers(1, 2)) + wire(*numbers(3, 4))
    for i in range(0, len(data), 7):
        writer.write(data[i : i + 7])
        await asyncio.sleep(0)
    for first in (1, 3):
        _, fields, body = await read_answer(reader)
        cut = int(fields["inference-header-content-length"])
        assert struct.unpack("<2f", body[cut:]) == (first + 1, first + 2)
    writer.close()


def serve_wide(served: Served, make: Any) -> None:
    """From now on a row of the model is as long as it is."""
    wide = [Tensor(name=n, datatype="FP32", shape=[-1]) for n in ("x", "y")]
    served.runtime.version_ready(make.version(inputs=wide[:1], outputs=wide[1:]))


def wide_row(count: int) -> tuple[bytes, int]:
    """A request of one row of so many numbers."""
    data = struct.pack(f"<{count}f", *range(count))
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, count],
        "parameters": {"binary_data_size": len(data)},
    }
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + data, len(text)


async def test_a_large_request(make: Any, served: Served, client: aiohttp.ClientSession) -> None:
    serve_wide(served, make)
    count = 700_000
    sent, cut = wide_row(count)
    fields = {"Inference-Header-Content-Length": str(cut), "Expect": "100-continue"}
    for _ in range(2):
        async with client.post(served.infer, data=sent, headers=fields) as answer:
            body = await answer.read()
        cut = int(answer.headers["Inference-Header-Content-Length"])
        assert struct.unpack_from("<3f", body, len(body) - 12) == tuple(
            float(count - 2 + i) for i in range(3)
        )
        assert len(body) - cut == 4 * count


async def test_the_word_to_go_on(served: Served) -> None:
    reader, writer = await served.open()
    data = wire(*numbers(1, 2))
    head, body = data.split(b"\r\n\r\n", 1)
    writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_chunked_requests(served: Served, client: aiohttp.ClientSession) -> None:
    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for i in range(0, len(body), 50):
            yield body[i : i + 50]

    for _ in range(3):
        body, cut = numbers(1, 2)
        fields = {"Inference-Header-Content-Length": str(cut)}
        async with client.post(served.infer, data=pieces(body), headers=fields) as answer:
            assert answer.status == 200
    # What comes on the heels of a chunked body cannot be told apart: the connection ends.
    chunked = wire(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    answers = await served.talk(chunked + b"0\r\n\r\n" + wire(*numbers(1, 2)))
    assert answers.count(b"HTTP/1.1") == 1
    assert answers.startswith(b"HTTP/1.1 400")
    assert b"Connection: close" in answers


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (wire(b"{}", None, "Transfer-Encoding: chunked"), 400),
        (wire(b"{}", None, "Content-Length: 2"), 400),
        (wire(b"{}", None, "Content-Length: 3"), 400),
        (wire(b"", None, f"X: {'a' * 20_000}"), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000, 431),
        (
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
            413,
        ),
        (b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Encoding: br\r\n\r\n", 415),
        (b"POST /v2/models/m/infer HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/3.0\r\nHost: a\r\n\r\n", 400),
    ],
)
async def test_what_cannot_be_read_is_refused_and_ends_the_connection(
    served: Served, data: bytes, status: int
) -> None:
    answer = await served.talk(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert json.loads(body)["error"]
    assert answer.count(b"HTTP/1.1") == 1
    assert served.triton.asked == []


async def test_a_refusal_can_be_read_by_who_still_sends(served: Served) -> None:
    reader, writer = await served.open()
    writer.write(
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n"
    )
    for _ in range(50):
        writer.write(bytes(100_000))
    assert (await read_answer(reader))[0] == 413
    writer.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/other/infer", 404),
        ("/v2/models/m/versions/9/infer", 404),
        ("/v2/models/m/versions/x/infer", 400),
        ("/v2/models/m/generate", 403),
        ("/v2/repository/models/m/load", 403),
        ("/v2/repository/models/m/unload", 403),
        ("/v2/systemsharedmemory/region/r/register", 403),
        ("/nothing", 403),
    ],
)
async def test_what_is_not_offered(
    served: Served, client: aiohttp.ClientSession, path: str, status: int
) -> None:
    async with client.post(served.url + path, json=as_json(1, 2)) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]
    assert served.triton.asked == []


async def test_what_triton_is_asked_itself(served: Served, client: aiohttp.ClientSession) -> None:
    expected = {
        "/v2": "/v2",
        "/v2/health/live": "/v2/health/live",
        "/v2/models/m": "/v2/models/m/versions/1",
        "/v2/models/m/config": "/v2/models/m/versions/1/config",
        "/v2/models/m/versions/3/ready": "/v2/models/m/versions/3/ready",
        "/v2/models/stats": "/v2/models/stats",
    }
    for path, asked in expected.items():
        async with client.get(served.url + path) as answer:
            assert (answer.status, await answer.json()) == (200, {"path": asked})
    async with client.post(served.url + "/v2/repository/index", data=b'{"ready":true,"x":1}') as a:
        assert a.status == 200
    assert served.triton.bodies[-1] == b'{"ready":true}'
    async with client.post(served.url + "/v2/repository/index", data=b'{"ready":"x"}') as answer:
        assert answer.status == 400
    async with client.get(served.url + "/v2/models/other/config") as answer:
        assert answer.status == 404


async def test_readiness_is_ours(served: Served, client: aiohttp.ClientSession) -> None:
    async with client.get(served.url + "/v2/health/ready") as answer:
        assert answer.status == 200
    served.plane.health_ready = lambda: False
    async with client.get(served.url + "/v2/health/ready") as answer:
        assert answer.status == 503
    assert served.triton.asked == []


async def test_who_goes_is_not_worked_for(served: Served, client: aiohttp.ClientSession) -> None:
    served.triton.gate.clear()
    first = asyncio.create_task(client.post(served.infer, json=as_json(1, 2)))
    await until(lambda: served.triton.asked)
    writers = [(await served.open())[1] for _ in range(5)]
    for writer in writers:
        writer.write(wire(*numbers(5, 5)))
    await until(lambda: served.runtime._batcher.waiting == 5)
    for writer in writers:
        writer.close()
    await until(lambda: served.runtime._batcher.waiting == 0)
    served.triton.gate.set()
    assert (await first).status == 200
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 200
    assert served.triton.rows == [1, 1]
    assert outcomes(served.runtime) == {"ok": 2, "cancelled": 5}


async def test_who_goes_while_triton_works_harms_nobody(
    served: Served, client: aiohttp.ClientSession
) -> None:
    served.triton.gate.clear()
    blocker = asyncio.create_task(client.post(served.infer, json=as_json(1, 2)))
    await until(lambda: served.triton.asked)
    _, leaver = await served.open()
    leaver.write(wire(*numbers(5, 5)))
    await until(lambda: served.runtime._batcher.waiting == 1)
    stayer = asyncio.create_task(client.post(served.infer, json=as_json(7, 8)))
    await until(lambda: served.runtime._batcher.waiting == 2)
    first, served.triton.gate = served.triton.gate, asyncio.Event()  # the next batch waits too
    first.set()
    assert (await blocker).status == 200
    await until(lambda: served.runtime._batcher.waiting == 0)
    leaver.close()
    await until(lambda: outcomes(served.runtime).get("cancelled"))
    served.triton.gate.set()
    assert (await (await stayer).json())["outputs"][0]["data"] == [8, 9]


async def test_tritons_error_goes_to_all(served: Served, client: aiohttp.ClientSession) -> None:
    served.triton.fault = lambda _: web.json_response({"error": "no"}, status=500)
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert (answer.status, await answer.json()) == (500, {"error": "no"})
        assert (answer.headers["tidegate-arm"], answer.headers["tidegate-version"]) == (
            "stable",
            "1",
        )
    served.triton.fault = lambda _: web.Response(status=404, text="<html>")
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    served.triton.fault = lambda _: web.Response(body=b"nonsense")
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 500
    served.triton.fault = None
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 200


async def test_a_lost_triton_is_503_and_comes_back(
    served: Served, client: aiohttp.ClientSession
) -> None:
    def die(request: web.Request) -> None:
        assert request.transport
        request.transport.abort()

    served.triton.fault = die
    many = await asyncio.gather(*(client.post(served.infer, json=as_json(i, i)) for i in range(10)))
    assert {(answer.status, answer.headers["Retry-After"]) for answer in many} == {(503, "1")}
    served.triton.fault = None
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 200
    await served.triton.stop()
    for _ in range(3):
        async with client.post(served.infer, json=as_json(1, 2)) as answer:
            assert answer.status == 503
    await served.triton.start()
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 200
    ((requests, bad),) = {
        (count.requests, count.bad)
        for count in served.runtime.counters.checks.values()
        if count.requests
    }
    assert (requests, bad) == (12, 10), "three found nobody listening"


async def test_a_version_that_goes_takes_its_queue_along(
    make: Any, served: Served, client: aiohttp.ClientSession
) -> None:
    served.runtime.apply(
        make.table(batch=BatchSettings(strategy="Fixed", max_wait=30.0), revision=2)
    )
    served.plane.table_changed("m")
    waiting = asyncio.create_task(client.post(served.infer, json=as_json(1, 2)))
    await until(lambda: served.runtime._batcher.waiting)
    served.runtime.version_gone(1)
    served.plane.table_changed("m")
    assert (await waiting).status == 503
    served.runtime.version_ready(make.version())
    waiting = asyncio.create_task(client.post(served.infer, json=as_json(1, 2)))
    await until(lambda: served.runtime._batcher.waiting)
    served.runtime.apply(make.table(revision=3))  # no more waiting
    served.plane.table_changed("m")
    assert (await waiting).status == 200


async def test_a_wait_ends_by_itself(
    make: Any, served: Served, client: aiohttp.ClientSession
) -> None:
    served.runtime.apply(
        make.table(batch=BatchSettings(strategy="Fixed", max_wait=0.02), revision=2)
    )
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 200


async def test_who_is_too_late_gets_504_and_keeps_his_connection(
    served: Served, client: aiohttp.ClientSession
) -> None:
    served.triton.gate.clear()
    short = {"tidegate-deadline-ms": "50"}
    async with client.post(served.infer, json=as_json(1, 2), headers=short) as answer:
        assert answer.status == 504  # it was in flight
        assert answer.headers["tidegate-version"] == "1"
        assert (await answer.json())["error"].startswith("Request timeout expired")
    request = as_json(3, 4) | {"parameters": {"timeout": 50_000}}
    async with client.post(served.infer, json=request) as answer:
        assert answer.status == 504  # it waited for the other's slot
        assert (await answer.json())["error"].startswith("Request timeout expired")
    served.triton.gate.set()
    async with client.post(served.infer, json=as_json(5, 6), headers=short | LONG) as answer:
        assert (await answer.json())["outputs"][0]["data"] == [6, 7]
    assert served.triton.rows == [1, 1]  # who was late in the queue cost it nothing
    assert outcomes(served.runtime) == {"expired": 2, "ok": 1}


async def test_who_is_thrown_out_is_told_when_to_come_again(
    make: Any, served: Served, client: aiohttp.ClientSession
) -> None:
    policy = BatchSettings(queue_max_size=1, on_full="DropLowest")
    served.runtime.apply(make.table(batch=policy, revision=2))
    served.triton.gate.clear()
    blocker = asyncio.create_task(client.post(served.infer, json=as_json(1, 2)))
    await until(lambda: served.triton.asked)
    low = as_json(1, 2) | {"parameters": {"priority": 5}}
    thrown_out = asyncio.create_task(client.post(served.infer, json=low))
    await until(lambda: served.runtime.waiting)
    high = asyncio.create_task(client.post(served.infer, json=as_json(1, 2)))
    answer = await thrown_out
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    async with client.post(served.infer, json=low) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) >= 1
    served.triton.gate.set()
    assert [(await one).status for one in (blocker, high)] == [200, 200]


async def test_a_burst_of_large_requests_leaves_room_for_small_ones(
    make: Any, served: Served, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """As many as the pod's memory is enough for are served; the others can come again."""
    serve_wide(served, make)
    large, cut = wide_row(250_000)
    served.set_room(10 * len(large))  # of which each may have a quarter of what is free
    served.triton.gate.clear()
    fields = {"Inference-Header-Content-Length": str(cut)}

    async def ask() -> int:
        async with client.post(served.infer, data=large, headers=fields) as answer:
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) >= 1
                assert "memory" in (await answer.json())["error"]
            return answer.status

    asked = [asyncio.create_task(ask()) for _ in range(30)]
    await until(lambda: outcomes(served.runtime).get("rejected") == 23)
    small = client.post(served.infer, json=as_json(1, 2))
    asked += [asyncio.create_task(ask()), asyncio.ensure_future(small)]
    await until(lambda: outcomes(served.runtime).get("rejected") == 24)
    served.triton.gate.set()
    *statuses, answered = await asyncio.gather(*asked)
    assert (statuses.count(200), statuses.count(503), answered.status) == (7, 24, 200)
    assert outcomes(served.runtime) == {"ok": 8, "rejected": 24}
    assert sum("refused for their size" in line for line in caplog.messages) == 1


async def test_json_is_bounded_by_what_it_takes_to_read_it(
    served: Served, client: aiohttp.ClientSession
) -> None:
    served.set_room(32 * 2**20)
    for padding, status in ((2**21 - 200, 200), (2**21, 413)):
        body = json.dumps(as_json(1, 2)).encode() + b" " * padding
        async with client.post(served.infer, data=body) as answer:
            assert answer.status == status
    assert outcomes(served.runtime) == {"ok": 1, "client_error": 1}


async def test_draining_answers_what_was_accepted(
    served: Served, client: aiohttp.ClientSession
) -> None:
    served.triton.gate.clear()
    reader, writer = await served.open()
    writer.write(wire(*numbers(1, 2)))
    late_reader, late = await served.open()
    data = wire(*numbers(3, 4))
    late.write(data[:-4])
    idle_reader, idle = await served.open()
    await until(lambda: served.triton.asked)
    await until(lambda: sum(one.under_way for one in served.plane.connections) == 2)
    drain = asyncio.create_task(served.plane.drain(20))
    await until(lambda: served.plane.draining)
    late.write(data[-4:])
    served.triton.gate.set()
    for one in (reader, late_reader):
        status, fields, _ = await read_answer(one)
        assert (status, fields["connection"]) == (200, "close")
        assert await one.read() == b""
    assert await idle_reader.read() == b""
    await drain
    with pytest.raises(ConnectionRefusedError):
        await served.open()
    assert outcomes(served.runtime) == {"ok": 2}
    for opened in (writer, late, idle):
        opened.close()


async def test_draining_ends_with_its_grace(served: Served) -> None:
    served.triton.gate.clear()
    reader, writer = await served.open()
    writer.write(wire(*numbers(1, 2)))
    await until(lambda: served.triton.asked)
    await served.plane.drain(0)
    assert (await read_answer(reader))[0] == 503
    assert await reader.read() == b""
    writer.close()


async def test_any_bytes_leave_the_server_alive(
    served: Served, client: aiohttp.ClientSession
) -> None:
    draw = random.Random(7)
    good = wire(*numbers(1, 2))

    async def one() -> None:
        data = bytearray(good * draw.randint(1, 3))
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(data))
            data[at : at + draw.randint(0, 6)] = draw.randbytes(draw.randint(0, 6))
        reader, writer = await served.open()
        writer.write(data)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                answers = await reader.read()
                assert b"HTTP/1.1 5" not in answers
        writer.close()

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(20)))
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert (await answer.json())["outputs"][0]["data"] == [2, 3]
    assert set(outcomes(served.runtime)) <= {"ok", "client_error", "cancelled"}


@pytest.fixture
def table_of(make: Any) -> Callable[..., RoutingTable]:
    """A table with a test that gives the treatment all of the traffic."""

    def made(**fields: Any) -> RoutingTable:
        outcomes = [Outcome(name="accuracy", kind="Binary")]
        table: RoutingTable = make.table(("control", 9, 0), ("treatment", 1, 10_000), revision=2)
        test = Experiment(uid="uid", outcomes=outcomes, **fields)
        return msgspec.structs.replace(table, experiment=test)

    return made


async def test_an_answer_of_a_test_carries_a_token_that_counts_once(
    served: Served, client: aiohttp.ClientSession, table_of: Callable[..., RoutingTable]
) -> None:
    served.runtime.apply(table_of())
    url = f"{served.url}/v2/models/m/feedback"
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert "tidegate-feedback" not in answer.headers  # the key is not known
    served.runtime.feedback.use(b"0123456789abcdef")
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.headers["tidegate-arm"] == "treatment"
        token = answer.headers["tidegate-feedback"]
    async with client.post(f"{served.url}/v2/models/m/versions/1/infer", json=as_json(1)) as answer:
        assert "tidegate-feedback" not in answer.headers
    async with client.post(url, json={"token": token, "correct": True}) as answer:
        assert answer.status == 200
        assert await answer.json() == {"accepted": 1, "refused": []}
    async with client.post(url, json=[{"token": token, "correct": False}]) as answer:
        assert await answer.json() == {
            "accepted": 0,
            "refused": [{"index": 0, "reason": "used"}],
        }
    (sums,) = (one for one in served.runtime.feedback.sums.values() if one.count)
    assert (sums.count, sums.pos) == (1, 1.0)


async def test_an_answer_that_failed_carries_no_token(
    served: Served, client: aiohttp.ClientSession, table_of: Callable[..., RoutingTable]
) -> None:
    served.runtime.apply(table_of())
    served.runtime.feedback.use(b"0123456789abcdef")
    served.triton.fault = lambda _: web.json_response({"error": "no"}, status=500)
    async with client.post(served.infer, json=as_json(1, 2)) as answer:
        assert answer.status == 500
        assert "tidegate-feedback" not in answer.headers


async def test_feedback_that_cannot_be_taken(
    served: Served, client: aiohttp.ClientSession, table_of: Callable[..., RoutingTable]
) -> None:
    async def status(data: bytes, model: str = "m") -> int:
        async with client.post(f"{served.url}/v2/models/{model}/feedback", data=data) as answer:
            assert (await answer.json()).keys() == {"error"}
            return answer.status

    entry = b'{"token": "x", "correct": true}'
    assert await status(entry) == 409
    assert await status(entry, "other") == 404
    served.runtime.apply(table_of())
    assert await status(entry) == 503
    served.runtime.feedback.use(b"0123456789abcdef")
    assert await status(b"{") == 400
    assert await status(b" " * 2**21) == 413
    assert served.runtime.feedback.sums.keys()
    assert not any(one.count for one in served.runtime.feedback.sums.values())


async def test_a_question_that_is_too_deep_is_answered(served: Served) -> None:
    body = b'{"a":' + b"[" * 100_000
    head = f"POST /v2/repository/index HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await served.open()
    writer.write(head.encode() + body)
    status, _, _ = await read_answer(reader)
    assert status == 400
    writer.close()


async def test_what_is_refused_by_its_head_holds_nobody(served: Served) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    reader, writer = await served.open()
    for _ in range(3):
        writer.write(head)
        status, _, _ = await read_answer(reader)
        assert status == 403
    target = served.plane.read_head(head).target
    assert isinstance(target, Refusal)
    assert target.__traceback__ is None
    writer.close()


async def test_a_question_is_dropped_with_its_caller(served: Served) -> None:
    served.triton.gate.clear()
    _, writer = await served.open()
    writer.write(b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    await until(lambda: served.triton.bodies)
    assert served.triton.bodies == [b""]  # a question has none
    writer.close()
    await until(lambda: not served.plane._triton.busy)


async def test_what_nobody_asked_for_ends_a_connection_to_triton() -> None:
    more = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await more.wait()
        writer.write(b"HTTP/1.1 200")

    async with await asyncio.start_server(answer, HOST, 0) as server:
        pool = Pool(f"{HOST}:{server.sockets[0].getsockname()[1]}")
        await pool.request(plain_request("a", "GET", "/", b""))
        assert pool._idle
        more.set()
        await until(lambda: not pool._idle)


async def test_a_body_of_many_objects_holds_nobody_up_for_its_garbage(served: Served) -> None:
    body = b'{"inputs":[%b]}' % b",".join([b'{"name":"x","datatype":"FP32","shape":[1]}'] * 50_000)
    head = served.plane.read_head(wire(body).partition(b"{")[0])
    collections: list[dict[str, int]] = []

    def collected(_: str, found: dict[str, int]) -> None:
        collections.append(found)

    gc.callbacks.append(collected)
    try:
        with pytest.raises(Refusal, match="inputs: more than"):
            served.plane.handle(_Nobody(), head, body)
    finally:
        gc.callbacks.remove(collected)
    assert len(collections) < 20  # else hundreds
    assert gc.isenabled()


class _Nobody:
    """Who gets a refusal by its being raised."""

    cancel: Callable[[], None] | None = None

    def respond(
        self, status: int, fields: bytes, parts: Sequence[Buffer], *, close: bool = False
    ) -> None:
        raise AssertionError

    def refuse(self, refusal: Refusal, fields: bytes = b"", *, close: bool = False) -> None:
        raise AssertionError
