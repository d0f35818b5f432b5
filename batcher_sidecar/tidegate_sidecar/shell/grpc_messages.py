"""Inference messages of KServe v2's gRPC face, as the HTTP face has them, and back.

A call becomes the body of an HTTP request whose tensors are all binary, and an HTTP answer of that
form becomes the message that Triton would have sent: one set of rules holds for both faces, and
their requests share batches. The id stays here, so that equal calls have equal JSON.
"""

import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf.message import DecodeError
from tritonclient.grpc.service_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.refusal import malformed
from tidegate_sidecar.core.request import Buffer

assert sys.byteorder == "little"  # the order of the protocol's raw contents

_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 4096
_TYPED: Final = {
    "BOOL": ("bool_contents", "B"),
    "INT8": ("int_contents", "b"),
    "INT16": ("int_contents", "h"),
    "INT32": ("int_contents", "i"),
    "INT64": ("int64_contents", "q"),
    "UINT8": ("uint_contents", "B"),
    "UINT16": ("uint_contents", "H"),
    "UINT32": ("uint_contents", "I"),
    "UINT64": ("uint64_contents", "Q"),
    "FP32": ("fp32_contents", "f"),
    "FP64": ("fp64_contents", "d"),
    tensors.BYTES: ("bytes_contents", ""),
}
"""The field that carries a type's values, and the values' form in an array."""
_RAW_FIELD: Final = b"\x32"
"""Key of ``raw_output_contents``: field 6, length-delimited."""
_RESPONSE_FIELD: Final = b"\x12"
"""Key of ``infer_response``: field 2, length-delimited."""
_LAST: Final = ModelInferResponse(
    parameters={"triton_final_response": InferParameter(bool_param=True)}
).SerializeToString()
"""What Triton adds to an answer in a stream: no other follows."""


class Call(NamedTuple):
    """An inference call. ``version``: as it stands there, empty for any.

    ``json_length``: how much of ``body`` is JSON.
    """

    model: str
    version: str
    id: str
    json_length: int
    body: bytes


def parse_call(message: bytes) -> Any:
    """Read a ``ModelInferRequest``.

    Raises:
        Refusal: it is none.
    """
    try:
        return ModelInferRequest.FromString(message)
    except DecodeError as error:
        raise malformed("the message is no ModelInferRequest") from error


def call_of(request: Any) -> Call:
    """Turn a ``ModelInferRequest``, which is used up by that, into the call that it means.

    Raises:
        Refusal: its contents are not what its inputs say.
    """
    call = request.model_name, request.model_version, request.id
    typed = any(one.HasField("contents") for one in request.inputs)
    contents = _typed_contents(request) if typed else list(request.raw_input_contents)
    carried = sum(not _shared(one) for one in request.inputs)
    if len(contents) != carried:
        raise malformed(f"raw_input_contents: {len(contents)} for {carried} inputs")
    for field in ("model_name", "model_version", "id", "raw_input_contents"):
        request.ClearField(field)
    described = request.SerializeToString(deterministic=True)
    write = _json if len(described) > _REMEMBERED_BYTES else _remembered_json
    json = write(described, tuple(map(len, contents)))
    return Call(*call, len(json), b"".join((json, *contents)))


def write_answer(parts: Sequence[Buffer], call_id: str) -> bytes:
    """Write the ``ModelInferResponse`` that says what an answer with binary data says.

    ``parts``: its JSON, then its outputs, each in one piece or several.
    """
    return b"".join(_written(parts, call_id))


def write_streamed(parts: Sequence[Buffer], call_id: str) -> bytes:
    """Write the ``ModelStreamInferResponse`` for an answer; see ``write_answer``."""
    written = [*_written(parts, call_id), _LAST]
    return b"".join((_RESPONSE_FIELD, _varint(sum(map(len, written))), *written))


def write_streamed_refusal(message: str, call_id: str) -> bytes:
    """Write the ``ModelStreamInferResponse`` for a call that gets no answer."""
    refusal = ModelStreamInferResponse(error_message=message)
    refusal.infer_response.id = call_id
    written: bytes = refusal.SerializeToString()
    return written


def _written(parts: Sequence[Buffer], call_id: str) -> list[Buffer]:
    header = bytes(parts[0])
    describe = _describe if len(header) > _REMEMBERED_BYTES else _remembered_description
    described = describe(header)
    written: list[Buffer] = [described.before, _id_field(call_id), described.after]
    pieces = iter(parts[1:])
    for size in described.sizes:
        written += (_RAW_FIELD, _varint(size))
        missing = size
        while missing:
            piece = next(pieces)
            written.append(piece)
            missing -= len(piece)
    return written


def _typed_contents(request: Any) -> list[bytes]:
    """Turn values that have a field for their type into raw contents."""
    if request.raw_input_contents:
        raise malformed("raw_input_contents: not together with inputs[].contents")
    found = [
        _raw(one, f"inputs[{i}].contents")
        for i, one in enumerate(request.inputs)
        if not _shared(one) or one.HasField("contents")
    ]
    for one in request.inputs:
        one.ClearField("contents")
    return found


def _shared(one: Any) -> bool:
    """Whether an input or an output lies in shared memory, and has no contents here."""
    return "shared_memory_region" in one.parameters


def _raw(one: Any, where: str) -> bytes:
    if one.datatype not in _TYPED:
        raise malformed(f"{where}: {one.datatype} has none, send it in raw_input_contents")
    field, code = _TYPED[one.datatype]
    given = [descriptor.name for descriptor, _ in one.contents.ListFields()]
    if given not in ([], [field]):
        raise malformed(f"{where}: {', '.join(given)}, where {one.datatype} has {field}")
    values = getattr(one.contents, field)
    if one.datatype == tensors.BYTES:
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    try:
        return array(code, values).tobytes()
    except OverflowError as error:
        raise malformed(f"{where}: a value is out of the range of {one.datatype}") from error


def _json(described: bytes, sizes: tuple[int, ...]) -> bytes:
    """Write the JSON of a request without values."""
    request = ModelInferRequest.FromString(described)
    size = iter(sizes)
    return msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": one.name,
                    "datatype": one.datatype,
                    "shape": list(one.shape),
                    "parameters": _values(one.parameters, f"inputs[{i}].parameters")
                    | ({} if _shared(one) else {"binary_data_size": next(size)}),
                }
                for i, one in enumerate(request.inputs)
            ],
            "outputs": [
                {
                    "name": one.name,
                    "parameters": _values(one.parameters, f"outputs[{i}].parameters")
                    | ({} if _shared(one) else {"binary_data": True}),
                }
                for i, one in enumerate(request.outputs)
            ],
            "parameters": _values(request.parameters, "parameters") | {"binary_data_output": True},
        }
    )


_remembered_json = lru_cache(maxsize=_REMEMBERED)(_json)


def _values(parameters: Any, where: str) -> dict[str, Any]:
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise malformed(f"{where}.{name}: has no value")
        found[name] = getattr(parameter, choice)
    return found


class _Description(NamedTuple):
    """What stands before the id of a message and after it, and the sizes of its outputs."""

    before: bytes
    after: bytes
    sizes: tuple[int, ...]


def _describe(header: bytes) -> _Description:
    """Turn an answer's JSON into a message without its outputs' contents."""
    answer = msgspec.json.decode(header)
    outputs = answer["outputs"]
    before = ModelInferResponse(
        model_name=answer["model_name"], model_version=answer["model_version"]
    )
    after = ModelInferResponse(
        parameters={name: _parameter(one) for name, one in answer.get("parameters", {}).items()},
        outputs=[
            ModelInferResponse.InferOutputTensor(
                name=one["name"], datatype=one["datatype"], shape=one["shape"]
            )
            for one in outputs
        ],
    )
    sizes = tuple(one.get("parameters", {}).get("binary_data_size", 0) for one in outputs)
    return _Description(before.SerializeToString(), after.SerializeToString(), sizes)


_remembered_description = lru_cache(maxsize=_REMEMBERED)(_describe)


def _parameter(value: str | bool | float) -> Any:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return InferParameter(int64_param=value)
    if isinstance(value, float):
        return InferParameter(double_param=value)
    return InferParameter(string_param=value)


def _id_field(call_id: str) -> bytes:
    written: bytes = ModelInferResponse(id=call_id).SerializeToString()
    return written


def _varint(number: int) -> bytes:
    """Write a length as protobuf does: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
