"""What clients keep on Triton's side, through the sidecar: sequences and shared memory.

One real Triton with a stateful model of two versions and a plain one; Triton's own clients.
"""

import asyncio
import json
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from test_data_plane import table
from triton_server import PATIENCE, TritonServer, lay_out
from tritonclient.utils import InferenceServerException, shared_memory

from tidegate_contract.table import Arm, LoadedVersion, Share
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.grpc_server import GrpcServer
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.triton import Triton
from tidegate_tools.addresses import free_port

SUMS_SOURCE = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def control(name):
            return pb.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]

        sequence = int(control("ID"))
        if control("START"):
            self.sums[sequence] = 0
        self.sums[sequence] += int(pb.get_input_tensor_by_name(request, "x").as_numpy().ravel()[0])
        output = np.array([[self.sums[sequence], self.version]], np.int32)
        return pb.InferenceResponse([pb.Tensor("y", output)])
"""
SUMS_CONFIG = """
backend: "python" max_batch_size: 4
input [{ name: "x" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [2] }]
sequence_batching {
  max_sequence_idle_microseconds: 30000000
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
    { name: "ID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
}
version_policy { all {} }
instance_group [{ count: 1 kind: KIND_CPU }]
"""
PLAIN_SOURCE = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        (tensor,) = request.inputs()
        return pb.InferenceResponse([pb.Tensor("y", 2 * tensor.as_numpy())])
"""
PLAIN_CONFIG = """
backend: "python" max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
KINDS = {"http": over_http, "grpc": over_grpc}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    models = tmp_path_factory.mktemp("client-state") / "models"
    lay_out(models, "sums", SUMS_SOURCE, SUMS_CONFIG, versions=(1, 2))
    lay_out(models, "plain", PLAIN_SOURCE, PLAIN_CONFIG)
    with TritonServer.running(models) as made:
        yield made


class Sidecar:
    """Both faces of one pod, with or without shared memory."""

    def __init__(self, server: TritonServer, *, shared: bool) -> None:
        self.runtimes = {
            name: ModelRuntime(name, "pod", shared_memory=shared) for name in ("sums", "plain")
        }
        self.plane = DataPlane(self.runtimes, server.http, shared_memory=shared)
        self.face = GrpcServer(self.plane, self.runtimes, server.grpc, shared_memory=shared)
        self.http, self.grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"

    async def start(self, server: TritonServer) -> None:
        await self.plane.start("127.0.0.1", int(self.http.rpartition(":")[2]))
        await self.face.start("127.0.0.1", int(self.grpc.rpartition(":")[2]))
        async with Triton(server.http) as client:
            for name, versions in (("sums", (1, 2)), ("plain", (1,))):
                self.split(name, 1)
                for version in versions:
                    self.runtimes[name].version_ready(await client.describe(name, version))

    def split(self, name: str, version: int) -> None:
        """Give all new traffic to a version."""
        made = msgspec.structs.replace(
            table(name),
            split=[Arm(name="stable", version=version, weight=10_000)],
            baseline=[Share(version=version, weight=10_000)],
            versions=[LoadedVersion(version=one) for one in (1, 2)],
        )
        self.runtimes[name].apply(made)

    def address(self, kind: str) -> str:
        return self.http if kind == "http" else self.grpc


@pytest.fixture(params=[True], ids=["shared"])
async def sidecar(server: TritonServer, request: pytest.FixtureRequest) -> AsyncIterator[Sidecar]:
    made = Sidecar(server, shared=request.param)
    await made.start(server)
    yield made
    await asyncio.gather(made.plane.drain(10), made.face.stop(10))


def add(kind: str, address: str, value: int, sequence: int, **flags: bool) -> tuple[int, int]:
    """Send part of a sequence; the sum so far, and the version that says so."""
    module = KINDS[kind]
    tensor = module.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    with module.InferenceServerClient(address) as client:
        answer = client.infer("sums", [tensor], sequence_id=sequence, **flags)
        total, version = answer.as_numpy("y").ravel()
        return int(total), int(version)


async def test_a_sequence_over_both_faces_stays_with_its_version(sidecar: Sidecar) -> None:
    async def say(kind: str, value: int, sequence: int, **flags: bool) -> tuple[int, int]:
        address = sidecar.address(kind)
        return await asyncio.to_thread(add, kind, address, value, sequence, **flags)

    assert await say("http", 1, 7, sequence_start=True) == (1, 1)
    sidecar.split("sums", 2)
    assert await say("grpc", 10, 7) == (11, 1)
    assert await say("http", 5, 8, sequence_start=True) == (5, 2)
    assert await say("grpc", 5, 8, sequence_end=True) == (10, 2)
    assert await say("http", 100, 7) == (111, 1)
    runtime = sidecar.runtimes["sums"]
    now = sidecar.plane._clock()
    assert runtime.in_use(1, now)
    assert not runtime.in_use(1, now + 31)  # as its configuration says
    assert await say("http", 1000, 7, sequence_end=True) == (1111, 1)
    assert not runtime.in_use(1, now)
    assert await say("grpc", 3, 7, sequence_start=True, sequence_end=True) == (3, 2)


async def test_a_stream_and_single_calls_are_one_sequence(sidecar: Sidecar) -> None:
    assert await asyncio.to_thread(add, "http", sidecar.http, 1, 9, sequence_start=True) == (1, 1)
    sidecar.split("sums", 2)
    assert await asyncio.to_thread(_stream, sidecar.grpc, 20, 9) == (21, 1)
    assert await asyncio.to_thread(add, "grpc", sidecar.grpc, 300, 9, sequence_end=True) == (321, 1)


def _stream(address: str, value: int, sequence: int) -> tuple[int, int]:
    found: list[Any] = []
    answered = threading.Event()

    def take(result: Any, error: Any) -> None:
        found.append(result if error is None else error)
        answered.set()

    tensor = over_grpc.InferInput("x", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    with over_grpc.InferenceServerClient(address) as client:
        client.start_stream(take)
        client.async_stream_infer("sums", [tensor], sequence_id=sequence)
        assert answered.wait(PATIENCE)
        client.stop_stream()
    total, version = found[0].as_numpy("y").ravel()
    return int(total), int(version)


async def test_what_is_sent_at_once_is_added_in_order(sidecar: Sidecar) -> None:
    """Each over a connection of its own, none waiting for the one before it."""
    base = "http://" + sidecar.http + "/v2/models/sums/infer"

    def body(value: int, **flags: bool) -> bytes:
        tensor = {"name": "x", "shape": [1, 1], "datatype": "INT32", "data": [value]}
        return json.dumps({"inputs": [tensor], "parameters": {"sequence_id": 5} | flags}).encode()

    def ask(data: bytes) -> int:
        with urllib.request.urlopen(base, data, PATIENCE) as answer:
            return int(json.load(answer)["outputs"][0]["data"][0])

    runtime = sidecar.runtimes["sums"]
    sidecar.plane._set_held(held=True)
    asked = []
    for value in range(5):
        data = body(value, sequence_start=value == 0, sequence_end=value == 4)
        asked.append(asyncio.create_task(asyncio.to_thread(ask, data)))
        async with asyncio.timeout(PATIENCE):
            while runtime.waiting <= value:  # noqa: ASYNC110 - looks from outside
                await asyncio.sleep(0.005)
    sidecar.plane._set_held(held=False)
    assert await asyncio.gather(*asked) == [sum(range(value + 1)) for value in range(5)]


async def test_what_continues_nothing_is_tritons_to_refuse(sidecar: Sidecar) -> None:
    for kind in KINDS:
        with pytest.raises(InferenceServerException, match="sequence"):
            await asyncio.to_thread(add, kind, sidecar.address(kind), 1, 99)
    outcomes = [tally.outcomes for tally in sidecar.runtimes["sums"].counters.tallies.values()]
    assert outcomes == [{"client_error": 2}]


def _with_regions(kind: str, address: str) -> tuple[list[float], Any]:
    """Have a tensor doubled from one region into another; what is there, and the answer."""
    module = KINDS[kind]
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    key = f"/tidegate_test_{kind}_{address.rpartition(':')[2]}"
    region = shared_memory.create_shared_memory_region("both", key, 64)
    try:
        shared_memory.set_shared_memory_region(region, [values])
        with module.InferenceServerClient(address) as client:
            client.register_system_shared_memory("both", key, 64)
            try:
                return _double(module, client, region)
            finally:
                client.unregister_system_shared_memory("both")
                assert not _names(client)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def _double(module: Any, client: Any, region: Any) -> tuple[list[float], Any]:
    assert _names(client) == ["both"]
    tensor = module.InferInput("x", [2, 4], "FP32")
    tensor.set_shared_memory("both", 32)
    wanted = module.InferRequestedOutput("y")
    wanted.set_shared_memory("both", 32, offset=32)
    result = client.infer("plain", [tensor], outputs=[wanted], request_id="7")
    found = shared_memory.get_contents_as_numpy(region, np.float32, [2, 4], offset=32)
    back = client.infer("plain", [tensor]).as_numpy("y")
    assert back.tolist() == found.tolist()
    for region_name, offset in (("both", 64), ("other", 0)):  # beyond its end; unknown
        tensor.set_shared_memory(region_name, 32, offset=offset)
        with pytest.raises(InferenceServerException, match=region_name):
            client.infer("plain", [tensor])
    response = result.get_response()
    return found.ravel().tolist(), response if isinstance(response, dict) else str(response)


def _names(client: Any) -> list[str]:
    status = client.get_system_shared_memory_status()
    if isinstance(status, list):
        return [one["name"] for one in status]
    return sorted(status.regions)


@pytest.mark.parametrize("kind", KINDS)
async def test_tensors_may_lie_in_shared_memory(
    sidecar: Sidecar, server: TritonServer, kind: str
) -> None:
    ours = await asyncio.to_thread(_with_regions, kind, sidecar.address(kind))
    theirs = await asyncio.to_thread(_with_regions, kind, getattr(server, kind))
    assert ours == theirs
    assert ours[0] == [2.0 * one for one in range(8)]
    ((_, tally),) = (
        (key, one) for key, one in sidecar.runtimes["plain"].counters.tallies.items() if key[1]
    )
    assert tally.outcomes == {"ok": 2, "client_error": 2}


@pytest.mark.parametrize("sidecar", [False], indirect=True, ids=["without"])
@pytest.mark.parametrize("kind", KINDS)
async def test_without_the_flag_nothing_is_shared(sidecar: Sidecar, kind: str) -> None:
    def ask() -> None:
        module = KINDS[kind]
        with module.InferenceServerClient(sidecar.address(kind)) as client:
            for call in (
                lambda: client.register_system_shared_memory("r", "/r", 64),
                client.get_system_shared_memory_status,
                client.unregister_system_shared_memory,
            ):
                with pytest.raises(InferenceServerException, match="not offered"):
                    call()
            tensor = module.InferInput("x", [2, 4], "FP32")
            tensor.set_shared_memory("r", 32)
            with pytest.raises(InferenceServerException, match="not offered"):
                client.infer("plain", [tensor])

    await asyncio.to_thread(ask)
