"""Tensors as bytes and as JSON."""

import json
import math
import struct
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.refusal import Refusal

NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}


def from_json(value: Any, datatype: str, shape: list[int]) -> bytes:
    return tensors.from_json(msgspec.Raw(json.dumps(value).encode()), datatype, shape, "x")


@given(data=st.data(), datatype=st.sampled_from(sorted(NUMPY)), nested=st.booleans())
def test_json_and_back(data: st.DataObject, datatype: str, nested: bool) -> None:
    shape = data.draw(npst.array_shapes(max_dims=4, max_side=4))
    values = data.draw(
        npst.arrays(
            NUMPY[datatype],
            shape,
            elements={"allow_nan": False, "allow_infinity": False} if "FP" in datatype else None,
        )
    )
    sent = values.tolist() if nested else values.ravel().tolist()
    encoded = from_json(sent, datatype, list(shape))
    assert encoded == values.tobytes()
    back = tensors.to_json(memoryview(encoded), datatype, "y")
    assert np.array_equal(np.array(back, NUMPY[datatype]), values.ravel())


@given(st.lists(st.text(), max_size=8))
def test_texts_and_back(texts: list[str]) -> None:
    encoded = from_json(texts, "BYTES", [len(texts)])
    assert tensors.to_json(memoryview(encoded), "BYTES", "y") == texts
    tensors.check_elements(memoryview(encoded), len(texts), "x")


@given(st.lists(st.lists(st.binary(max_size=5), min_size=3, max_size=3), max_size=5))
def test_rows_of_bytes_are_found(rows: list[list[bytes]]) -> None:
    encoded = [b"".join(struct.pack("<I", len(e)) + e for e in row) for row in rows]
    data = b"".join(encoded)
    offsets = tensors.row_offsets(memoryview(data), len(rows), 3)
    assert [data[a:b] for a, b in pairwise(offsets)] == encoded
    with pytest.raises(ValueError, match="elements"):
        tensors.row_offsets(memoryview(data), len(rows) + 1, 3)


@given(st.binary(max_size=40), st.integers(0, 5))
def test_rubbish_is_never_taken_for_elements(data: bytes, count: int) -> None:
    """Either the lengths fill the data exactly, or it is refused."""
    refused = None
    try:
        tensors.check_elements(memoryview(data), count, "x")
    except Refusal as refusal:
        refused = refusal
    if refused:
        assert refused.status == 400
    else:
        assert len(tensors.row_offsets(memoryview(data), count, 1)) == count + 1


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "said"),
    [
        ([1, 2], "INT32", [3], "2 values for a shape of"),
        ([[1, 2], 3], "INT32", [2], "Expected"),
        ([[1], [2]], "INT32", [2], "Expected"),  # nested deeper than the shape
        ([1.5], "INT32", [1], "Expected `int`"),
        ([True], "INT32", [1], "Expected `int`"),
        ([1], "BOOL", [1], "Expected `bool`"),
        (["1"], "FP32", [1], "Expected `float`"),
        ([300], "UINT8", [1], "out of the range of UINT8"),
        ([-1], "UINT64", [1], "out of the range of UINT64"),
        ([2**63], "INT64", [1], "out of the range of INT64"),
        ([1.0], "FP16", [1], "no JSON form"),
        ([1], "BYTES", [1], "Expected `str`"),
        (None, "FP32", [1], "Expected"),
        ({"a": 1}, "FP32", [1], "Expected"),
        (5, "FP32", [1], "Expected"),
    ],
)
def test_wrong_json_is_refused(value: Any, datatype: str, shape: list[int], said: str) -> None:
    with pytest.raises(Refusal, match=r"^x: ") as caught:
        from_json(value, datatype, shape)
    assert caught.value.status == 400
    assert said in caught.value.message


@pytest.mark.parametrize("text", [b"[NaN]", b"[1e999]", b'["\xff"]', b"[" * 9999 + b"]" * 9999])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    for datatype in ("FP32", "BYTES"):
        with pytest.raises(Refusal) as caught:
            tensors.from_json(msgspec.Raw(text), datatype, [1], "x")
        assert caught.value.status == 400


def test_numbers_that_json_lacks_become_null() -> None:
    values = np.array([math.nan, math.inf, 1], np.float64)
    shown = msgspec.json.encode(tensors.to_json(memoryview(values.tobytes()), "FP64", "y"))
    assert json.loads(shown) == [None, None, 1.0]


@pytest.mark.parametrize(
    "shape", [[2**31], [2**16, 2**16], [0, 2**62, 2**62], [2**200], [-1], [1, -5]]
)
def test_impossible_shapes_are_refused(shape: list[int]) -> None:
    with pytest.raises(Refusal) as caught:
        tensors.element_count(shape, "inputs[0].shape")
    assert caught.value.status == 400
    assert caught.value.message.startswith("inputs[0].shape: ")


def test_bytes_that_are_no_text_are_refused_as_json() -> None:
    with pytest.raises(Refusal, match="binary data"):
        tensors.to_json(memoryview(b"\x01\0\0\0\xff"), "BYTES", "output y")
    with pytest.raises(Refusal, match="no JSON form"):
        tensors.to_json(memoryview(b"\0\0"), "BF16", "output y")
