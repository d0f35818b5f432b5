"""Mutated messages before the gRPC face: each call has one answer, an error only of its own making.

The face's own handler runs on a data plane whose Triton doubles numbers, without a socket: what
gRPC itself would refuse never gets as far.
"""

import asyncio
import struct
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from random import Random
from typing import Any

import grpc
import msgspec
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as messages

from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.shell import upstream
from tidegate_sidecar.shell.grpc_server import GrpcServer
from tidegate_sidecar.shell.server import DataPlane

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SEEDS = st.integers(0, 2**32)
CALLS = 4_000
TOGETHER = 20


class Aborted(Exception):  # noqa: N818 - as gRPC's own
    """The end of a call that has an error."""


class Context:
    """One call, as gRPC shows it to its handler."""

    def __init__(self) -> None:
        self.ended: list[grpc.StatusCode] = []
        self.written: list[bytes] = []
        self._trailing: Any = ()

    def invocation_metadata(self) -> Any:
        return (("tidegate-deadline-ms", "60000"),)

    def time_remaining(self) -> float | None:
        return None

    def trailing_metadata(self) -> Any:
        return self._trailing

    def set_trailing_metadata(self, metadata: Any) -> None:
        self._trailing = metadata

    async def write(self, message: bytes) -> None:
        self.written.append(message)

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        assert details
        assert all(isinstance(value, str) for pair in trailing for value in pair)
        self.ended.append(code)
        raise Aborted


class Triton:
    """Answers y = 2 x at once."""

    url = "triton:8000"

    def send(self, buffers: Sequence[Buffer], done: upstream.Done) -> None:
        _, header, *data = buffers
        body = b"".join(data)
        (tensor,) = msgspec.json.decode(header)["inputs"]
        assert len(body) == tensor["shape"][0] * 8 == tensor["parameters"]["binary_data_size"]
        numbers = struct.unpack(f"<{len(body) // 4}f", body)
        twice = struct.pack(
            f"<{len(numbers)}f", *(2 * one if abs(one) < 1e30 else one for one in numbers)
        )
        output = {"name": "y", "datatype": "FP32", "shape": tensor["shape"]}
        output["parameters"] = {"binary_data_size": len(twice)}
        text = msgspec.json.encode({"model_name": "m", "outputs": [output]})
        answer = upstream.Response(200, len(text), "application/octet-stream", text + twice)
        asyncio.get_running_loop().call_soon(done, answer)


class Face:
    """The handler of inference, and how each call of many at once ends."""

    def __init__(self, make: Any) -> None:
        self.loop = uvloop.new_event_loop()
        self.faults: list[Any] = []
        self.loop.set_exception_handler(lambda _, fault: self.faults.append(fault))
        self.plane = plane = DataPlane({"m": make.runtime()}, "triton:8000")
        triton: Any = Triton()
        for model in plane._models.values():
            model._triton = triton
        self.server = GrpcServer(plane, {}, "triton:8001")

    def answers(self, given_messages: list[bytes]) -> list[Any]:
        """For each call its answer, or the code that it ended with."""

        async def ask(message: bytes) -> Any:
            context = Context()
            try:
                answer = await self.server._infer(message, context)
            except Aborted:
                (code,) = context.ended
                return code
            assert not context.ended
            return messages.ModelInferResponse.FromString(answer)

        async def run() -> list[Any]:
            return await asyncio.gather(*map(ask, given_messages))

        return self._run(run())

    def streamed(self, given_messages: list[bytes]) -> list[Any]:
        """For each call of one stream its answer, or why it has none."""
        context = Context()

        async def calls() -> AsyncIterator[bytes]:
            for one in given_messages:
                yield one

        self._run(self.server._stream(calls(), context))
        assert not context.ended
        found = map(messages.ModelStreamInferResponse.FromString, context.written)
        return [one.error_message or one.infer_response for one in found]

    def _run(self, asking: Coroutine[Any, Any, Any]) -> Any:
        found = self.loop.run_until_complete(asyncio.wait_for(asking, 60))
        assert not self.faults
        assert self.plane.room.free == sys.maxsize
        return found


@pytest.fixture(scope="module")
def face(make: Any) -> Iterator[Face]:
    made = Face(make)
    yield made
    made.loop.close()


def good(draw: Random) -> tuple[Any, list[float]]:
    """A call that is answered, and its numbers."""
    numbers = [float(draw.randint(-1000, 1000)) for _ in range(draw.choice((2, 4, 6)))]
    request = messages.ModelInferRequest(model_name="m", id=str(draw.randrange(100)))
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[len(numbers) // 2, 2])
    if draw.random() < 0.5:
        tensor.contents.fp32_contents.extend(numbers)
    else:
        request.raw_input_contents.append(struct.pack(f"<{len(numbers)}f", *numbers))
    if draw.random() < 0.5:
        request.parameters["priority"].int64_param = draw.randrange(7)
    if draw.random() < 0.3:
        request.outputs.add(name="y")
    return request, numbers


_NAMES = ["priority", "timeout", "sequence_id", "sequence_start", "triton_x", "binary_data_size"]
_NAMES += ["shared_memory_region", "classification", "binary_data_output", "custom", ""]


def _parameter(draw: Random, parameters: Any) -> None:
    name = draw.choice(_NAMES)
    field = draw.choice(("bool_param", "int64_param", "string_param", "double_param", ""))
    value = {"bool_param": True, "int64_param": draw.choice((-1, 0, 2**63 - 1))}
    parameters[name].SetInParent()
    if field:
        odd: Any = value.get(field, "x" if field == "string_param" else float("nan"))
        setattr(parameters[name], field, odd)


_CHANGES: list[Callable[[Random, Any], Any]] = [
    lambda draw, one: _parameter(draw, one.parameters),
    lambda draw, one: _parameter(draw, one.inputs[0].parameters),
    lambda draw, one: one.inputs[0].shape.append(draw.choice((-1, 0, 1, 2**31, 2**62))),
    lambda draw, one: one.inputs[0].contents.int_contents.append(draw.choice((0, 300, -1))),
    lambda draw, one: one.inputs.add().CopyFrom(one.inputs[0]),
    lambda draw, one: one.outputs.add(name=draw.choice(("y", "z", ""))),
    lambda draw, one: one.raw_input_contents.append(draw.randbytes(draw.randrange(20))),
    lambda draw, one: setattr(one.inputs[0], "datatype", draw.choice(("BYTES", "FP16", "UINT8"))),
    lambda draw, one: setattr(one.inputs[0], "name", draw.choice(("x", "y", "\0"))),
    lambda draw, one: setattr(one, "model_version", draw.choice(("1", "2", "-1", "x"))),
    lambda draw, one: setattr(one, "model_name", draw.choice(("m", "n", ""))),
    lambda draw, one: one.ClearField(draw.choice(("inputs", "raw_input_contents", "model_name"))),
]


def changed(draw: Random) -> bytes:
    """A call whose fields, and then bytes, were changed a few times, or not at all."""
    request, _ = good(draw)
    for _ in range(draw.randint(0, 3)):
        if request.inputs:
            draw.choice(_CHANGES)(draw, request)
    written: bytes = request.SerializeToString()
    for _ in range(draw.choice((0, 0, 1, 2))):
        at, count = draw.randint(0, len(written)), draw.randint(0, 8)
        written = written[:at] + draw.randbytes(draw.randint(0, 4)) + written[at + count :]
    return written


_CLIENTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@given(SEEDS)
@settings(FUZZ, max_examples=CALLS // TOGETHER)
def test_every_call_ends_once_and_by_its_own_fault(face: Face, seed: int) -> None:
    """Mutated calls and good ones at once: the good ones get their own numbers back, doubled."""
    draw = Random(seed)
    sound = [good(draw) for _ in range(TOGETHER // 4)]
    broken = [changed(draw) for _ in range(TOGETHER - len(sound))]
    found = face.answers([one.SerializeToString() for one, _ in sound] + broken)
    for (request, numbers), answer in zip(sound, found, strict=False):
        check(answer, request.id, numbers)
    for answer in found[len(sound) :]:
        assert isinstance(answer, messages.ModelInferResponse) or answer in _CLIENTS, answer


@given(SEEDS)
@settings(FUZZ, max_examples=CALLS // TOGETHER // 2)
def test_every_call_of_a_stream_is_answered_in_its_place(face: Face, seed: int) -> None:
    draw = Random(seed)
    drawn = [draw.choice((good, changed))(draw) for _ in range(TOGETHER)]
    asked = [one if isinstance(one, bytes) else one[0].SerializeToString() for one in drawn]
    found = face.streamed(asked)
    assert len(found) == TOGETHER
    for one, answer in zip(drawn, found, strict=True):
        if isinstance(one, bytes):
            assert answer != "a mistake of the sidecar"
        else:
            check(answer, one[0].id, one[1])


def check(answer: Any, id_: str, numbers: list[float]) -> None:
    """These are the numbers of a good call, doubled."""
    assert isinstance(answer, messages.ModelInferResponse), answer
    assert answer.id == id_
    (raw,) = answer.raw_output_contents
    assert list(struct.unpack(f"<{len(numbers)}f", raw)) == [2 * one for one in numbers]
