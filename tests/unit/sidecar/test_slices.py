"""A request that goes in slices: cut anywhere and put together, it is what it was."""

import json
import struct
from itertools import pairwise
from math import prod
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.exchange import (
    Answer,
    BadReplyError,
    Cut,
    Part,
    Rows,
    Splitter,
    read_reply,
)
from tidegate_sidecar.core.request import Group, Wanted
from tidegate_sidecar.core.slices import Slices

LABEL = b'"model_name":"m","model_version":"3"'
TYPES = [*tensors.ELEMENT_BYTES, tensors.BYTES]


@st.composite
def tensor(draw: st.DrawFn, rows: int, name: str) -> tuple[str, str, tuple[int, ...], bytes]:
    """Name, type, shape of a row, and the bytes of some rows."""
    datatype = draw(st.sampled_from(TYPES))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = rows * prod(shape)
    if datatype == tensors.BYTES:
        elements = [draw(st.binary(max_size=5)) for _ in range(count)]
        return name, datatype, shape, b"".join(struct.pack("<I", len(e)) + e for e in elements)
    size = count * tensors.ELEMENT_BYTES[datatype]
    return name, datatype, shape, draw(st.binary(min_size=size, max_size=size))


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, list[Any], list[tuple[int, int]]]:
    """Rows, tensors, and slices (begin, rows) in any order."""
    rows = draw(st.integers(1, 12))
    given = [draw(tensor(rows, name)) for name in draw(st.sampled_from(["a", "ab", "abc"]))]
    places = sorted(draw(st.sets(st.integers(1, rows - 1)))) if rows > 1 else []
    slices = [(begin, end - begin) for begin, end in pairwise([0, *places, rows])]
    return rows, given, draw(st.permutations(slices))


def group(given: list[Any]) -> Group:
    inputs = tuple((name, datatype, shape) for name, datatype, shape, _ in given)
    return Group(inputs, (), b"{}", batched=True, alone=False)


def echoed(given: list[Any], cut: list[Any], rows: int) -> Splitter:
    """What a model answers that gives back what it gets."""
    described = [
        {
            "name": name,
            "datatype": datatype,
            "shape": [rows, *shape],
            "parameters": {"binary_data_size": len(data)},
        }
        for (name, datatype, shape, _), data in zip(given, cut, strict=True)
    ]
    header = json.dumps({"outputs": described}).encode()
    return Splitter(LABEL, read_reply(header), memoryview(b"".join(cut)), rows)


@given(requests())
@settings(max_examples=300, deadline=None)
def test_what_is_cut_and_echoed_is_what_the_whole_would_get(request: Any) -> None:
    rows, given, order = request
    names = [one[0] for one in given]
    buffers = [one[3] for one in given]
    slices = Slices(group(given), rows, buffers)
    whole = None
    for begin, count in order:
        assert whole is None
        cut = slices.cut(begin, count)
        whole = slices.add(begin, count, echoed(given, cut, count).rows(0, count, names))
    assert whole
    wanted = tuple(Wanted(name, True, 0) for name in names)
    direct = echoed(given, buffers, rows).split([Part(rows, wanted, b'"7"')])[0]
    ours = whole.answer(Part(rows, wanted, b'"7"'))
    assert isinstance(direct, Answer)
    assert isinstance(ours, Answer)
    assert ours.json == direct.json
    assert b"".join(ours.data) == b"".join(buffers) == b"".join(direct.data)
    for name, datatype, shape, data in given:
        found = whole.tensors(wanted)[name]
        assert (found.datatype, found.shape, found.data) == (datatype, (rows, *shape), data)


def test_nothing_is_copied() -> None:
    numbers = bytes(80)
    given = [("a", "FP32", (2,), numbers)]
    slices = Slices(group(given), 10, [numbers])
    cut = slices.cut(2, 3)
    assert isinstance(cut[0], memoryview)
    assert cut[0].obj is numbers
    parts = [echoed(given, slices.cut(i, 5), 5) for i in (0, 5)]
    slices.add(0, 5, parts[0].rows(0, 5, ["a"]))
    whole = slices.add(5, 5, parts[1].rows(0, 5, ["a"]))
    assert whole
    answer = whole.answer(Part(10, (Wanted("a", True, 0),), b""))
    assert isinstance(answer, Answer)
    assert [one.obj for one in answer.data] == [one.data.obj for one in parts]


def test_json_is_written_from_all_slices() -> None:
    given = [("a", "BYTES", (), b"".join(struct.pack("<I", 1) + b"%d" % i for i in range(3)))]
    slices = Slices(group(given), 3, [given[0][3]])
    whole = None
    for begin, rows in ((2, 1), (0, 2)):
        splitter = echoed(given, slices.cut(begin, rows), rows)
        whole = slices.add(begin, rows, splitter.rows(0, rows, ["a"]))
    assert whole
    answer = whole.answer(Part(3, (Wanted("a", False, 0),), b""))
    assert isinstance(answer, Answer)
    assert json.loads(answer.json)["outputs"] == [
        {"name": "a", "datatype": "BYTES", "shape": [3], "data": ["0", "1", "2"]}
    ]


def rows_of(name: str, datatype: str, shape: tuple[int, ...]) -> Rows:
    return Rows(LABEL, {name: Cut(datatype, shape, (memoryview(b""),))})


@pytest.mark.parametrize(
    "later",
    [
        rows_of("b", "FP32", (2, 2)),  # another output
        rows_of("a", "FP64", (2, 2)),  # another type
        rows_of("a", "FP32", (2, 3)),  # rows of another shape
        rows_of("a", "FP32", (3, 2)),  # more rows than were asked
        rows_of("a", "FP32", ()),
    ],
)
def test_slices_that_do_not_fit_each_other_are_an_error(later: Rows) -> None:
    slices = Slices(group([("x", "INT8", (1,), bytes(4))]), 4, [bytes(4)])
    assert slices.add(0, 2, rows_of("a", "FP32", (2, 2))) is None
    with pytest.raises(BadReplyError):
        slices.add(2, 2, later)
