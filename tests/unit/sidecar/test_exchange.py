"""A batch goes out as one request and comes back as each member's own answer."""

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_sidecar.core.exchange import (
    Answer,
    BadReplyError,
    Part,
    Place,
    Splitter,
    read_reply,
    request_json,
)
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Group, Wanted

LABEL = b'"model_name":"m","model_version":"3"'


def reply_of(
    outputs: list[tuple[str, str, list[int], bytes]], **fields: Any
) -> tuple[bytes, bytes]:
    described = [
        {"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": len(data)}}
        for n, d, s, data in outputs
    ]
    data = b"".join(data for *_, data in outputs)
    return json.dumps({"outputs": described} | fields).encode(), data


def split(header: bytes, data: bytes, total: int, parts: list[Part]) -> list[Answer | Refusal]:
    return Splitter(LABEL, read_reply(header), memoryview(data), total).split(parts)


def text(rows: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(row)) + row for row in rows)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Part], list[int]]:
    """Members, and the number of the first row of each."""
    names = ["f", "t"]
    parts = []
    for i in range(draw(st.integers(1, 6))):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
        wanted = tuple(Wanted(name, draw(st.booleans()), 0) for name in chosen)
        parts.append(
            Part(draw(st.integers(1, 4)), wanted, draw(st.sampled_from([b"", b'"%d"' % i])))
        )
    starts = [sum(part.rows for part in parts[:i]) for i in range(len(parts))]
    return parts, starts


@given(batches())
@settings(max_examples=300, deadline=None)
def test_everybody_gets_their_own_rows_as_they_asked(batch: tuple[list[Part], list[int]]) -> None:
    parts, starts = batch
    total = sum(part.rows for part in parts)
    numbers = struct.pack(f"<{2 * total}h", *range(2 * total))
    words = [b"w" * (i % 5) + b"%d" % i for i in range(total)]
    header, data = reply_of(
        [("t", "BYTES", [total], text(words)), ("f", "INT16", [total, 2], numbers)]
    )
    for part, start, answer in zip(parts, starts, split(header, data, total, parts), strict=True):
        assert isinstance(answer, Answer)
        shown = json.loads(answer.json)
        assert shown.get("id") == (json.loads(part.id) if part.id else None)
        assert (shown["model_name"], shown["model_version"]) == ("m", "3")
        assert answer.binary == any(one.binary for one in part.wanted)
        blobs = iter(answer.data)
        for wanted, output in zip(part.wanted, shown["outputs"], strict=True):
            assert output["name"] == wanted.name
            own = words[start : start + part.rows]
            if wanted.name == "f":
                assert output["shape"] == [part.rows, 2]
                values = list(range(2 * start, 2 * (start + part.rows)))
                raw = struct.pack(f"<{len(values)}h", *values)
                shown_values: list[Any] = values
            else:
                assert output["shape"] == [part.rows]
                raw = text(own)
                shown_values = [word.decode() for word in own]
            if wanted.binary:
                blob = bytes(next(blobs))
                assert blob == raw
                assert output["parameters"] == {"binary_data_size": len(blob)}
            else:
                assert output["data"] == shown_values
        assert next(blobs, None) is None


def test_answers_are_cut_without_a_copy() -> None:
    header, data = reply_of([("f", "FP32", [2, 1], bytes(8))])
    parts = [Part(1, (Wanted("f", True, 0),), b"")] * 2
    for answer in split(header, data, 2, parts):
        assert isinstance(answer, Answer)
        assert answer.data[0].obj is data


def test_a_single_member_gets_what_the_model_said() -> None:
    """Not batched: shapes as they come, whatever their first dimension; and the parameters."""
    header, data = reply_of([("f", "INT8", [3], b"abc")], parameters={"cached": True})
    (answer,) = split(header, data, 1, [Part(1, (Wanted("f", True, 0),), b"")])
    assert isinstance(answer, Answer)
    shown = json.loads(answer.json)
    assert (shown["parameters"], shown["outputs"][0]["shape"]) == ({"cached": True}, [3])
    assert bytes(answer.data[0]) == b"abc"
    both = [Part(1, (Wanted("f", True, 0),), b"")] * 2
    header, data = reply_of([("f", "INT8", [2], b"ab")], parameters={"about": "one of you"})
    for one in split(header, data, 2, both):
        assert isinstance(one, Answer)
        assert b"about" not in one.json


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("outputs", "cut"),
    [
        ([("f", "INT8", [3], b"abc")], 0),  # three rows for two
        ([("f", "INT8", [], b"a")], 0),
        ([("f", "INT16", [2], b"abc")], 0),  # not the bytes of its shape
        ([("f", "INT8", [-2, -1], b"ab")], 0),
        ([("f", "INT8", [2], b"ab")], 1),  # less data than it says
        ([("f", "BYTES", [2], text([b"a"]))], 0),
        ([("f", "BYTES", [2], b"\xff\0\0\0")], 0),
    ],
)
def test_what_cannot_be_split_is_an_error(outputs: list[Any], cut: int, binary: bool) -> None:
    header, data = reply_of(outputs)
    parts = [Part(1, (Wanted("f", binary, 0),), b"")] * 2
    with pytest.raises(BadReplyError):
        split(header, data[: len(data) - cut], 2, parts)


def test_outputs_that_the_model_left_out_are_left_out() -> None:
    header, data = reply_of([("t", "INT8", [2], b"ab")])
    for binary in (True, False):
        wanted = (Wanted("f", binary, 0), Wanted("t", binary, 0))
        for answer in split(header, data, 2, [Part(1, wanted, b"")] * 2):
            assert isinstance(answer, Answer)
            assert [one["name"] for one in json.loads(answer.json)["outputs"]] == ["t"]


@pytest.mark.parametrize(
    "header",
    [b"", b"[]", b'{"outputs":[{"name":"f","datatype":"INT8","shape":[1],"data":[1]}]}', b"\xff"],
)
def test_an_answer_that_is_not_understood_is_an_error(header: bytes) -> None:
    with pytest.raises(BadReplyError):
        read_reply(header)


def test_one_member_whose_answer_json_cannot_carry_is_refused_alone() -> None:
    header, data = reply_of([("f", "BYTES", [2], text([b"\xff", b"ok"]))])
    wanted = (Wanted("f", False, 0),)
    bad, good = split(header, data, 2, [Part(1, wanted, b"")] * 2)
    assert isinstance(bad, Refusal)
    assert bad.status == 400
    assert isinstance(good, Answer)


def test_what_triton_is_asked() -> None:
    group = Group(
        inputs=(("a", "FP32", (2,)), ("b", "BYTES", ())),
        classified=(("y", 3),),
        parameters=b'{"temperature":0.5}',
        batched=True,
        alone=False,
    )
    assert msgspec.json.decode(request_json(group, 5, ("y", "z"), (40, 17))) == {
        "inputs": [
            {
                "name": "a",
                "datatype": "FP32",
                "shape": [5, 2],
                "parameters": {"binary_data_size": 40},
            },
            {
                "name": "b",
                "datatype": "BYTES",
                "shape": [5],
                "parameters": {"binary_data_size": 17},
            },
        ],
        "outputs": [
            {"name": "y", "parameters": {"binary_data": True, "classification": 3}},
            {"name": "z", "parameters": {"binary_data": True}},
        ],
        "parameters": {"temperature": 0.5},
    }


PLACED = Place("region", 4096, 8192, {"a": 8, "b": 6})


def test_tensors_in_shared_memory_are_said_to_be_there() -> None:
    group = Group((("x", "FP32", (1,)), ("z", "INT8", (2,))), (), b"{}", batched=True, alone=False)
    written = json.loads(request_json(group, 2, ("a", "b"), (8, 4), PLACED))

    def there(offset: int, size: int) -> dict[str, Any]:
        return {
            "shared_memory_region": "region",
            "shared_memory_offset": offset,
            "shared_memory_byte_size": size,
        }

    assert [one["parameters"] for one in written["inputs"]] == [there(4096, 8), there(4104, 4)]
    assert [one["parameters"] for one in written["outputs"]] == [there(8192, 8), there(8200, 6)]
    written = json.loads(request_json(group, 2, ("a",), (8, 4), PLACED._replace(outputs=None)))
    assert written["outputs"] == [{"name": "a", "parameters": {"binary_data": True}}]


def test_outputs_in_shared_memory_are_where_they_were_asked_for() -> None:
    outputs = [("b", "INT8", [2, 2]), ("a", "FP32", [2, 1])]  # smaller, and in another order
    told = [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in outputs]
    reply = read_reply(json.dumps({"outputs": told}).encode(), PLACED)
    assert {name: (one.start, one.size) for name, one in reply.outputs.items()} == {
        "a": (0, 8),
        "b": (8, 4),
    }
    assert reply.size == 14


@pytest.mark.parametrize(
    "told",
    [
        {"name": "a", "datatype": "FP32", "shape": [3, 1]},
        {"name": "a", "datatype": "FP32", "shape": [-1, -2]},
        {"name": "c", "datatype": "FP32", "shape": [1]},
        {"name": "a", "datatype": "BYTES", "shape": [1]},
        {"name": "a"},
    ],
)
def test_outputs_that_cannot_lie_there(told: dict[str, Any]) -> None:
    with pytest.raises(BadReplyError):
        read_reply(json.dumps({"outputs": [told]}).encode(), PLACED)
