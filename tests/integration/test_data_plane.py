"""The data plane before a real Triton, asked by Triton's own client: the same answers.

One model gives back what it is given, in every type; it raises, or sleeps, where it is told to.
"""

import asyncio
import copy
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import aiohttp
import numpy as np
import pytest
from triton_server import BINARY_ONLY, PATIENCE, TYPES, TritonServer, lay_out
from tritonclient.http.aio import InferenceServerClient, InferInput, InferRequestedOutput

from tidegate_contract.table import Arm, BatchSettings, LoadedVersion, RoutingTable, Share
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.triton import Triton
from tidegate_tools.addresses import free_port

RAISE, SLEEP = -1, -2

MODEL_SOURCE = f"""
import time

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        outputs = []
        for tensor in request.inputs():
            if tensor.name() == "x_BF16":  # numpy has no such type
                outputs.append(pb.Tensor.from_dlpack("y_BF16", tensor.to_dlpack()))
                continue
            values = tensor.as_numpy()
            if tensor.name() == "x_INT32" and values.size:
                if (values == {RAISE}).any():
                    return pb.InferenceResponse(error=pb.TritonError("it was told to raise"))
                if (values == {SLEEP}).any():
                    time.sleep(30)
            outputs.append(pb.Tensor("y" + tensor.name()[1:], values))
        return pb.InferenceResponse(outputs)
"""


def config(max_batch_size: int) -> str:
    def tensors(letter: str, *fields: str) -> str:
        dims = "[-1, 2]" if max_batch_size else "[-1, -1, 2]"
        return ",".join(
            " ".join(
                (
                    f'{{ name: "{letter}_{name}"',
                    f"data_type: TYPE_{'STRING' if name == 'BYTES' else name}",
                    f"dims: {dims}",
                    *fields,
                    "}",
                )
            )
            for name in TYPES
        )

    return (
        f'backend: "python" max_batch_size: {max_batch_size} '
        f"input [{tensors('x', 'optional: true')}] output [{tensors('y')}] "
        "instance_group [{ count: 1 kind: KIND_CPU }]"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "datatype" in metafunc.fixturenames:
        metafunc.parametrize("datatype", TYPES)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    models = tmp_path_factory.mktemp("data-plane") / "models"
    for name, size in (("batched", 16), ("single", 0)):
        lay_out(models, name, MODEL_SOURCE, config(size))
    with TritonServer.running(models) as made:
        yield made


class Sidecar:
    """The data plane of one pod with both models."""

    def __init__(self, server: TritonServer) -> None:
        self.runtimes = {name: ModelRuntime(name, "pod") for name in ("batched", "single")}
        self.plane = DataPlane(self.runtimes, server.http)
        self.address = f"127.0.0.1:{free_port()}"
        self._server = server

    async def start(self) -> None:
        host, _, port = self.address.rpartition(":")
        await self.plane.start(host, int(port))
        async with Triton(self._server.http) as client:
            for name, runtime in self.runtimes.items():
                runtime.apply(table(name))
                runtime.version_ready(await client.describe(name, 1))

    def outcomes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for tally in self.runtimes["batched"].counters.tallies.values():
            for outcome, count in tally.outcomes.items():
                found[outcome] = found.get(outcome, 0) + count
        return found


def table(model: str, **batch: Any) -> RoutingTable:
    return RoutingTable(
        namespace="default",
        model=model,
        revision=1,
        split_revision=1,
        split=[Arm(name="stable", version=1, weight=10_000)],
        versions=[LoadedVersion(version=1)],
        batch=BatchSettings(**batch),
        baseline=[Share(version=1, weight=10_000)],
    )


@pytest.fixture
async def sidecar(server: TritonServer) -> AsyncIterator[Sidecar]:
    server.ensure()
    made = Sidecar(server)
    await made.start()
    yield made
    await made.plane.drain(10)


@pytest.fixture
async def through(sidecar: Sidecar) -> AsyncIterator[InferenceServerClient]:
    client = InferenceServerClient(sidecar.address)
    yield client
    await client.close()


@pytest.fixture
async def directly(server: TritonServer, sidecar: Sidecar) -> AsyncIterator[InferenceServerClient]:
    client = InferenceServerClient(server.http)
    yield client
    await client.close()


def values(datatype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Any values of a type; of the numbers also the extreme ones."""
    draw = random.Random(seed)
    if datatype == "BYTES":
        words = ["", "a", "grüße", "\0", "x" * 300]
        flat: list[Any] = [draw.choice(words).encode() for _ in range(int(np.prod(shape)))]
        return np.array(flat, np.object_).reshape(shape)
    size = int(np.prod(shape)) * np.dtype(TYPES[datatype]).itemsize
    raw = bytes(draw.randrange(2) for _ in range(size)) if datatype == "BOOL" else None
    made = np.frombuffer(raw or draw.randbytes(size), TYPES[datatype]).reshape(shape).copy()
    if datatype == "BF16":  # an exponent of all ones means that it is no number
        made = (made.view(np.uint16) & 0xFF7F).view(made.dtype)
    return np.nan_to_num(made) if datatype.startswith("FP") else made


async def ask(
    client: InferenceServerClient,
    model: str,
    given: dict[str, Any],
    *,
    binary: bool = True,
    classes: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """One inference; its outputs by name, and the whole answer's header."""
    inputs = []
    for datatype, array in given.items():
        one = InferInput(f"x_{datatype}", list(array.shape), datatype)
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    outputs = [
        InferRequestedOutput(f"y_{datatype}", binary_data=binary, class_count=classes)
        for datatype in given
    ]
    answer = await client.infer(model, inputs, outputs=outputs, **options)
    return {name: answer.as_numpy(f"y_{name}") for name in given} | {
        "header": answer.get_response()
    }


def same(got: Any, sent: Any) -> bool:
    """Equal in shape and values; what came as JSON is text where bytes were sent."""
    flat = [one.encode() if isinstance(one, str) else one for one in got.ravel().tolist()]
    return bool(got.shape == sent.shape and flat == sent.ravel().tolist())


@pytest.mark.parametrize("model", ["batched", "single"])
@pytest.mark.parametrize("binary", [True, False])
async def test_answers_are_the_same_with_and_without(
    through: InferenceServerClient,
    directly: InferenceServerClient,
    datatype: str,
    model: str,
    binary: bool,
) -> None:
    if datatype in BINARY_ONLY and not binary:
        pytest.skip("JSON cannot carry it")
    given = {datatype: values(datatype, (3, 5, 2))}
    ours = await ask(through, model, given, binary=binary, request_id="7")
    theirs = await ask(directly, model, given, binary=binary, request_id="7")
    header, expected = ours["header"], theirs["header"]
    if datatype == "FP64" and not binary:
        # Triton's reader of JSON is off in a double's last digit; ours is exact.
        for shown in (header, expected):
            del shown["outputs"][0]["data"]
    else:
        assert (ours[datatype] == theirs[datatype]).all()
    assert header == expected
    assert ours[datatype].dtype == theirs[datatype].dtype
    assert same(ours[datatype], given[datatype])


async def test_several_tensors_and_labels(
    through: InferenceServerClient, directly: InferenceServerClient
) -> None:
    given = {name: values(name, (2, 3, 2)) for name in ("BYTES", "FP32", "BOOL", "INT64")}
    for client in (through, directly):
        answer = await ask(client, "batched", given)
        assert all(same(answer[name], array) for name, array in given.items())
    labels = [
        await ask(client, "batched", {"FP32": given["FP32"]}, classes=2)
        for client in (through, directly)
    ]
    assert labels[0]["header"] == labels[1]["header"]
    assert (labels[0]["FP32"] == labels[1]["FP32"]).all()


async def test_large_tensors_and_small_ones_in_turn(through: InferenceServerClient) -> None:
    sizes = [200_000, 1, 70_000, 30_000, 200_000]
    for binary in (True, False):
        given = [np.arange(2 * size, dtype=np.int32).reshape(1, size, 2) for size in sizes]
        asked = [ask(through, "batched", {"INT32": one}, binary=binary) for one in given]
        found = await asyncio.gather(*asked)
        for one, answer in zip(given, found, strict=True):
            assert np.array_equal(answer["INT32"], one)


async def test_a_body_without_json(sidecar: Sidecar, server: TritonServer) -> None:
    answers = []
    async with aiohttp.ClientSession() as session:
        for address in (sidecar.address, server.http):
            # The model has many inputs, so both must refuse it.
            url = f"http://{address}/v2/models/batched/infer"
            fields = {"Inference-Header-Content-Length": "0"}
            async with session.post(url, data=bytes(8), headers=fields) as answer:
                answers.append(answer.status)
    assert answers == [400, 400]


async def test_everybody_gets_their_own_rows_in_fewer_executions(
    through: InferenceServerClient, server: TritonServer
) -> None:
    before = server.executions("batched")

    async def one(seed: int) -> None:
        draw = random.Random(seed)
        for i in range(10):
            shape = (draw.randint(1, 4), draw.randint(1, 2), 2)
            names = draw.choice((["BYTES"], ["FP64"], ["BYTES", "FP64"]))
            given = {name: values(name, shape, seed * 100 + i) for name in names}
            answer = await ask(through, "batched", given, binary=draw.random() < 0.5)
            assert all(same(answer[name], array) for name, array in given.items())

    await asyncio.gather(*(one(seed) for seed in range(24)))
    assert server.executions("batched") - before < 240


async def test_the_models_own_error_is_passed_on(
    sidecar: Sidecar, server: TritonServer, through: InferenceServerClient
) -> None:
    request = {
        "inputs": [
            {"name": "x_INT32", "datatype": "INT32", "shape": [1, 1, 2], "data": [RAISE] * 2}
        ]
    }
    answers = []
    async with aiohttp.ClientSession() as session:
        for address in (sidecar.address, server.http):
            url = f"http://{address}/v2/models/batched/infer"
            async with session.post(url, json=request) as answer:
                answers.append((answer.status, "told to raise" in await answer.text()))
    assert answers == [(500, True)] * 2
    assert sidecar.outcomes() == {"server_error": 1}


_X = {"name": "x_INT32", "datatype": "INT32", "shape": [1, 1, 2], "data": [1, 2]}


@pytest.mark.parametrize(
    "body",
    [
        b"rubbish",
        b"{}",
        b'{"inputs": []}',
        *(
            json.dumps({"inputs": [_X | fields]}).encode()
            for fields in (
                {"shape": [2**32, 2**32, 2]},
                {"shape": [1, 2**62, 2]},
                {"shape": [1, 2**63 - 1, 2], "data": []},
                {"shape": [-1, 1, 2]},
                {"shape": [1, 2]},
                {"data": [1]},
                {"data": [1.5, 2]},
                {"data": ["a", "b"]},
                {"datatype": "FP32"},
                {"datatype": 5},
                {"name": "nobody"},
                {"shape": [65_537, 1, 2], "data": [1] * 131_074},
                {"parameters": {"binary_data_size": 2**40}},
                {"parameters": {"shared_memory_region": "r"}},
            )
        ),
        json.dumps({"inputs": [_X], "parameters": {"priority": "high"}}).encode(),
        json.dumps({"inputs": [_X], "parameters": {"triton_enable": True}}).encode(),
        json.dumps({"inputs": [_X], "outputs": [{"name": "nobody"}]}).encode(),
    ],
)
async def test_a_clients_mistake_is_a_4xx_and_triton_never_sees_it(
    sidecar: Sidecar, server: TritonServer, body: bytes
) -> None:
    before = server.executions("batched")
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{sidecar.address}/v2/models/batched/infer", data=body) as answer,
    ):
        assert 400 <= answer.status < 500
        assert (await answer.json())["error"]
    assert server.alive
    assert server.executions("batched") == before
    assert sidecar.outcomes() == {"client_error": 1}


def mutated(draw: random.Random) -> bytes:
    """A good request with a few of its values replaced by others."""
    request: dict[str, Any] = {
        "id": "1",
        "inputs": [dict(_X, parameters={})],
        "outputs": [{"name": "y_INT32", "parameters": {}}],
        "parameters": {},
    }
    names = ["id", "name", "shape", "datatype", "data", "parameters", "binary_data", "priority"]
    names += ["classification", "sequence_id", "sequence_start", "sequence_end", "timeout", "other"]
    strange: list[Any] = [None, True, -1, 0, 1, 3, 2**31, 2**62, 2**64, 0.5, 1e300, "", "x", [], {}]
    strange += ["x_BYTES", "x_FP16", "BYTES", "FP16", [1, 1, 2], [0, 1, 2], [2**40] * 3, [[1], [2]]]
    for _ in range(draw.randint(1, 4)):
        places = [request, request["parameters"]]
        for one in (request["inputs"], request["outputs"]):
            if isinstance(one, list) and one and isinstance(one[0], dict):
                places += [one[0], one[0].get("parameters")]
        place = draw.choice([one for one in places if isinstance(one, dict)])
        name = draw.choice(names)
        if name == "parameters" and place is request:
            continue
        place[name] = copy.deepcopy(draw.choice(strange))
    return json.dumps(request).encode()


async def test_no_mutated_request_is_answered_5xx_or_ends_triton(
    sidecar: Sidecar, server: TritonServer
) -> None:
    draw = random.Random(1)
    statuses: dict[int, int] = {}
    async with aiohttp.ClientSession() as session:
        for _ in range(1500):
            url = f"http://{sidecar.address}/v2/models/{draw.choice(['batched', 'single'])}"
            url += draw.choice(["/infer", "/versions/1/infer"])
            body = mutated(draw)
            async with session.post(url, data=body) as answer:
                late = answer.status == 504 and b'"timeout"' in body
                assert answer.status < 500 or late, (body, await answer.text())
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
    assert server.alive
    assert min(statuses[200], statuses[400]) > 50


async def test_what_is_passed_through(sidecar: Sidecar) -> None:
    async with aiohttp.ClientSession(f"http://{sidecar.address}") as session:
        for path in ("/v2", "/v2/models/batched", "/v2/models/batched/versions/1/config"):
            async with session.get(path) as answer:
                assert answer.status == 200
                assert "name" in await answer.json()
        for path in ("/v2/health/live", "/v2/models/batched/ready"):
            async with session.get(path) as answer:
                assert answer.status == 200
        async with session.post("/v2/repository/index", json={"ready": True}) as answer:
            assert {one["name"] for one in await answer.json()} == {"batched", "single"}
        async with session.post("/v2/repository/models/single/unload") as answer:
            assert answer.status == 403


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)


async def test_a_triton_that_dies_costs_its_requests_a_503_and_no_more(
    sidecar: Sidecar, server: TritonServer
) -> None:
    asleep = {"inputs": [_X | {"data": [SLEEP, SLEEP]}]}
    async with aiohttp.ClientSession() as session:

        async def post(body: Any) -> tuple[int, str | None]:
            url = f"http://{sidecar.address}/v2/models/batched/infer"
            async with session.post(url, json=body) as answer:
                await answer.read()
                return answer.status, answer.headers.get("Retry-After")

        flying = asyncio.create_task(post(asleep))
        await until(lambda: any(sidecar.runtimes["batched"]._batcher.unanswered()))
        await until(lambda: not sidecar.runtimes["batched"]._batcher.waiting)
        waiting = [asyncio.create_task(post({"inputs": [_X]})) for _ in range(5)]
        await until(lambda: sidecar.runtimes["batched"]._batcher.waiting == 5)
        server.kill()
        assert await flying == (503, "1")
        assert await asyncio.gather(*waiting) == [(503, "1")] * 5
        await asyncio.to_thread(server.ensure)
        assert await post({"inputs": [_X]}) == (200, None)
    assert sidecar.outcomes() == {"server_error": 1, "rejected": 5, "ok": 1}


async def test_a_version_that_triton_dropped_is_not_the_callers_mistake(
    sidecar: Sidecar, server: TritonServer
) -> None:
    """Until the control side has seen it, requests still go there."""
    statuses = []
    async with aiohttp.ClientSession() as session:
        control = f"http://{server.http}/v2/repository/models/single"
        for verb in ("unload", "load"):
            async with session.post(f"{control}/{verb}", json={}) as answer:
                assert answer.status == 200
            await until(partial(server.has, "single", ready=verb == "load"))
            url = f"http://{sidecar.address}/v2/models/single/infer"
            async with session.post(url, json={"inputs": [_X]}) as answer:
                statuses.append(answer.status)
    assert statuses == [503, 200]


async def test_draining_under_load_loses_nothing(sidecar: Sidecar) -> None:
    """Every request whose bytes the sidecar took gets its answer; then connections end cleanly."""
    answered = refused = 0
    started = asyncio.Event()

    async def client() -> None:
        nonlocal answered, refused
        body = json.dumps({"inputs": [_X]}).encode()
        head = f"POST /v2/models/batched/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
        reader, writer = await asyncio.open_connection(*sidecar.address.split(":"))
        closing = False
        while not closing:
            writer.write(head.encode() + b"\r\n\r\n" + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(answer.lower().split("content-length: ")[1].split("\r\n")[0])
            await reader.readexactly(length)
            answered += answer.startswith("HTTP/1.1 200")
            refused += not answer.startswith("HTTP/1.1 200")
            closing = "Connection: close" in answer
            started.set()
        assert await reader.read() == b""
        writer.close()

    clients = [asyncio.create_task(client()) for _ in range(32)]
    await started.wait()
    await until(lambda: answered > 200)
    await sidecar.plane.drain(20)
    await asyncio.gather(*clients)
    assert refused == 0
    assert sidecar.outcomes() == {"ok": answered}
