"""One request to Triton for a whole batch, and its answer split among the members.

Tensors always travel to and from Triton as binary data, whatever the callers speak: members'
buffers are laid end to end, and an answer is cut from the batch's own buffer without a copy. They
follow the JSON, or lie in memory that both see (`Place`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Any, Final, NamedTuple

import msgspec

from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.compare import Tensor
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Group, Wanted
from tidegate_sidecar.core.wire import ReplyJson

Piece = memoryview
"""A part of an answer, in the buffer of the whole."""

_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 4096


class BadReplyError(Exception):
    """Triton's answer cannot be split as the batch was put together; the message says why."""


class Part(NamedTuple):
    """What splitting must know of a member: how many rows, what it asked for, its id as JSON."""

    rows: int
    wanted: tuple[Wanted, ...]
    id: bytes


class Place(NamedTuple):
    """Where Triton finds and leaves a batch's tensors, in a region of shared memory.

    ``inputs``: the first byte of the first, the others follow; None: all follow the JSON.
    ``outputs``: likewise; None: all follow the answer's JSON. ``sizes``: by name, in their order
    there, bytes of each output.
    """

    region: str
    inputs: int | None
    outputs: int | None
    sizes: Mapping[str, int]


class Answer(NamedTuple):
    """A member's answer: JSON, then binary data. ``binary`` False: the JSON is all there is.

    ``data``: the outputs in the order of the JSON, one behind the other; an output may be in
    several pieces.
    """

    json: bytes
    data: list[Piece]
    binary: bool


class Cut(NamedTuple):
    """Some rows of an output, in the pieces that they came in."""

    datatype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def data(self) -> memoryview:
        """The rows in one piece."""
        return self.pieces[0] if len(self.pieces) == 1 else memoryview(b"".join(self.pieces))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What the model answered to one request, from which its callers' answers are written.

    ``label``: the JSON members that name model and version. ``parameters``: what the model itself
    said of the request, as JSON.
    """

    label: bytes
    outputs: Mapping[str, Cut]
    parameters: bytes = b""

    def answer(self, part: Part) -> Answer | Refusal:
        """Write an answer in the form that was asked for; a refusal says what JSON cannot carry."""
        described: list[dict[str, Any]] = []
        blobs: list[Piece] = []
        for wanted in part.wanted:
            cut = self.outputs.get(wanted.name)
            if cut is None:  # a model may leave an output out, and Triton lets it
                continue
            if wanted.binary:
                form: dict[str, Any] = {
                    "parameters": {"binary_data_size": sum(map(len, cut.pieces))}
                }
                blobs.extend(cut.pieces)
            else:
                where = f"output {wanted.name}"
                try:
                    form = {"data": tensors.to_json(cut.data, cut.datatype, where)}
                except Refusal as refusal:
                    return refusal
            head = {"name": wanted.name, "datatype": cut.datatype, "shape": cut.shape}
            described.append(head | form)
        tail = _tail(described, self.parameters)
        return Answer(_json(self.label, part.id, tail), blobs, binary=bool(blobs))

    def tensors(self, asked: Sequence[Wanted]) -> dict[str, Tensor]:
        """Copy what was asked for, whatever the form it was asked for in."""
        return {
            one.name: Tensor(cut.datatype, cut.shape, bytes(cut.data), bool(one.classes))
            for one in asked
            if (cut := self.outputs.get(one.name))
        }


class Output(NamedTuple):
    """An output as it lies in Triton's answer, ``start`` bytes behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """The JSON of Triton's answer.

    ``size``: bytes of all outputs. ``parameters``: what the model itself said of the request.
    """

    outputs: dict[str, Output]
    size: int
    parameters: bytes


_read_json = msgspec.json.Decoder(ReplyJson).decode


def request_json(
    group: Group,
    rows: int,
    outputs: tuple[str, ...],
    sizes: tuple[int, ...],
    place: Place | None = None,
) -> bytes:
    """Write the JSON that precedes a batch's tensors.

    ``outputs``: what any member asked for, in the order of a place's. ``sizes``: bytes of each of
    the group's inputs.
    """
    if place or len(group.parameters) > _REMEMBERED_BYTES:
        return _request_json(group, rows, outputs, sizes, place)
    return _remembered_request_json(group, rows, outputs, sizes)


def _request_json(
    group: Group,
    rows: int,
    outputs: tuple[str, ...],
    sizes: tuple[int, ...],
    place: Place | None = None,
) -> bytes:
    given: list[dict[str, Any]] = [{"binary_data_size": size} for size in sizes]
    asked: list[dict[str, Any]] = [{"binary_data": True} for _ in outputs]
    if place and place.inputs is not None:
        given = _laid_out(place.region, place.inputs, sizes)
    if place and place.outputs is not None:
        asked = _laid_out(place.region, place.outputs, tuple(place.sizes.values()))
    first = [rows] if group.batched else []
    classes = dict(group.classified)
    return msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": [*first, *shape],
                    "parameters": where,
                }
                for (name, datatype, shape), where in zip(group.inputs, given, strict=True)
            ],
            "outputs": [
                {"name": name, "parameters": _output_parameters(where, classes.get(name, 0))}
                for name, where in zip(outputs, asked, strict=True)
            ],
            "parameters": msgspec.Raw(group.parameters),
        }
    )


_remembered_request_json = lru_cache(maxsize=_REMEMBERED)(_request_json)


def _output_parameters(where: dict[str, Any], classes: int) -> dict[str, Any]:
    return where | ({"classification": classes} if classes else {})


def _laid_out(region: str, begin: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "shared_memory_region": region,
            "shared_memory_offset": offset,
            "shared_memory_byte_size": size,
        }
        for offset, size in zip(accumulate(sizes, initial=begin), sizes, strict=False)
    ]


def read_reply(header: bytes, place: Place | None = None) -> Reply:
    """Read the JSON of an answer. ``place``: where its outputs were asked for.

    Raises:
        BadReplyError: not the JSON of an answer with outputs of the sizes that it says.
    """
    if place and place.outputs is not None:
        return _read_placed(header, place.sizes)
    if len(header) > _REMEMBERED_BYTES:
        return _read_reply(header)
    return _remembered_reply(header)


def _read_reply(header: bytes) -> Reply:
    try:
        reply = _read_json(header)
        sizes = [int(one.parameters["binary_data_size"]) for one in reply.outputs]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadReplyError(f"the model server's answer is not understood: {error!r}") from error
    starts = accumulate(sizes, initial=0)
    for one, size in zip(reply.outputs, sizes, strict=True):
        element = tensors.ELEMENT_BYTES.get(one.datatype)
        if min(one.shape, default=0) < 0 or (element and size != prod(one.shape) * element):
            raise BadReplyError(f"output {one.name}: {size} bytes for the shape {one.shape}")
    return Reply(
        outputs={
            one.name: Output(one.name, one.datatype, tuple(one.shape), start, size)
            for one, start, size in zip(reply.outputs, starts, sizes, strict=False)
        },
        size=sum(sizes),
        parameters=bytes(reply.parameters),
    )


def _read_placed(header: bytes, rooms: Mapping[str, int]) -> Reply:
    """Where outputs lie in shared memory is known; Triton says their shapes."""
    starts = dict(zip(rooms, accumulate(rooms.values(), initial=0), strict=False))
    outputs = {}
    try:
        reply = _read_json(header)
        for one in reply.outputs:
            size = prod(one.shape) * tensors.ELEMENT_BYTES[one.datatype]
            if min(one.shape, default=0) < 0 or size > rooms[one.name]:
                raise BadReplyError(f"output {one.name}: the shape {one.shape} has no room")
            shape = tuple(one.shape)
            outputs[one.name] = Output(one.name, one.datatype, shape, starts[one.name], size)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise BadReplyError(f"the model server's answer is not understood: {error!r}") from error
    return Reply(outputs, sum(rooms.values()), bytes(reply.parameters))


_remembered_reply = lru_cache(maxsize=_REMEMBERED)(_read_reply)


class _Recipe(NamedTuple):
    """How members that asked for the same are cut, where all they asked for is of fixed size.

    ``tail``: the end of the JSON. ``cuts``: start, bytes from row to row, bytes of a member.
    """

    tail: bytes
    cuts: tuple[tuple[int, int, int], ...]


@dataclass(slots=True, eq=False)  # frozen would take longer to make, one for each batch
class Splitter:
    """Cuts one batch's answer.

    ``label``: the JSON members that name model and version. ``total``: rows of the batch.
    """

    label: bytes
    reply: Reply
    data: Piece
    total: int
    _offsets: dict[str, list[int]] = field(default_factory=dict)

    def split(self, parts: Sequence[Part]) -> list[Answer | Refusal]:
        """Cut one answer for each member, in their order; a refusal says what JSON cannot carry.

        Raises:
            BadReplyError: outputs that cannot be cut as the batch was put together.
        """
        self._check_size()
        whole = len(parts) == 1
        answers: list[Answer | Refusal] = []
        row = 0
        recipe: _Recipe | None = None
        rows, wanted = 0, None
        for part in parts:
            if part.rows != rows or part.wanted is not wanted:  # neighbours are mostly alike
                rows, wanted = part.rows, part.wanted
                recipe = _recipe(self.reply, self.total, rows, wanted, whole)
            if recipe:
                data = [
                    self.data[(begin := start + row * stride) : begin + length]
                    for start, stride, length in recipe.cuts
                ]
                json = _json(self.label, part.id, recipe.tail)
                answers.append(Answer(json, data, binary=True))
            else:
                names = (one.name for one in part.wanted)
                answers.append(self.rows(row, part.rows, names).answer(part))
            row += part.rows
        return answers

    def rows(self, row: int, rows: int, names: Iterable[str]) -> Rows:
        """Cut outputs from a row on, without a copy; without those that the model left out.

        Raises:
            BadReplyError: as ``split``.
        """
        self._check_size()
        whole = rows == self.total
        outputs = {}
        for name in names:
            output = self.reply.outputs.get(name)
            if output is None:
                continue
            begin, end = self._span(output, row, rows, whole)
            shape = tuple(_member_shape(output, self.total, rows, whole))
            outputs[name] = Cut(output.datatype, shape, (self.data[begin:end],))
        return Rows(self.label, outputs, self.reply.parameters if whole else b"")

    def tensors(self, part: Part, row: int) -> dict[str, Tensor]:
        """Copy what the member that begins at a row asked for, whatever the form it asked for.

        Raises:
            BadReplyError: as ``split``.
        """
        names = (one.name for one in part.wanted)
        return self.rows(row, part.rows, names).tensors(part.wanted)

    def _check_size(self) -> None:
        if self.reply.size != len(self.data):
            raise BadReplyError(f"{len(self.data)} bytes of outputs, not {self.reply.size}")

    def _span(self, output: Output, row: int, rows: int, whole: bool) -> tuple[int, int]:
        if whole:
            return output.start, output.start + output.size
        if output.datatype != tensors.BYTES:
            stride = output.size // self.total
            return output.start + row * stride, output.start + (row + rows) * stride
        offsets = self._row_offsets(output)
        return output.start + offsets[row], output.start + offsets[row + rows]

    def _row_offsets(self, output: Output) -> list[int]:
        if output.name not in self._offsets:
            elements = self.data[output.start : output.start + output.size]
            in_row = prod(output.shape[1:])
            try:
                self._offsets[output.name] = tensors.row_offsets(elements, self.total, in_row)
            except ValueError as error:
                raise BadReplyError(f"output {output.name}: {error}") from error
        return self._offsets[output.name]


@lru_cache(maxsize=_REMEMBERED)
def _recipe(
    reply: Reply, total: int, rows: int, wanted: tuple[Wanted, ...], whole: bool
) -> _Recipe | None:
    described = []
    cuts = []
    for one, output in _given(reply, wanted):
        if not one.binary or output.datatype == tensors.BYTES or (whole and reply.parameters):
            return None
        length = output.size if whole else output.size // total * rows
        described.append(
            {
                "name": output.name,
                "datatype": output.datatype,
                "shape": _member_shape(output, total, rows, whole),
                "parameters": {"binary_data_size": length},
            }
        )
        cuts.append((output.start, 0 if whole else output.size // total, length))
    return _Recipe(_tail(described, b""), tuple(cuts))


def _tail(described: list[dict[str, Any]], parameters: bytes) -> bytes:
    outputs = b'"outputs":%b' % msgspec.json.encode(described)
    return b'%b,"parameters":%b}' % (outputs, parameters) if parameters else outputs + b"}"


def _json(label: bytes, id_: bytes, tail: bytes) -> bytes:
    return b'{"id":%b,%b,%b' % (id_, label, tail) if id_ else b"{%b,%b" % (label, tail)


def _given(reply: Reply, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, Output]]:
    """What is wanted and there: a model may leave an output out, and Triton lets it."""
    for one in wanted:
        if output := reply.outputs.get(one.name):
            yield one, output


def _member_shape(output: Output, total: int, rows: int, whole: bool) -> list[int]:
    if whole:
        return list(output.shape)
    if not output.shape or output.shape[0] != total:
        raise BadReplyError(
            f"output {output.name} has the shape {list(output.shape)} for a batch of {total} rows"
        )
    return [rows, *output.shape[1:]]
