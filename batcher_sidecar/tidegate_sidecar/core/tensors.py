"""Tensors as bytes, the way KServe v2's binary extension lays them out, and as JSON.

Little-endian, row-major. An element of BYTES is a 4-byte length and as many bytes, so a place
in such a tensor is found only by walking the lengths.
"""

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from math import prod
from typing import Any, Final

import msgspec

from tidegate_sidecar.core.refusal import malformed

ELEMENT_BYTES: Final = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
BYTES: Final = "BYTES"

MAX_ELEMENTS: Final = 2**31 - 1
"""Triton multiplies a shape in 64 bits without a check and dies of the overflow."""

_LENGTH = struct.Struct("<I")
_TYPECODES: Final = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
NUMBERS: Final = frozenset(_TYPECODES)
"""The types that Triton can rank, and JSON can carry as numbers."""
_JSON_TYPES: Final[dict[str, Any]] = {
    **dict.fromkeys(_TYPECODES, list[int]),
    "FP32": list[float],
    "FP64": list[float],
    "BOOL": list[bool],
    BYTES: list[str],
}


def element_count(shape: Sequence[int], where: str) -> int:
    """Multiply a shape that a client sent.

    Raises:
        Refusal: a negative dimension, or a product (zeros aside) above ``MAX_ELEMENTS``.
    """
    for dimension in shape:
        if dimension < 0:
            raise malformed(f"{where}: {dimension} is no size")
    if prod(dimension or 1 for dimension in shape) > MAX_ELEMENTS:
        raise malformed(f"{where}: more than {MAX_ELEMENTS} elements")
    return prod(shape)


def from_json(raw: msgspec.Raw, datatype: str, shape: Sequence[int], where: str) -> bytes:
    """Turn a JSON array, flat or nested as deep as its shape, into the tensor's bytes.

    Raises:
        Refusal: values of another type, out of the type's range, or not as many as the shape.
    """
    if datatype not in _JSON_TYPES:
        raise malformed(f"{where}: {datatype} has no JSON form, send it as binary data")
    values = _flat(raw, _JSON_TYPES[datatype], len(shape), where)
    count = prod(shape)
    if len(values) != count:
        raise malformed(f"{where}: {len(values)} values for a shape of {count}")
    if datatype == BYTES:
        return b"".join(_LENGTH.pack(len(text)) + text for text in map(str.encode, values))
    if datatype == "BOOL":
        return bytes(values)
    try:
        return array(_TYPECODES[datatype], values).tobytes()
    except (OverflowError, TypeError) as error:
        raise malformed(f"{where}: a value is out of the range of {datatype}") from error


def to_json(data: memoryview, datatype: str, where: str) -> list[Any]:
    """Read a tensor's bytes as the flat list that JSON carries.

    Raises:
        Refusal: a type or a text that JSON cannot carry.
    """
    if datatype == BYTES:
        try:
            return [str(element, "utf-8") for element in elements(data)]
        except UnicodeDecodeError as error:
            raise malformed(f"{where}: not UTF-8 text, ask for it as binary data") from error
    if datatype == "BOOL":
        return [bool(value) for value in data]
    if datatype not in _TYPECODES:
        raise malformed(f"{where}: {datatype} has no JSON form, ask for it as binary data")
    return array(_TYPECODES[datatype], data.tobytes()).tolist()


def check_elements(data: memoryview, count: int, where: str) -> None:
    """Hold a BYTES tensor to its number of elements.

    Raises:
        Refusal: a length points beyond the end, or there are more or fewer elements.
    """
    try:
        found = sum(1 for _ in _ends(data))
    except ValueError as error:
        raise malformed(f"{where}: {error}") from error
    if found != count:
        raise malformed(f"{where}: {found} elements for a shape of {count}")


def row_offsets(data: memoryview, rows: int, elements_in_row: int) -> list[int]:
    """Where each row of a BYTES tensor begins, and where the last one ends.

    Raises:
        ValueError: the tensor does not hold so many rows.
    """
    ends = [0, *_ends(data)]
    if len(ends) != rows * elements_in_row + 1:
        raise ValueError(f"{len(ends) - 1} elements in {rows} rows of {elements_in_row}")
    return ends[::elements_in_row] if elements_in_row else [0] * (rows + 1)


def elements(data: memoryview) -> Iterable[memoryview]:
    """Walk the elements of a BYTES tensor.

    Raises:
        ValueError: a length points beyond the end.
    """
    begin = 0
    for end in _ends(data):
        yield data[begin + _LENGTH.size : end]
        begin = end


def _ends(data: memoryview) -> Iterator[int]:
    """Where each element of a BYTES tensor ends."""
    position, size = 0, len(data)
    while position < size:
        start = position + _LENGTH.size
        if start > size:
            raise ValueError("an element's length is cut short")
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > size:
            raise ValueError("an element's length points beyond the data")
        yield position


def _flat(raw: msgspec.Raw, kind: Any, rank: int, where: str) -> list[Any]:
    try:
        with suppress(msgspec.ValidationError):  # nested, or wrong: the slow way tells which
            return msgspec.json.decode(raw, type=kind)  # type: ignore[no-any-return]
        values = msgspec.json.decode(raw, type=list[Any])
        for _ in range(rank - 1):
            values = list(chain.from_iterable(v if isinstance(v, list) else [v] for v in values))
        return msgspec.convert(values, kind)  # type: ignore[no-any-return]
    except UnicodeDecodeError as error:
        raise malformed(f"{where}: not UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(f"{where}: {error}") from error
