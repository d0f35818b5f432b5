"""All of Triton's own clients get the same answers from the sidecar as from Triton itself.

One Triton, asked both ways: over HTTP and gRPC, in every type, packed, in streams.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from operator import attrgetter, itemgetter
from queue import Queue
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from test_data_plane import MODEL_SOURCE, config, table, values
from triton_server import PATIENCE, TYPES, TritonServer, lay_out
from tritonclient.grpc import service_pb2 as messages
from tritonclient.utils import InferenceServerException

from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.grpc_server import GrpcServer
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.triton import Triton
from tidegate_tools.addresses import free_port

MODELS = ("batched", "single", "counting", "telling")
TENANT = "x-tenant"
"""A header that models are told of."""

COUNTING_SOURCE = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            (tensor,) = request.inputs()
            sender = request.get_response_sender()
            for number in range(int(tensor.as_numpy().ravel()[0])):
                output = pb.Tensor("number", np.array([number], np.int32))
                sender.send(pb.InferenceResponse([output]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
COUNTING_CONFIG = """
backend: "python" max_batch_size: 0
input [{ name: "count" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "number" data_type: TYPE_INT32 dims: [1] }]
model_transaction_policy { decoupled: true }
instance_group [{ count: 1 kind: KIND_CPU }]
"""
TELLING_SOURCE = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        (tensor,) = request.inputs()
        rows = len(tensor.as_numpy())
        told = np.array([[request.parameters().encode()]] * rows, np.object_)
        return pb.InferenceResponse([pb.Tensor("y_BYTES", told)])
"""
TELLING_CONFIG = """
backend: "python" max_batch_size: 16
input [{ name: "x_BYTES" data_type: TYPE_STRING dims: [1] }]
output [{ name: "y_BYTES" data_type: TYPE_STRING dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    models = tmp_path_factory.mktemp("protocol") / "models"
    for name, source, text in (
        ("batched", MODEL_SOURCE, config(16)),
        ("single", MODEL_SOURCE, config(0)),
        ("counting", COUNTING_SOURCE, COUNTING_CONFIG),
        ("telling", TELLING_SOURCE, TELLING_CONFIG),
    ):
        lay_out(models, name, source, text)
    told = [f"--{face}-header-forward-pattern={TENANT}" for face in ("http", "grpc")]
    with TritonServer.running(models, *told) as made:
        yield made


class Sidecar:
    """Both faces of one pod."""

    def __init__(self, server: TritonServer) -> None:
        told = Forwarding(TENANT)
        self.runtimes = {name: ModelRuntime(name, "pod", forwarding=told) for name in MODELS}
        self.plane = DataPlane(self.runtimes, server.http)
        self.plane.health_ready = lambda: True
        self.face = GrpcServer(self.plane, self.runtimes, server.grpc)
        self.http, self.grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"

    async def start(self, server: TritonServer) -> None:
        await self.plane.start("127.0.0.1", int(self.http.rpartition(":")[2]))
        await self.face.start("127.0.0.1", int(self.grpc.rpartition(":")[2]))
        async with Triton(server.http) as client:
            for name, runtime in self.runtimes.items():
                runtime.apply(table(name))
                runtime.version_ready(await client.describe(name, 1))

    @property
    def waiting(self) -> int:
        return self.runtimes["batched"].waiting


@pytest.fixture
async def sidecar(server: TritonServer) -> AsyncIterator[Sidecar]:
    made = Sidecar(server)
    await made.start(server)
    yield made
    await asyncio.gather(made.plane.drain(10), made.face.stop(10))


Ask = Callable[..., Any]


def _inputs(kind: Any, given: dict[str, Any], **form: bool) -> list[Any]:
    inputs = []
    for datatype, array in given.items():
        one = kind.InferInput(f"x_{datatype}", list(array.shape), datatype)
        one.set_data_from_numpy(array, **form)
        inputs.append(one)
    return inputs


def _seen(result: Any, given: dict[str, Any]) -> list[Any]:
    """All that a client sees: the answer's description, and each output's type, shape and bits.

    The order of outputs is the model's own, which may change from one time to the next.
    """
    seen: list[Any] = []
    for datatype in given:
        array = result.as_numpy(f"y_{datatype}")
        content = array.tolist() if array.dtype == np.object_ else array.tobytes()
        seen.append((array.dtype, array.shape, content))
    response = result.get_response()
    if isinstance(response, dict):
        response["outputs"].sort(key=itemgetter("name"))
        return [response, *seen]
    assert len(response.raw_output_contents) == len(response.outputs)
    response.ClearField("raw_output_contents")
    response.outputs.sort(key=attrgetter("name"))
    return [response.SerializeToString(deterministic=True), *seen]


def with_http(address: str, model: str, given: dict[str, Any], **options: Any) -> list[Any]:
    outputs, binary = _http_outputs(sync_http, given, options)
    with sync_http.InferenceServerClient(address) as client:
        inputs = _inputs(sync_http, given, binary_data=binary)
        return _seen(client.infer(model, inputs, outputs=outputs, **options), given)


async def with_http_aio(address: str, model: str, given: dict[str, Any], **options: Any) -> Any:
    outputs, binary = _http_outputs(aio_http, given, options)
    async with aio_http.InferenceServerClient(address) as client:
        inputs = _inputs(aio_http, given, binary_data=binary)
        return _seen(await client.infer(model, inputs, outputs=outputs, **options), given)


def _http_outputs(kind: Any, given: dict[str, Any], options: dict[str, Any]) -> tuple[Any, bool]:
    binary, classes = options.pop("binary", True), options.pop("classes", 0)
    outputs = [
        kind.InferRequestedOutput(f"y_{datatype}", binary_data=binary, class_count=classes)
        for datatype in given
    ]
    return outputs, binary


def with_grpc(address: str, model: str, given: dict[str, Any], **options: Any) -> list[Any]:
    outputs = _grpc_outputs(sync_grpc, given, options)
    with sync_grpc.InferenceServerClient(address) as client:
        inputs = _inputs(sync_grpc, given)
        return _seen(client.infer(model, inputs, outputs=outputs, **options), given)


async def with_grpc_aio(address: str, model: str, given: dict[str, Any], **options: Any) -> Any:
    outputs = _grpc_outputs(aio_grpc, given, options)
    async with aio_grpc.InferenceServerClient(address) as client:
        inputs = _inputs(aio_grpc, given)
        return _seen(await client.infer(model, inputs, outputs=outputs, **options), given)


def with_stream(address: str, model: str, given: dict[str, Any], **options: Any) -> list[Any]:
    outputs = _grpc_outputs(sync_grpc, given, options)
    options["stream_timeout"] = options.pop("client_timeout", PATIENCE)
    of_stream = ("stream_timeout", "headers", "compression_algorithm")
    begin = {name: options.pop(name) for name in of_stream if name in options}
    found: Queue[Any] = Queue()
    with sync_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.put((result, error)), **begin)
        client.async_stream_infer(model, _inputs(sync_grpc, given), outputs=outputs, **options)
        result, error = found.get(timeout=PATIENCE)
        client.stop_stream()
    if error:
        raise error
    return _seen(result, given)


def _grpc_outputs(kind: Any, given: dict[str, Any], options: dict[str, Any]) -> Any:
    classes = options.pop("classes", 0)
    return [kind.InferRequestedOutput(f"y_{one}", class_count=classes) for one in given]


CLIENTS: dict[str, Ask] = {
    "http": with_http,
    "http.aio": with_http_aio,
    "grpc": with_grpc,
    "grpc.aio": with_grpc_aio,
    "grpc.stream": with_stream,
}


async def ask(client: str, addresses: Any, *arguments: Any, **options: Any) -> list[Any]:
    """What a client sees, by the addresses of the sidecar or of Triton."""
    address = addresses.http if client.startswith("http") else addresses.grpc
    if client.endswith("aio"):
        return list(await CLIENTS[client](address, *arguments, **options))
    return list(await asyncio.to_thread(CLIENTS[client], address, *arguments, **options))


@pytest.mark.parametrize("model", ["batched", "single"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_every_type_comes_back_bit_by_bit(
    sidecar: Sidecar, server: TritonServer, client: str, model: str
) -> None:
    cases: list[dict[str, Any]] = [{name: values(name, (3, 5, 2))} for name in TYPES]
    cases.append({name: values(name, (2, 3, 2), seed=1) for name in TYPES})
    cases.append({"BYTES": values("BYTES", (0 if model == "single" else 1, 0, 2))})
    for given in cases:
        ours = await ask(client, sidecar, model, given, request_id="7")
        theirs = await ask(client, server, model, given, request_id="7")
        assert ours == theirs
        assert [shape for _, shape, _ in ours[1:]] == [array.shape for array in given.values()]


@pytest.mark.parametrize("client", CLIENTS)
async def test_options_mean_the_same(sidecar: Sidecar, server: TritonServer, client: str) -> None:
    given = {"FP32": values("FP32", (2, 3, 2)), "INT64": values("INT64", (2, 3, 2))}
    options: list[dict[str, Any]] = [
        {"classes": 2},
        {"priority": 1, "timeout": 60_000_000},
        {"model_version": "1"},
        {"parameters": {"custom": "c", "number": 3}},
        {"headers": {"x-request-id": "r"}},
    ]
    if client.startswith("http"):
        options += [
            {"request_compression_algorithm": one, "response_compression_algorithm": other}
            for one in ("gzip", "deflate", None)
            for other in ("gzip", "deflate", None)
        ]
        options.append({"binary": False})
    else:
        options += [{"compression_algorithm": "gzip"}, {"client_timeout": PATIENCE}]
    for one in options:
        ours = await ask(client, sidecar, "batched", given, **one)
        assert ours == await ask(client, server, "batched", given, **one), one


@pytest.mark.parametrize("client", CLIENTS)
async def test_models_are_told_of_headers_as_by_triton(
    sidecar: Sidecar, server: TritonServer, client: str
) -> None:
    given = {"BYTES": np.array([[b""]], np.object_)}
    for headers in ({TENANT: "a", "x-other": "b"}, {TENANT: "a, b"}, {}):
        asked = [
            await ask(client, addresses, "telling", given, headers=headers)
            for addresses in (sidecar, server)
        ]
        assert asked[0] == asked[1]
        (_, (_, _, ((told,),))) = asked[0]
        expected = {name: value for name, value in headers.items() if name == TENANT}
        assert json.loads(told or b"{}") == expected


async def test_requests_with_other_headers_share_no_batch(
    sidecar: Sidecar, server: TritonServer
) -> None:
    given = {"BYTES": np.array([[b""]], np.object_)}
    before = server.executions("telling")
    sidecar.plane._set_held(held=True)
    tenants = ["a", "b", "a", None, "b", "a", None, "c"]
    asked = []
    for i, tenant in enumerate(tenants):
        client = ("http.aio", "grpc.aio")[i % 2]
        headers = {TENANT: tenant} if tenant else {}
        asked.append(asyncio.create_task(ask(client, sidecar, "telling", given, headers=headers)))
    await until(lambda: sidecar.runtimes["telling"].waiting == len(tenants))
    sidecar.plane._set_held(held=False)
    for tenant, pending in zip(tenants, asked, strict=True):
        (_, (_, _, ((told,),))) = await pending
        assert json.loads(told or b"{}").get(TENANT) == tenant
    assert len(set(tenants)) <= server.executions("telling") - before < len(tenants)


async def test_large_bodies_packed(sidecar: Sidecar, server: TritonServer) -> None:
    """Beyond what is coded at once."""
    given = {"FP64": np.arange(20_000.0).reshape(1, -1, 2)}
    for coding in ("gzip", "deflate"):
        options = {"request_compression_algorithm": coding}
        options["response_compression_algorithm"] = coding
        ours = await ask("http.aio", sidecar, "batched", given, **options)
        assert ours == await ask("http.aio", server, "batched", given, **options)


@pytest.mark.parametrize("client", CLIENTS)
async def test_errors_are_of_the_same_kind(
    sidecar: Sidecar, server: TritonServer, client: str
) -> None:
    good = {"INT32": values("INT32", (1, 1, 2))}
    cases: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("nobody", good, {}),
        ("batched", good, {"model_version": "9"}),
        ("batched", {"INT32": values("INT32", (1, 2))}, {}),
        ("batched", {"INT32": np.full((1, 1, 2), -1, np.int32)}, {}),  # the model raises
        ("counting", good, {}),
    ]
    for model, given, options in cases:
        statuses = []
        for addresses in (sidecar, server):
            with pytest.raises(InferenceServerException) as caught:
                await ask(client, addresses, model, given, **options)
            statuses.append(str(caught.value.status()))
        if client.startswith("http") and model == "nobody":
            assert statuses[0] == "404"  # Triton's own is 400 or 404, by its version
        elif model == "counting" and client != "grpc.stream":
            assert "400" in statuses[0] or "INVALID" in statuses[0]  # its fields come first
        else:
            assert statuses[0] == statuses[1], (model, options)


async def test_both_faces_share_batches(sidecar: Sidecar, server: TritonServer) -> None:
    given = [{"INT32": np.full((1, 1, 2), i, np.int32)} for i in range(8)]
    before = server.executions("batched")
    sidecar.plane._set_held(held=True)
    asked = []
    for i, one in enumerate(given):
        client = ("http.aio", "grpc.aio")[i % 2]
        asked.append(asyncio.create_task(ask(client, sidecar, "batched", one)))
        await until(lambda: sidecar.waiting == len(asked))
    sidecar.plane._set_held(held=False)
    for one, pending in zip(given, asked, strict=True):
        (_, (_, _, content)) = await pending
        assert content == one["INT32"].tobytes()
    # They came by turns, so whatever shares a batch is of both faces.
    assert server.executions("batched") - before < len(given)


@pytest.mark.parametrize("by", ["client", "deadline"])
async def test_who_goes_leaves_the_queue(sidecar: Sidecar, server: TritonServer, by: str) -> None:
    before = server.executions("batched")
    sidecar.plane._set_held(held=True)
    request = messages.ModelInferRequest(model_name="batched")
    request.inputs.add(name="x_INT32", datatype="INT32", shape=[1, 1, 2])
    request.raw_input_contents.append(bytes(8))
    async with grpc.aio.insecure_channel(sidecar.grpc) as channel:
        await channel.channel_ready()
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        pending = infer(request.SerializeToString(), timeout=5.0 if by == "deadline" else None)
        await until(lambda: sidecar.waiting == 1)
        if by == "client":
            pending.cancel()
        await until(lambda: not sidecar.waiting)
        sidecar.plane._set_held(held=False)
        expected = grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED
        assert await pending.code() is expected[by == "deadline"]
    assert server.executions("batched") == before


async def test_questions_are_answered_alike(sidecar: Sidecar, server: TritonServer) -> None:
    answers = []
    for address in (sidecar.grpc, server.grpc):
        async with aio_grpc.InferenceServerClient(address) as client:
            answers.append(
                [
                    await client.is_server_live(),
                    await client.is_server_ready(),
                    await client.is_model_ready("batched"),
                    await client.is_model_ready("nobody"),
                    await client.get_server_metadata(),
                    await client.get_model_metadata("batched"),
                    await client.get_model_config("batched"),
                    await client.get_model_repository_index(),
                ]
            )
    assert answers[0] == answers[1]
    async with aio_grpc.InferenceServerClient(sidecar.grpc) as client:
        statistics = await client.get_inference_statistics("batched")
        assert [one.version for one in statistics.model_stats] == ["1"]
        for shut in (client.load_model("batched"), client.unload_model("batched")):
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                await shut


def count_up_to(address: str, counts: Sequence[int], version: str) -> list[Any]:
    """All answers of a decoupled model to calls in one stream, in their order."""
    found: list[Any] = []
    with sync_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.append((result, error)))
        for count in counts:
            given = sync_grpc.InferInput("count", [1], "INT32")
            given.set_data_from_numpy(np.array([count], np.int32))
            client.async_stream_infer(
                "counting",
                [given],
                model_version=version,
                request_id=str(count),
                enable_empty_final_response=True,
            )
        ended = time.monotonic() + PATIENCE
        while len(found) < sum(counts) + len(counts) and time.monotonic() < ended:
            time.sleep(0.01)
        client.stop_stream()
    assert not any(error for _, error in found)
    return sorted(result.get_response().SerializeToString() for result, _ in found)


async def test_streams_of_a_decoupled_model(sidecar: Sidecar, server: TritonServer) -> None:
    counts = [3, 0, 5]
    ours = await asyncio.to_thread(count_up_to, sidecar.grpc, counts, "")
    assert len(ours) == sum(counts) + len(counts)
    assert ours == await asyncio.to_thread(count_up_to, server.grpc, counts, "1")
    assert sidecar.runtimes["counting"].direct_at


async def test_streams_of_both_kinds_at_once(sidecar: Sidecar, server: TritonServer) -> None:
    """Triton 2.51 ends where both kinds reach it as streams, now and then."""
    given = {"INT32": values("INT32", (1, 1, 2))}
    for _ in range(20):
        asked = [asyncio.to_thread(count_up_to, sidecar.grpc, [20, 0, 20], "") for _ in range(2)]
        asked += [ask("grpc.stream", sidecar, "batched", given) for _ in range(4)]
        await asyncio.gather(*asked)
    assert server.alive
    (tally,) = sidecar.runtimes["batched"].counters.tallies.values()
    assert tally.outcomes == {"ok": 80}


async def test_what_would_end_triton_never_reaches_it(
    sidecar: Sidecar, server: TritonServer
) -> None:
    """Triton 2.51 divides by the size of an element, or of a row, of what it is to rank."""
    given: dict[str, Any] = {"BYTES": values("BYTES", (1, 1, 2))}
    for client in CLIENTS:
        for one in (given, {"INT32": np.empty((1, 0, 2), np.int32)}):
            with pytest.raises(InferenceServerException, match="classification"):
                await ask(client, sidecar, "batched", one, classes=1)
    assert server.alive
    assert len(await ask("http", sidecar, "batched", given)) == 2


async def test_draining_answers_both_faces(server: TritonServer) -> None:
    sidecar = Sidecar(server)
    await sidecar.start(server)
    given = {"INT32": values("INT32", (1, 1, 2))}
    sidecar.plane._set_held(held=True)
    asked = [
        asyncio.create_task(ask(client, sidecar, "batched", given))
        for client in ("http.aio", "grpc.aio", "grpc.stream")
    ]
    await until(lambda: sidecar.waiting == 3)
    draining = asyncio.gather(sidecar.plane.drain(PATIENCE), sidecar.face.stop(PATIENCE))
    await asyncio.sleep(0)
    sidecar.plane._set_held(held=False)
    for pending in asked:
        assert (await pending)[1][2] == given["INT32"].tobytes()
    await asyncio.wait_for(draining, PATIENCE)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)
