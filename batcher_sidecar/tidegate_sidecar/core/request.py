"""A client's inference request: read strictly, then held to the metadata of the version it goes to.

Theory of operation. ``Decoder.decode`` reads what the protocol alone can judge: JSON, parameters,
sizes. ``Plan.of`` holds the result to one version's inputs and outputs and says which requests
it may share a batch with. ``take`` cuts the body into one buffer for each input. All three raise
``Refusal`` with the field's name, so that Triton never sees a malformed request: it would answer
many of them 500, which is evidence against a version, and one kind of them ends its process.

Equal JSON headers decode to the same object, remembered by their bytes: a client repeats them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from typing import Any, Final, NamedTuple

import msgspec

from tidegate_contract.acknowledgement import Tensor
from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.refusal import Refusal, malformed, too_large
from tidegate_sidecar.core.version import VersionInfo
from tidegate_sidecar.core.wire import InputJson, RequestJson, WantedJson

MAX_JSON_BYTES: Final = 64 * 2**20
"""Triton's own bound on JSON."""

MOST_ROWS: Final = 2**16
"""Of one request, which goes in slices where the model takes fewer at once."""

_MOST_FIELDS: Final = 4096
"""Inputs, outputs or parameters: reading a body full of them would hold up everybody."""
_MOST_PARAMETER_BYTES: Final = 64 * 2**10
"""Of custom parameters, which are kept as long as what is learned of their group."""
_REMEMBERED_BYTES: Final = 4096
_REMEMBERED: Final = 1024
_COPIED_BYTES: Final = 4096
"""A copy of fewer costs less than a view of them: 0.1 us for 0.6."""
_MOST_ID_BYTES: Final = 128
"""Of a sequence's id that is a text: to Triton, too."""
_MAX_RANK: Final = 64
_TOLD: Final = 400
"""Characters of a group's description."""
_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = range(2**64)
_UNSIGNED: Final = ("parameters.priority", "parameters.sequence_id", "parameters.timeout")
_MOST_DIGITS: Final = 20
_REGION: Final = "shared_memory_region"
_REGION_BYTES: Final = "shared_memory_byte_size"
_REGION_OFFSET: Final = "shared_memory_offset"

Buffer = bytes | memoryview


class Input(NamedTuple):
    """An input as the request declares it.

    ``size``: bytes of binary data, None for JSON. ``shared``: it lies in shared memory.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    shared: bool = False


class Wanted(NamedTuple):
    """An output that the caller asks for, and how. ``classes``: top-k labels, 0 for the tensor."""

    name: str
    binary: bool
    classes: int


class Call(NamedTuple):
    """What a request asks of the model, without its values, id and priority.

    ``outputs`` empty: all of them, binary where ``binary_outputs``. ``alone``: part of a sequence.
    ``raw``: one input's bytes without any description. ``shared``: an input or an output lies in
    shared memory, so that the request goes as it is.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Wanted, ...] = ()
    binary_outputs: bool = False
    parameters: bytes = b"{}"
    alone: bool = False
    raw: bool = False
    shared: bool = False

    @property
    def unique(self) -> bool:
        """Whether it means something that an equal request does not."""
        return self.alone or self.shared


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A request as the protocol defines it, not yet held to any version.

    ``id``: as JSON, empty where there is none. ``priority``: None where the request names none.
    ``values``: the inputs' JSON data, in their order. ``timeout``: microseconds until it is worth
    nothing unless sent; 0: any time. ``passed``: the request's own JSON, where it goes as it is.
    """

    id: bytes
    priority: int | None
    call: Call
    values: tuple[msgspec.Raw, ...]
    binary_bytes: int
    timeout: int = 0
    passed: bytes = b""


class Group(NamedTuple):
    """Requests of one version that may share a batch have equal groups.

    ``inputs``: name, datatype and shape of one row, by name. ``classified``: outputs asked for as
    labels. ``batched``: shapes have a first dimension that batches are stacked along. ``alone``:
    equal requests all the same go one by one.
    """

    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    classified: tuple[tuple[str, int], ...]
    parameters: bytes
    batched: bool
    alone: bool

    def __str__(self) -> str:
        """What tells groups apart, for people to read."""
        told = [f"{name} {datatype}{list(shape)}" for name, datatype, shape in self.inputs]
        told += (f"{count} classes of {name}" for name, count in self.classified)
        parameters = "" if self.parameters == b"{}" else f" {self.parameters.decode()}"
        text = ", ".join(told) + parameters
        return text if len(text) <= _TOLD else f"{text[:_TOLD]}..."


_read_json = msgspec.json.Decoder(RequestJson).decode


class Decoder:
    """Reads bodies; remembers the headers that it has read.

    ``shared_memory``: tensors may lie in regions of it.
    """

    def __init__(self, *, shared_memory: bool = False) -> None:
        self._shared_memory = shared_memory
        self._remembered: dict[bytes, Decoded] = {}

    def decode(self, body: Buffer, header_length: int | None) -> tuple[Decoded, int]:
        """Read a body; returns it with the place where its binary data begins.

        ``header_length``: bytes of JSON before the binary data; None: all is JSON; 0: no JSON.

        Raises:
            Refusal: the client's mistake, by field.
        """
        if header_length == 0:
            call = Call((Input("", "", (), len(body)),), binary_outputs=True, raw=True)
            return Decoded(b"", None, call, (), len(body)), 0
        start = len(body) if header_length is None else header_length
        if start > len(body):
            raise malformed(f"Inference-Header-Content-Length {start} is beyond the body's end")
        if start > MAX_JSON_BYTES:
            raise too_large(f"more than {MAX_JSON_BYTES} bytes of JSON")
        header = octets(body, start)
        decoded = self._remembered.get(header)
        if decoded is None:
            decoded = _decode(header, shared_memory=self._shared_memory)
            if start <= _REMEMBERED_BYTES and not decoded.values:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[header] = decoded
        if decoded.binary_bytes != len(body) - start:
            raise malformed(
                f"{len(body) - start} bytes after the JSON, where the inputs' binary_data_size "
                f"add up to {decoded.binary_bytes}"
            )
        return decoded, start


def octets(body: Buffer, end: int | None) -> bytes:
    """The beginning of a body, as something that can be remembered."""
    return bytes(body[:end])


def _decode(header: bytes, *, shared_memory: bool) -> Decoded:
    try:
        request = _read_json(header)
    except UnicodeDecodeError as error:
        raise malformed("a text of the request is not UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(f"request: {error}") from error
    if not request.inputs:
        raise malformed("inputs: there is none")
    for name in ("inputs", "outputs", "parameters"):
        if len(getattr(request, name)) > _MOST_FIELDS:
            raise malformed(f"{name}: more than {_MOST_FIELDS}")
    given = {f"inputs[{i}]": one.parameters for i, one in enumerate(request.inputs)}
    given |= {f"outputs[{i}]": one.parameters for i, one in enumerate(request.outputs)}
    shared = False
    for where, parameters in given.items():
        shared |= _in_shared_memory(parameters, where, allowed=shared_memory)
    inputs = tuple(_input(one, f"inputs[{i}]") for i, one in enumerate(request.inputs))
    _check_distinct([one.name for one in inputs], "inputs")
    custom = {
        name: _parameter(value, f"parameters.{name}") for name, value in request.parameters.items()
    }
    binary = _flag(custom.pop("binary_data_output", False), "parameters.binary_data_output")
    outputs = tuple(_output(o, f"outputs[{i}]", binary) for i, o in enumerate(request.outputs))
    _check_distinct([one.name for one in outputs], "outputs")
    level = custom.pop("priority", None)
    priority = None if level is None else _unsigned(level, "parameters.priority")
    timeout = _unsigned(custom.pop("timeout", 0), "parameters.timeout")
    alone = _in_sequence(custom)
    written = msgspec.json.encode(custom, order="deterministic")
    if len(written) > _MOST_PARAMETER_BYTES:
        raise too_large(f"parameters: more than {_MOST_PARAMETER_BYTES} bytes")
    call = Call(
        inputs=inputs,
        outputs=outputs,
        binary_outputs=binary,
        parameters=written,
        alone=alone,
        shared=shared,
    )
    return Decoded(
        id=msgspec.json.encode(request.id) if request.id else b"",
        priority=priority,
        call=call,
        values=tuple(one.data for one in request.inputs if one.data),
        binary_bytes=sum(one.size or 0 for one in inputs),
        timeout=timeout,
        # Written anew: where a name stands twice, Triton reads the other value.
        passed=msgspec.json.encode(request) if shared else b"",
    )


def _in_sequence(custom: Mapping[str, Any]) -> bool:
    """Whether a request is part of a sequence, by its parameters."""
    for name in ("sequence_start", "sequence_end"):
        _flag(custom.get(name, False), f"parameters.{name}")
    sequence = custom.get("sequence_id", 0)
    if not isinstance(sequence, str):
        _unsigned(sequence, "parameters.sequence_id")
    elif len(sequence.encode()) > _MOST_ID_BYTES:
        raise malformed(f"parameters.sequence_id: more than {_MOST_ID_BYTES} bytes")
    return sequence not in (0, "")


def _input(one: InputJson, where: str) -> Input:
    if one.datatype not in tensors.ELEMENT_BYTES and one.datatype != tensors.BYTES:
        raise malformed(f"{where}.datatype: there is no {one.datatype!r}")
    if len(one.shape) > _MAX_RANK:
        raise malformed(f"{where}.shape: more than {_MAX_RANK} dimensions")
    count = tensors.element_count(one.shape, f"{where}.shape")
    size = one.parameters.get("binary_data_size")
    shared = _REGION in one.parameters
    if shared:
        if size is not None or one.data:
            raise malformed(f"{where}: has data beside those in shared memory")
        size = one.parameters[_REGION_BYTES]
    if (size is None) == (not one.data):
        raise malformed(f"{where}: needs either data or parameters.binary_data_size")
    if size is not None:
        size = _unsigned(size, f"{where}.parameters.binary_data_size")
        needed = count * tensors.ELEMENT_BYTES.get(one.datatype, 0)
        if one.datatype != tensors.BYTES and size != needed:
            raise malformed(f"{where}: {size} bytes of data, its shape and type take {needed}")
    return Input(one.name, one.datatype, tuple(one.shape), 0 if shared else size, shared)


def _output(one: WantedJson, where: str, binary: bool) -> Wanted:
    binary = _flag(one.parameters.get("binary_data", binary), f"{where}.parameters.binary_data")
    classes = _unsigned(one.parameters.get("classification", 0), f"{where}.classification")
    if classes > tensors.MAX_ELEMENTS:
        raise malformed(f"{where}.parameters.classification: {classes} is too many")
    return Wanted(one.name, binary, classes)


def unsigned_header(headers: Mapping[str, str], name: str) -> int | None:
    """The number that a header gives, None where there is none.

    Raises:
        Refusal: not an unsigned integer.
    """
    value = headers.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise malformed(f"header {name}: {value!r} is no unsigned integer")
    return int(value[:_MOST_DIGITS])


def _parameter(value: Any, where: str) -> str | bool | int | float:
    if where.startswith("parameters.triton_"):
        raise malformed(f"{where}: names that begin with triton_ are reserved")
    if "\0" in where:
        raise malformed("parameters: a name has a zero byte")
    if not isinstance(value, str | bool | int | float):
        raise malformed(f"{where}: must be a string, a number or a boolean")
    if (
        isinstance(value, int)
        and value not in _INT64
        and not (where in _UNSIGNED and value in _UINT64)
    ):
        raise malformed(f"{where}: {value} does not fit 64 bits")
    return value


def _unsigned(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        raise malformed(f"{where}: must be an unsigned integer")
    return value


def _flag(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise malformed(f"{where}: must be true or false")
    return value


def _in_shared_memory(parameters: dict[str, Any], where: str, *, allowed: bool) -> bool:
    """Whether a tensor lies in a region of shared memory.

    Raises:
        Refusal: it is not offered, or not said where in it.
    """
    if not any(name.startswith("shared_memory_") for name in parameters):
        return False
    where = f"{where}.parameters"
    if not allowed:
        raise malformed(f"{where}: shared memory is not offered here")
    if not isinstance(parameters.get(_REGION), str):
        raise malformed(f"{where}.{_REGION}: must be the name of a region")
    for name in (_REGION_BYTES, _REGION_OFFSET):
        if _unsigned(parameters.setdefault(name, 0), f"{where}.{name}") not in _INT64:
            raise malformed(f"{where}.{name}: does not fit 64 bits")
    return True


def _check_distinct(found: Sequence[str], where: str) -> None:
    if len(set(found)) != len(found):
        raise malformed(f"{where}: a name stands there twice")


@dataclass(frozen=True)
class Plan:
    """A call as one version takes it.

    ``call`` has every input described and every output named. ``rows``: its share of a batch.
    """

    call: Call
    group: Group
    rows: int

    @staticmethod
    def of(call: Call, version: "Interface") -> "Plan":
        """Hold a call to a version.

        Raises:
            Refusal: unknown or missing inputs, unknown outputs, other types, shapes that do not
                fit, more rows than a request may have.
        """
        if len(call.parameters) > _REMEMBERED_BYTES:
            return _plan(call, version)
        return _remembered_plan(call, version)

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """Where the group's inputs lie in the binary data."""
        inputs = self.call.inputs
        ends = list(accumulate(one.size or 0 for one in inputs))
        spans = {
            one.name: (end - (one.size or 0), end) for one, end in zip(inputs, ends, strict=True)
        }
        return [spans[name] for name, _, _ in self.group.inputs]

    @cached_property
    def _plain(self) -> bool:
        """Whether the binary data needs no look: all of it, and no lengths inside."""
        return not self.call.shared and all(
            one.size is not None and one.datatype != "BYTES" for one in self.call.inputs
        )

    @cached_property
    def _single(self) -> bool:
        """Whether the binary data is one input, and needs no look."""
        return self._plain and len(self.call.inputs) == 1

    @cached_property
    def size(self) -> int | None:
        """Bytes of all buffers; None: it depends on the values."""
        return sum(one.size or 0 for one in self.call.inputs) if self._plain else None

    def take(self, decoded: Decoded, body: Buffer, start: int) -> list[Buffer]:
        """Cut a body into one buffer for each of the group's inputs.

        Raises:
            Refusal: JSON data or BYTES elements that contradict the shape.
        """
        if self._single and len(body) <= _COPIED_BYTES:
            return [body[start:]]
        view = memoryview(body)
        buffers: list[Buffer] = [view[start + begin : start + end] for begin, end in self._spans]
        if not self._plain:
            self._look_inside(buffers, decoded)
        if self.call.shared:
            return [view[start:]]
        return buffers

    def _look_inside(self, buffers: list[Buffer], decoded: Decoded) -> None:
        place = {name: i for i, (name, _, _) in enumerate(self.group.inputs)}
        values = iter(decoded.values)
        for i, one in enumerate(self.call.inputs):
            if one.size is None:
                where = f"inputs[{i}].data"
                tensor = tensors.from_json(next(values), one.datatype, one.shape, where)
                buffers[place[one.name]] = tensor
            elif one.datatype == tensors.BYTES and not one.shared:
                view = memoryview(buffers[place[one.name]])
                tensors.check_elements(view, prod(one.shape), f"inputs[{i}]")


class Interface:
    """What a version takes and gives, indexed by name; compared by identity.

    ``max_rows``: of a batch. ``most_rows``: of a request. ``one_by_one``: requests share no batch.
    ``repeatable``: equal requests have equal answers.
    """

    def __init__(self, info: VersionInfo) -> None:
        self.batched = info.max_batch_size > 0
        self.max_rows = max(info.max_batch_size, 1)
        self.one_by_one = not (self.batched and info.batchable)
        self.most_rows = self.max_rows if self.one_by_one else max(self.max_rows, MOST_ROWS)
        self.repeatable = info.deterministic and not info.stateful
        self.inputs = {tensor.name: tensor for tensor in info.inputs}
        self.outputs = {tensor.name: tensor for tensor in info.outputs}


def _plan(call: Call, version: Interface) -> Plan:
    if call.raw:
        call = _describe_raw(call, version)
    most = version.max_rows if call.unique else version.most_rows
    rows = {_rows(one, f"inputs[{i}]", version, most) for i, one in enumerate(call.inputs)}
    if len(rows) > 1:
        raise malformed("inputs: their first dimensions, the batch, must be equal")
    given = {one.name for one in call.inputs}
    for name, tensor in version.inputs.items():
        if name not in given and not tensor.optional:
            raise malformed(f"inputs: {name!r} is missing")
    outputs = call.outputs or tuple(
        Wanted(name, call.binary_outputs, 0) for name in version.outputs
    )
    for i, wanted in enumerate(outputs):
        if wanted.name not in version.outputs:
            raise malformed(f"outputs[{i}].name: the model has no output {wanted.name!r}")
    _check_classified(call, version)
    first = 1 if version.batched else 0
    group = Group(
        inputs=tuple(sorted((i.name, i.datatype, i.shape[first:]) for i in call.inputs)),
        classified=tuple(sorted((w.name, w.classes) for w in outputs if w.classes)),
        parameters=call.parameters,
        batched=version.batched,
        alone=call.unique or version.one_by_one,
    )
    return Plan(call._replace(outputs=outputs), group, rows.pop())


def _check_classified(call: Call, version: Interface) -> None:
    """Hold what is asked for as labels to what can be ranked: anything else ends Triton 2.51.

    Raises:
        Refusal: the output holds no numbers; or an input is empty, so that the output may be.
    """
    for i, wanted in enumerate(call.outputs):
        output = version.outputs.get(wanted.name)
        if not wanted.classes or not output:
            continue
        where = f"outputs[{i}].parameters.classification"
        if output.datatype not in tensors.NUMBERS:
            raise malformed(f"{where}: the model's {output.datatype} cannot be ranked")
        if not all(prod(one.shape) for one in call.inputs):
            raise malformed(f"{where}: not of empty inputs")


_remembered_plan = lru_cache(maxsize=_REMEMBERED)(_plan)


def _rows(one: Input, where: str, version: Interface, most: int) -> int:
    """Rows of an input that fits the version's metadata."""
    tensor = version.inputs.get(one.name)
    if tensor is None:
        raise malformed(f"{where}.name: the model has no input {one.name!r}")
    if one.datatype != tensor.datatype:
        raise malformed(f"{where}.datatype: {one.datatype}, the model takes {tensor.datatype}")
    expected = [-1, *tensor.shape] if version.batched else tensor.shape
    if len(one.shape) != len(expected) or any(
        wanted not in (-1, size) for wanted, size in zip(expected, one.shape, strict=True)
    ):
        raise malformed(f"{where}.shape: {list(one.shape)}, the model takes {expected}")
    if not version.batched:
        return 1
    if not 1 <= one.shape[0] <= most:
        raise malformed(
            f"{where}.shape: inference request batch-size must be <= {most} "
            f"and not 0, got {one.shape[0]}"
        )
    return one.shape[0]


def _describe_raw(call: Call, version: Interface) -> Call:
    """Describe a body without JSON: one input, one row, at most one open dimension."""
    if len(version.inputs) != 1:
        raise malformed("a body without JSON needs a model with exactly one input")
    (tensor,) = version.inputs.values()
    size = call.inputs[0].size or 0
    shape = _raw_shape(tensor, size)
    if version.batched:
        shape = [1, *shape]
    return call._replace(inputs=(Input(tensor.name, tensor.datatype, tuple(shape), size),))


def _raw_shape(tensor: Tensor, size: int) -> list[int]:
    where = f"a body of {size} bytes without JSON does not fit input {tensor.name!r}"
    if tensor.datatype == tensors.BYTES:
        # The body is the only element, without its length: Triton adds it, and so must we.
        raise Refusal(415, f"{where}: describe BYTES by JSON")
    fixed = tensors.ELEMENT_BYTES[tensor.datatype] * prod(d for d in tensor.shape if d != -1)
    if tensor.shape.count(-1) > 1 or not fixed or size % fixed:
        raise malformed(f"{where} of shape {tensor.shape}")
    if -1 not in tensor.shape and size != fixed:
        raise malformed(f"{where} of shape {tensor.shape}")
    return [size // fixed if dimension == -1 else dimension for dimension in tensor.shape]
