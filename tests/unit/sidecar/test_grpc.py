"""The gRPC face: calls become the data plane's requests, questions pass through."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from tritonclient.grpc import service_pb2 as messages

from tidegate_contract.table import Assignment
from tidegate_sidecar.core.endpoints import Kind, Target
from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.shell.connection import Caller
from tidegate_sidecar.shell.grpc_server import GrpcServer
from tidegate_sidecar.shell.http import RequestHead
from tidegate_tools.addresses import free_port

HOST = "127.0.0.1"
SERVICE = "inference.GRPCInferenceService"
PATIENCE = 60.0
ROOM = 2**30
FINAL = "triton_enable_empty_final_response"

Parameter = messages.InferParameter
Infer = messages.ModelInferRequest


def call(
    *values: float, model: str = "m", typed: bool = False, parameters: Any = None, **fields: Any
) -> Any:
    """A call of rows of two numbers."""
    tensor = Infer.InferInputTensor(name="x", datatype="FP32", shape=[len(values) // 2, 2])
    request = Infer(model_name=model, parameters=parameters or {}, **fields)
    if typed:
        tensor.contents.fp32_contents.extend(values)
    else:
        request.raw_input_contents.append(struct.pack(f"<{len(values)}f", *values))
    request.inputs.append(tensor)
    return request


class Plane:
    """Keeps what it is handed; or answers it with ``answer``."""

    def __init__(self) -> None:
        self.health_ready: Callable[[], bool] = lambda: True
        self.draining = False
        self.asked: list[tuple[Caller, RequestHead, bytes]] = []
        self.answer: Callable[[Caller, RequestHead, bytes], None] | None = None
        self.room = Room(ROOM)

    def admit(self, head: RequestHead, size: int) -> None:
        self.room.take(size)

    def handle(self, connection: Caller, head: RequestHead, body: bytes) -> None:
        self.asked.append((connection, head, body))
        if self.answer:
            self.answer(connection, head, body)

    def answer_all(self) -> None:
        """Late, those who got no answer so far."""
        for caller, _, _ in self.asked:
            caller.refuse(Refusal(503, "late"))


def echo(caller: Caller, head: RequestHead, body: bytes) -> None:
    """Answer y = x, as the data plane would."""
    data = body[head.json_length :]
    output = {"name": "y", "datatype": "FP32", "shape": [len(data) // 8, 2]}
    output |= {"parameters": {"binary_data_size": len(data)}}
    json = {"model_name": "m", "model_version": "1", "outputs": [output]}
    fields = b"Content-Type: application/octet-stream\r\ntidegate-model: m\r\ntidegate-arm: a\r\n"
    caller.respond(200, fields, (msgspec.json.encode(json), memoryview(data)))


class FakeTriton:
    """Answers questions with what it was asked, and each call of a stream by its id and version.

    ``streams``: by each one, the versions that were asked.
    """

    def __init__(self) -> None:
        self.streams: list[list[str]] = []
        self.asked: list[tuple[str, bytes]] = []
        self._server = grpc.aio.server(handlers=[self])
        self.address = f"{HOST}:{self._server.add_insecure_port(f'{HOST}:0')}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def service(self, details: Any) -> Any:
        async def answer(message: bytes, context: Any) -> bytes:
            self.asked.append((details.method, message))
            if b"sick" in message:
                await context.abort(grpc.StatusCode.INTERNAL, "sick")
            return message

        async def stream(calls: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            versions: list[str] = []
            self.streams.append(versions)
            async for one in calls:
                request = Infer.FromString(one)
                versions.append(request.model_version)
                if request.id == "end":
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "ended")
                yield messages.ModelStreamInferResponse(
                    infer_response=messages.ModelInferResponse(
                        id=request.id,
                        model_version=request.model_version,
                        parameters=request.parameters,
                    )
                ).SerializeToString()

        if details.method.endswith("ModelStreamInfer"):
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)


class Face:
    """The server under test and a client of it."""

    def __init__(self, runtime: Any, triton: FakeTriton) -> None:
        self.plane, self.runtime, self.triton = Plane(), runtime, triton
        forwarding = Forwarding("x-tenant")
        self.server = GrpcServer(self.plane, {"m": runtime}, triton.address, forwarding=forwarding)
        self.address = f"{HOST}:{free_port()}"
        self.channel = grpc.aio.insecure_channel(self.address)

    async def start(self) -> None:
        await self.server.start(HOST, int(self.address.rpartition(":")[2]))

    def ask(self, method: str, message: Any, **options: Any) -> Any:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        return self.channel.unary_unary(f"/{SERVICE}/{method}")(data, **options)

    async def infer(self, message: Any, **options: Any) -> Any:
        answer = await self.ask("ModelInfer", message, **options)
        return messages.ModelInferResponse.FromString(answer)

    async def fails(self, method: str, message: Any, **options: Any) -> Any:
        """The error that a call ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(method, message, **options)
        return caught.value

    async def until_asked(self, count: int = 1) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.plane.asked) < count:  # noqa: ASYNC110 - looks from outside
                await asyncio.sleep(0.01)


@pytest.fixture
async def face(make: Any) -> AsyncIterator[Face]:
    triton = FakeTriton()
    await triton.start()
    table = make.table(("stable", 1, 10_000), ("canary", 2, 0))
    made = Face(make.runtime(table, make.version(1), make.version(2)), triton)
    await made.start()
    yield made
    await made.channel.close()
    await made.server.stop(0)
    made.plane.answer_all()
    assert made.plane.room.free == ROOM
    await triton.stop()


async def test_a_call_is_the_same_request_as_over_http(face: Face) -> None:
    face.plane.answer = echo
    asked = [("tidegate-priority", "1"), ("x-user", "a"), ("x-user", "b")]
    request = call(
        *(1.0, 2.0, 3.0, 4.0),
        id="grüße",
        model_version="2",
        parameters={"priority": Parameter(uint64_param=4), "custom": Parameter(string_param="c")},
        outputs=[
            Infer.InferRequestedOutputTensor(
                name="y", parameters={"classification": Parameter(int64_param=3)}
            )
        ],
    )
    pending = face.ask("ModelInfer", request, metadata=asked)
    answer = messages.ModelInferResponse.FromString(await pending)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "grüße")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("y", "FP32", [2, 2])
    ]
    assert list(answer.raw_output_contents) == [struct.pack("<4f", 1, 2, 3, 4)]
    assert dict(await pending.trailing_metadata()) == {"tidegate-model": "m", "tidegate-arm": "a"}
    ((_, head, body),) = face.plane.asked
    assert isinstance(head.target, Target)
    assert (head.target.kind, head.target.model, head.target.version) == (Kind.INFER, "m", 2)
    assert (head.headers["tidegate-priority"], head.headers["x-user"]) == ("1", "a, b")
    assert head.json_length is not None
    assert msgspec.json.decode(body[: head.json_length]) == {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [2, 2],
                "parameters": {"binary_data_size": 16},
            }
        ],
        "outputs": [{"name": "y", "parameters": {"classification": 3, "binary_data": True}}],
        "parameters": {"priority": 4, "custom": "c", "binary_data_output": True},
    }
    assert body[head.json_length :] == struct.pack("<4f", 1, 2, 3, 4)


async def test_an_output_may_come_in_pieces(face: Face) -> None:
    def answer(caller: Caller, *_: Any) -> None:
        outputs = [
            {"name": name, "datatype": "UINT8", "shape": [size]}
            | {"parameters": {"binary_data_size": size}}
            for name, size in (("a", 5), ("empty", 0), ("b", 200))
        ]
        json = {"model_name": "m", "model_version": "1", "outputs": outputs}
        json["parameters"] = {"flag": True, "count": 3, "part": 0.5, "text": "t"}
        pieces = (b"12", b"", b"345", bytes(100), b"", bytes(100))
        caller.respond(200, b"", (msgspec.json.encode(json), *pieces))

    face.plane.answer = answer
    found = await face.infer(call(1, 2))
    assert list(found.raw_output_contents) == [b"12345", b"", bytes(200)]
    choices = {name: one.WhichOneof("parameter_choice") for name, one in found.parameters.items()}
    assert choices == {
        "flag": "bool_param",
        "count": "int64_param",
        "part": "double_param",
        "text": "string_param",
    }


_TYPED: list[tuple[str, str, Sequence[Any], bytes]] = [
    ("BOOL", "bool_contents", [True, False], b"\1\0"),
    ("INT8", "int_contents", [-128, 127], struct.pack("<2b", -128, 127)),
    ("INT16", "int_contents", [-(2**15), 1], struct.pack("<2h", -(2**15), 1)),
    ("INT32", "int_contents", [-(2**31), 1], struct.pack("<2i", -(2**31), 1)),
    ("INT64", "int64_contents", [-(2**63), 1], struct.pack("<2q", -(2**63), 1)),
    ("UINT8", "uint_contents", [255, 0], b"\xff\0"),
    ("UINT16", "uint_contents", [2**16 - 1, 0], struct.pack("<2H", 2**16 - 1, 0)),
    ("UINT32", "uint_contents", [2**32 - 1, 0], struct.pack("<2I", 2**32 - 1, 0)),
    ("UINT64", "uint64_contents", [2**64 - 1, 0], struct.pack("<2Q", 2**64 - 1, 0)),
    ("FP32", "fp32_contents", [0.5, -0.0], struct.pack("<2f", 0.5, -0.0)),
    ("FP64", "fp64_contents", [0.1, 1e300], struct.pack("<2d", 0.1, 1e300)),
    ("BYTES", "bytes_contents", [b"ab", b""], b"\2\0\0\0ab\0\0\0\0"),
]


@pytest.mark.parametrize(("datatype", "field", "values", "raw"), _TYPED)
async def test_typed_contents_are_raw_ones(
    face: Face, datatype: str, field: str, values: Sequence[Any], raw: bytes
) -> None:
    face.plane.answer = echo
    tensor = Infer.InferInputTensor(name="x", datatype=datatype, shape=[1, 2])
    getattr(tensor.contents, field).extend(values)
    await face.infer(Infer(model_name="m", inputs=[tensor]))
    tensor.ClearField("contents")
    await face.infer(Infer(model_name="m", inputs=[tensor], raw_input_contents=[raw]))
    (_, head, first), (_, _, second) = face.plane.asked
    assert first == second
    assert first[head.json_length :] == raw


def _wrong() -> dict[str, Any]:
    beyond = Infer.InferInputTensor(name="x", datatype="INT8", shape=[1, 1])
    beyond.contents.int_contents.append(300)
    other = Infer.InferInputTensor(name="x", datatype="INT8", shape=[1, 1])
    other.contents.fp32_contents.append(1)
    half = Infer.InferInputTensor(name="x", datatype="FP16", shape=[1, 1])
    half.contents.fp32_contents.append(1)
    both = call(1, 2, typed=True)
    both.raw_input_contents.append(bytes(8))
    return {
        "no ModelInferRequest": b"\xff\xff",
        "inputs[0].contents: a value is out of the range": Infer(inputs=[beyond]),
        "inputs[0].contents: fp32_contents": Infer(inputs=[other]),
        "inputs[0].contents: FP16 has none": Infer(inputs=[half]),
        "raw_input_contents: not together": both,
        "raw_input_contents: 2 for 1": call(1, 2, raw_input_contents=[b""]),
        "raw_input_contents: 0 for 1": Infer(inputs=[call(1, 2).inputs[0]]),
        "parameters.p: has no value": call(1, 2, parameters={"p": Parameter()}),
        "model_version: '0'": call(1, 2, model_version="0"),
        "model_version: 'x'": call(1, 2, model_version="x"),
    }


@pytest.mark.parametrize("message", _wrong())
async def test_a_clients_mistake_names_its_field(face: Face, message: str) -> None:
    error = await face.fails("ModelInfer", _wrong()[message])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in error.details()
    assert not face.plane.asked


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (404, grpc.StatusCode.NOT_FOUND),
        (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (500, grpc.StatusCode.INTERNAL),
        (501, grpc.StatusCode.UNIMPLEMENTED),
        (503, grpc.StatusCode.UNAVAILABLE),
        (504, grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
@pytest.mark.parametrize("raised", [True, False])
async def test_refusals_have_tritons_codes(
    face: Face, status: int, code: grpc.StatusCode, raised: bool
) -> None:
    def refuse(caller: Caller, *_: Any) -> None:
        refusal = Refusal(status, "why")
        if raised:
            raise refusal
        caller.refuse(refusal, b"tidegate-version: 7\r\n")

    face.plane.answer = refuse
    error = await face.fails("ModelInfer", call(1, 2))
    assert (error.code(), error.details()) == (code, "why")
    metadata = dict(error.trailing_metadata())
    assert ("retry-after" in metadata) == (status in (429, 503))
    assert ("tidegate-version" in metadata) != raised


async def test_a_call_without_room_is_refused(face: Face) -> None:
    face.plane.room = Room(1_000)
    assert (await face.fails("ModelInfer", call(*range(200)))).code() is (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    face.plane.room.give(-800)
    error = await face.fails("ModelInfer", call(1, 2))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "retry-after" in dict(error.trailing_metadata())
    face.plane.room.give(ROOM - 200)
    assert not face.plane.asked


async def test_a_message_beyond_all_room_is_not_taken_in(make: Any) -> None:
    made = Face(make.runtime(), FakeTriton())
    made.plane.room = Room(4 * 2**20)
    await made.start()
    error = await made.fails("ModelInfer", bytes(3 * 2**20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (error.details() or "")
    await made.channel.close()
    await made.server.stop(0)


async def test_a_mistake_of_ours_is_answered(face: Face) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    face.plane.answer = fail
    assert (await face.fails("ModelInfer", call(1, 2))).code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("by", ["client", "deadline"])
async def test_who_goes_is_cancelled(face: Face, by: str) -> None:
    gone = asyncio.Event()

    def wait(caller: Caller, *_: Any) -> None:
        caller.cancel = gone.set

    face.plane.answer = wait
    await face.channel.channel_ready()
    pending = face.ask("ModelInfer", call(1, 2), timeout=3.0 if by == "deadline" else None)
    await face.until_asked()
    if by == "client":
        pending.cancel()
    await asyncio.wait_for(gone.wait(), PATIENCE)
    ((caller, _, _),) = face.plane.asked
    caller.respond(200, b"", [b"{}"])  # too late: nobody minds


@pytest.mark.parametrize(
    ("remaining", "named", "least", "most"),
    [
        (None, None, None, None),
        (None, "70", 70, 70),
        (1000.0, None, 100_000, 2_000_000),
        (1000.0, "70", 70, 70),
        (1000.0, "7000000", 100_000, 2_000_000),
    ],
)
async def test_the_earlier_deadline_holds(
    face: Face, remaining: float | None, named: str | None, least: int | None, most: int | None
) -> None:
    face.plane.answer = echo
    metadata = [("tidegate-deadline-ms", named)] if named else []
    await face.infer(call(1, 2), timeout=remaining, metadata=metadata)
    found = face.plane.asked[0][1].headers.get("tidegate-deadline-ms")
    if least is None or most is None:
        assert found is None
    else:
        assert found is not None
        assert least <= int(found) <= most


async def test_a_deadline_that_is_no_number_is_left_to_the_rules(face: Face) -> None:
    face.plane.answer = echo
    await face.infer(call(1, 2), timeout=1000.0, metadata=[("tidegate-deadline-ms", "soon")])
    assert face.plane.asked[0][1].headers["tidegate-deadline-ms"] == "soon"


@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}/RepositoryModelLoad",
        f"{SERVICE}/RepositoryModelUnload",
        f"{SERVICE}/SystemSharedMemoryRegister",
        f"{SERVICE}/CudaSharedMemoryStatus",
        f"{SERVICE}/TraceSetting",
        f"{SERVICE}/LogSettings",
        f"{SERVICE}/Whatever",
        "other.Service/ModelInfer",
    ],
)
async def test_all_else_is_shut(face: Face, method: str) -> None:
    for shape in (face.channel.unary_unary(f"/{method}"), face.channel.unary_stream(f"/{method}")):
        pending = shape(b"")
        assert await pending.code() is grpc.StatusCode.PERMISSION_DENIED
    assert not face.triton.asked


@pytest.mark.parametrize(
    ("method", "given", "passed"),
    [
        ("ServerLive", messages.ServerLiveRequest(), messages.ServerLiveRequest()),
        ("ServerMetadata", messages.ServerMetadataRequest(), messages.ServerMetadataRequest()),
        (
            "RepositoryIndex",
            messages.RepositoryIndexRequest(ready=True),
            messages.RepositoryIndexRequest(ready=True),
        ),
        (
            "ModelMetadata",
            messages.ModelMetadataRequest(name="m"),
            messages.ModelMetadataRequest(name="m", version="1"),
        ),
        (
            "ModelReady",
            messages.ModelReadyRequest(name="m", version="2"),
            messages.ModelReadyRequest(name="m", version="2"),
        ),
        (
            "ModelConfig",
            messages.ModelConfigRequest(name="m"),
            messages.ModelConfigRequest(name="m", version="1"),
        ),
        (
            "ModelStatistics",
            messages.ModelStatisticsRequest(name="m"),
            messages.ModelStatisticsRequest(name="m", version="1"),
        ),
        ("ModelStatistics", messages.ModelStatisticsRequest(), messages.ModelStatisticsRequest()),
    ],
)
async def test_questions_pass_through_with_their_version(
    face: Face, method: str, given: Any, passed: Any
) -> None:
    unknown = b"\xf2\x3f\x01?"  # a field that nobody has
    answer = await face.ask(method, given.SerializeToString() + unknown)
    assert answer == passed.SerializeToString()
    assert face.triton.asked == [(f"/{SERVICE}/{method}", answer)]


async def test_questions_that_cannot_be_asked(face: Face) -> None:
    for message, code in (
        (messages.ModelMetadataRequest(name="other"), grpc.StatusCode.NOT_FOUND),
        (messages.ModelMetadataRequest(name="m", version="x"), grpc.StatusCode.INVALID_ARGUMENT),
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        assert (await face.fails("ModelMetadata", message)).code() is code
    assert not face.triton.asked
    answer = await face.ask("ModelReady", messages.ModelReadyRequest(name="other"))
    assert not messages.ModelReadyResponse.FromString(answer).ready
    sick = messages.RepositoryIndexRequest(repository_name="sick")
    error = await face.fails("RepositoryIndex", sick)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "sick")


@pytest.mark.parametrize(
    ("ready", "draining", "said"), [(True, False, True), (False, False, False), (True, True, False)]
)
async def test_readiness_is_our_own(face: Face, ready: bool, draining: bool, said: bool) -> None:
    face.plane.health_ready, face.plane.draining = lambda: ready, draining
    answer = await face.ask("ServerReady", b"")
    assert messages.ServerReadyResponse.FromString(answer).ready == said
    assert not face.triton.asked


async def test_a_long_message_still_fits_into_metadata(face: Face) -> None:
    for name in ("n" * 100_000, "ñ" * 100_000):
        error = await face.fails("ModelMetadata", messages.ModelMetadataRequest(name=name))
        assert error.code() is grpc.StatusCode.NOT_FOUND


class Talk:
    """A stream through the face."""

    def __init__(self, face: Face, *metadata: tuple[str, str], **options: Any) -> None:
        method = face.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        self.stream = method(metadata=metadata, **options)

    async def send(self, message: Any) -> None:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        await self.stream.write(data)

    async def hear(self) -> Any:
        answer = await asyncio.wait_for(self.stream.read(), PATIENCE)
        return messages.ModelStreamInferResponse.FromString(answer)

    async def say(self, message: Any) -> Any:
        """Send a call; its answer."""
        await self.send(message)
        return await self.hear()

    async def version(self, message: Any) -> str:
        return str((await self.say(message)).infer_response.model_version)

    async def end(self) -> Any:
        """Say that no more calls come; how the stream ends."""
        await self.stream.done_writing()
        return await asyncio.wait_for(self.stream.code(), PATIENCE)


def decouple(face: Face, make: Any, *versions: int) -> None:
    for version in versions:
        face.runtime.version_ready(replace(make.version(version), decoupled=True))


async def test_calls_of_a_stream_are_single_ones_answered_in_order(face: Face) -> None:
    talk = Talk(face, ("x-user", "7"), timeout=PATIENCE)
    for number in range(3):
        final = {FINAL: Parameter(bool_param=bool(number))}
        await talk.send(call(number, 2, id=f"i{number}", model_version="2", parameters=final))
    await face.until_asked(3)
    for number, (caller, head, body) in reversed(list(enumerate(face.plane.asked))):
        assert head.target == Target(Kind.INFER, "POST", "", "m", 2)
        assert head.headers["x-user"] == "7"
        assert int(head.headers["tidegate-deadline-ms"]) > 0
        assert FINAL.encode() not in body[: head.json_length]
        if number == 1:
            caller.refuse(Refusal(429, "full"))
        else:
            echo(caller, head, body)
    first, second, third = [await talk.hear() for _ in range(3)]
    for number, answer in ((0, first), (2, third)):
        response = answer.infer_response
        assert not answer.error_message
        assert (response.id, response.model_name, response.model_version) == (
            f"i{number}",
            "m",
            "1",
        )
        assert response.parameters["triton_final_response"].bool_param
        assert response.raw_output_contents == [struct.pack("<2f", number, 2)]
    assert (second.error_message, second.infer_response.id) == ("full", "i1")
    assert await talk.end() is grpc.StatusCode.OK
    assert not face.triton.streams


async def test_all_calls_are_answered_after_the_last_one_came(face: Face) -> None:
    talk = Talk(face)
    for _ in range(3):
        await talk.send(call(1, 2))
    await talk.stream.done_writing()
    await face.until_asked(3)
    for asked in face.plane.asked:
        echo(*asked)
    assert [(await talk.hear()).error_message for _ in range(3)] == [""] * 3
    assert await talk.stream.code() is grpc.StatusCode.OK


async def test_a_stream_has_a_bounded_number_of_calls_under_way(face: Face) -> None:
    talk = Talk(face)

    async def send() -> None:
        for _ in range(300):
            await talk.send(call(1, 2))

    sending = asyncio.create_task(send())
    await face.until_asked(256)
    for _ in range(20):  # more would have come
        await face.ask("ServerReady", b"")
    assert len(face.plane.asked) == 256
    for asked in face.plane.asked[:256]:
        echo(*asked)
    face.plane.answer = echo
    for asked in face.plane.asked[256:]:
        echo(*asked)
    assert [(await talk.hear()).error_message for _ in range(300)] == [""] * 300
    await sending
    assert await talk.end() is grpc.StatusCode.OK


async def test_who_leaves_a_stream_takes_all_of_its_calls_along(face: Face) -> None:
    left: list[int] = []

    def note(caller: Caller, head: RequestHead, body: bytes) -> None:
        caller.cancel = partial(left.append, len(face.plane.asked))

    face.plane.answer = note
    talk = Talk(face)
    for _ in range(3):
        await talk.send(call(1, 2))
    await face.until_asked(3)
    talk.stream.cancel()
    async with asyncio.timeout(PATIENCE):
        while len(left) < 3:  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)
    assert sorted(left) == [1, 2, 3]


async def test_a_stream_ends_at_the_end_with_what_it_has_taken(face: Face) -> None:
    talk, idle = Talk(face), Talk(face)
    for _ in range(2):
        await talk.send(call(1, 2))
    await face.until_asked(2)
    stopping = asyncio.create_task(face.server.stop(PATIENCE))
    for asked in face.plane.asked:
        echo(*asked)
    assert [(await talk.hear()).error_message for _ in range(2)] == ["", ""]
    for one in (talk, idle):
        assert await asyncio.wait_for(one.stream.code(), PATIENCE) is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in await one.stream.details()
    await asyncio.wait_for(stopping, PATIENCE)


async def test_a_mistake_of_ours_does_not_end_a_stream(face: Face) -> None:
    def fail(caller: Caller, head: RequestHead, body: bytes) -> None:
        if len(face.plane.asked) == 1:
            raise ValueError
        if len(face.plane.asked) == 2:
            caller.respond(200, b"", [b"no json"])
        echo(caller, head, body)

    face.plane.answer = fail
    talk = Talk(face)
    for mistake in ("a mistake of the sidecar", "a mistake of the sidecar", ""):
        assert (await talk.say(call(1, 2))).error_message == mistake


async def test_decoupled_calls_pass_by_to_the_version_that_is_meant(face: Face, make: Any) -> None:
    decouple(face, make, 1, 2)
    talk = Talk(face)
    assert await talk.version(call(1, 2)) == "1"
    assert await talk.version(call(1, 2, model_version="2")) == "2"
    assert set(face.runtime.direct_at) == {1, 2}
    face.runtime.apply(make.table(("canary", 2, 10_000), revision=2, loaded=[1]))
    assert await talk.version(call(1, 2)) == "2"
    final = {FINAL: Parameter(bool_param=True)}
    answer = (await talk.say(call(1, 2, parameters=final))).infer_response
    assert answer.model_version == "2"
    assert answer.parameters[FINAL].bool_param
    assert await talk.end() is grpc.StatusCode.OK
    assert face.triton.streams == [["1", "2", "2", "2"]]
    assert not face.plane.asked


async def test_other_calls_of_a_model_with_a_decoupled_version_do_not_pass_by(
    face: Face, make: Any
) -> None:
    decouple(face, make, 2)
    face.plane.answer = echo
    talk = Talk(face)
    for version in ("1", "2", "2", "1", ""):
        final = {FINAL: Parameter(bool_param=True)}
        assert await talk.version(call(1, 2, model_version=version, parameters=final)) in "12"
    assert await talk.end() is grpc.StatusCode.OK
    assert face.triton.streams == [["2", "2"]]
    assert [head.target.version for _, head, _ in face.plane.asked] == [1, 1, 1]


async def test_a_decoupled_call_follows_its_header(face: Face, make: Any) -> None:
    decouple(face, make, 1, 2)
    split = ("control", 1, 5_000), ("treatment", 2, 5_000)
    by_user = Assignment(header="x-user", salt="s")
    face.runtime.apply(make.table(*split, revision=2, assignment=by_user))
    found = set()
    for user in range(20):
        talk = Talk(face, ("x-user", str(user)))
        first = await talk.version(call(1, 2))
        assert [await talk.version(call(1, 2)) for _ in range(3)] == [first] * 3
        found.add(first)
        talk.stream.cancel()
    assert found == {"1", "2"}


async def test_a_decoupled_model_is_told_of_headers(face: Face, make: Any) -> None:
    decouple(face, make, 1)
    talk = Talk(face, ("x-tenant", "a"), ("x-user", "7"))
    answer = await talk.say(call(1, 2, parameters={"k": Parameter(int64_param=3)}))
    given = answer.infer_response.parameters
    assert {name: given[name].string_param or given[name].int64_param for name in given} == {
        "x-tenant": "a",
        "k": 3,
    }


async def test_a_decoupled_sequence_stays_with_its_version(face: Face, make: Any) -> None:
    def part(name: Any, **flags: bool) -> Any:
        ident = Parameter(string_param=name) if isinstance(name, str) else None
        parameters = {"sequence_id": ident or Parameter(int64_param=name)}
        parameters |= {f"sequence_{at}": Parameter(bool_param=on) for at, on in flags.items()}
        return call(1, 2, parameters=parameters)

    decouple(face, make, 1, 2)
    talk = Talk(face)
    for name in (7, "seven"):
        assert await talk.version(part(name, start=True)) == "1"
    face.runtime.apply(make.table(("canary", 2, 10_000), revision=2, loaded=[1]))
    for name in (7, "seven"):
        assert await talk.version(part(name)) == "1"
        assert await talk.version(part(name, end=True)) == "1"
        assert await talk.version(part(name, start=True)) == "2"
    assert await talk.version(part(8, start=True)) == "2"
    talk.stream.cancel()


@pytest.mark.parametrize("passes_by", [True, False])
async def test_a_wrong_call_does_not_end_a_stream(face: Face, make: Any, passes_by: bool) -> None:
    face.plane.answer = echo
    wrong = {
        b"\xff": "no ModelInferRequest",
        call(1, 2, model_version="x").SerializeToString(): "model_version",
        call(1, 2, parameters={FINAL: Parameter(int64_param=1)}).SerializeToString(): "true or fal",
    }
    if passes_by:
        decouple(face, make, 1)
        huge = Infer.InferInputTensor(name="x", datatype="FP32", shape=[2**32, 2**32])
        shared = call(1, 2)
        shared.ClearField("raw_input_contents")
        shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
        for message, why in (
            (call(1, 2, model_version="3"), "no version 3"),
            (Infer(model_name="m", inputs=[huge], raw_input_contents=[b""]), "shape"),
            (call(1, 2, parameters={"triton_x": Parameter(bool_param=True)}), "reserved"),
            (call(model_version="1"), "batch-size"),
            (shared, "shared memory"),
        ):
            wrong[message.SerializeToString()] = why
    talk = Talk(face)
    for message, why in wrong.items():
        assert why in (await talk.say(message)).error_message
    assert await talk.version(call(1, 2)) == "1"
    assert (await talk.say(call(id="s", model_version="x"))).infer_response.id == "s"
    assert await talk.end() is grpc.StatusCode.OK


async def test_a_stream_ends_as_triton_ends_that_of_its_decoupled_calls(
    face: Face, make: Any
) -> None:
    decouple(face, make, 1)
    talk = Talk(face)
    assert await talk.version(call(1, 2)) == "1"
    await talk.send(call(1, 2, id="end"))
    assert await asyncio.wait_for(talk.stream.code(), PATIENCE) is grpc.StatusCode.UNAVAILABLE


async def test_stopping_answers_what_was_accepted(face: Face) -> None:
    pending = face.ask("ModelInfer", call(1, 2))
    await face.until_asked()
    stopping = asyncio.create_task(face.server.stop(PATIENCE))
    await asyncio.sleep(0)
    ((caller, head, body),) = face.plane.asked
    echo(caller, head, body)
    assert messages.ModelInferResponse.FromString(await pending).model_name == "m"
    await asyncio.wait_for(stopping, PATIENCE)


async def test_a_port_that_is_taken_is_an_error(face: Face) -> None:
    second = GrpcServer(face.plane, {}, face.triton.address)
    with pytest.raises(OSError, match="port"):
        await second.start(HOST, int(face.address.rpartition(":")[2]))
