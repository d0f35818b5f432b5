"""What counts as the same answer, in every type."""

from math import isinf, isnan
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_sidecar.core.compare import Rule, Tensor, difference

RULE = Rule(tolerance=0.001)
ARGMAX = Rule(tolerance=0.001, argmax=True)
TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
INF, NAN = float("inf"), float("nan")


def tensor(datatype: str, values: Any, *, classes: bool = False) -> Tensor:
    if datatype == "BYTES":
        array = np.array(values, np.object_)
        data = b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())
        return Tensor(datatype, array.shape, data, classes)
    array = np.array(values, TYPES[datatype])
    return Tensor(datatype, array.shape, array.tobytes(), classes)


def differ(stable: Tensor, canary: Tensor, rule: Rule = RULE) -> str | None:
    return difference({"y": stable}, {"y": canary}, rule)


@pytest.mark.parametrize("datatype", TYPES)
def test_every_type_agrees_with_itself_and_not_with_others(datatype: str) -> None:
    ours, theirs = tensor(datatype, [[0, 1], [1, 0]]), tensor(datatype, [[0, 1], [1, 1]])
    assert differ(ours, tensor(datatype, [[0, 1], [1, 0]])) is None
    told = differ(ours, theirs)
    assert told
    assert "1 of 4 differ, first at [1, 1]" in told


@pytest.mark.parametrize("datatype", [one for one in TYPES if one not in (*FLOATS, "BOOL")])
def test_integers_are_exact_whatever_the_tolerance(datatype: str) -> None:
    top = int(np.iinfo(TYPES[datatype]).max)
    assert differ(tensor(datatype, [top]), tensor(datatype, [top - 1]), Rule(tolerance=1.0))


def test_a_boolean_is_what_it_means_not_its_byte() -> None:
    assert differ(Tensor("BOOL", (1,), b"\x01"), Tensor("BOOL", (1,), b"\xff")) is None


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (0.0, -0.0, True),
        (NAN, NAN, True),
        (NAN, 0.0, False),
        (INF, INF, True),
        (-INF, -INF, True),
        (INF, -INF, False),
        (INF, 1.0, False),
        (1.0, NAN, False),
        (-1.0, 1.0, False),
    ],
)
def test_odd_floats(datatype: str, a: float, b: float, alike: bool) -> None:
    assert (differ(tensor(datatype, [a]), tensor(datatype, [b])) is None) == alike


def test_nans_of_other_bits_are_alike() -> None:
    quiet = Tensor("FP32", (1,), bytes.fromhex("0000c07f"))
    other = Tensor("FP32", (1,), bytes.fromhex("0100c0ff"))
    assert quiet.data != other.data
    assert differ(quiet, other) is None


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (0.0, 0.001, True),
        (0.0, 0.0011, False),
        (0.5, 0.5009, True),
        (0.5, 0.5011, False),
        (1000.0, 1001.0, True),
        (1000.0, 1002.0, False),
        (-1000.0, -1001.0, True),
        (1e308, -1e308, False),
    ],
)
def test_the_tolerance_is_absolute_below_one_and_relative_above(
    a: float, b: float, alike: bool
) -> None:
    assert (differ(tensor("FP64", [a]), tensor("FP64", [b])) is None) == alike
    assert (differ(tensor("FP64", [b]), tensor("FP64", [a])) is None) == alike


@given(
    st.lists(st.floats(), min_size=1, max_size=5),
    st.lists(st.floats(), min_size=1, max_size=5),
    st.floats(0, 0.5),
)
def test_floats_against_the_rule_as_it_is_written(
    a: list[float], b: list[float], tolerance: float
) -> None:
    b = (b * 5)[: len(a)]

    def far(x: float, y: float) -> bool:
        if isnan(x) or isnan(y):
            return isnan(x) != isnan(y)
        if isinf(x) or isinf(y):
            return x != y
        return abs(x - y) > tolerance * max(1.0, abs(x), abs(y))

    expected = any(map(far, a, b))
    found = differ(tensor("FP64", a), tensor("FP64", b), Rule(tolerance))
    assert (found is not None) == expected


def test_zero_tolerance_asks_for_equal_values() -> None:
    assert differ(
        tensor("FP32", [0.1]), tensor("FP32", [np.nextafter(np.float32(0.1), 1)]), Rule(0)
    )
    assert differ(tensor("FP32", [0.1]), tensor("FP32", [0.1]), Rule(0)) is None


def test_argmax_compares_the_class_of_each_row_and_nothing_else() -> None:
    sure = tensor("FP32", [[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]])
    unsure = tensor("FP32", [[0.4, 0.3, 0.3], [0.3, 0.3, 0.4]])
    other = tensor("FP32", [[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]])
    assert differ(sure, unsure) is not None
    assert differ(sure, unsure, ARGMAX) is None
    told = differ(sure, other, ARGMAX)
    assert told
    assert "1 of 2 differ, first argmax at [1]: 2 by stable, 0 by the canary" in told


def test_argmax_is_for_floats_with_several_places() -> None:
    assert differ(tensor("FP32", [[0.2], [0.3]]), tensor("FP32", [[0.2], [0.4]]), ARGMAX)
    assert differ(tensor("INT32", [[1, 5]]), tensor("INT32", [[2, 5]]), ARGMAX)
    assert differ(tensor("BF16", [1, 5]), tensor("BF16", [2, 5]), ARGMAX) is None


def test_texts_are_exact_and_need_not_be_utf8() -> None:
    ours = tensor("BYTES", [b"a", b"\xff", b""])
    assert differ(ours, tensor("BYTES", [b"a", b"\xff", b""])) is None
    told = differ(ours, tensor("BYTES", [b"a", b"\xfe", b""]))
    assert told
    assert "first at [1]: \\xff by stable, \\xfe by the canary" in told
    # The same bytes in all, cut elsewhere.
    assert differ(tensor("BYTES", [b"ab", b"c"]), tensor("BYTES", [b"a", b"bc"]))


def test_a_classification_is_its_classes_in_their_order() -> None:
    ours = tensor("BYTES", [[b"0.900000:3:cat", b"0.05:1:dog"]], classes=True)
    alike = tensor("BYTES", [[b"0.6:3:cat", b"0.3:1:dog"]], classes=True)
    swapped = tensor("BYTES", [[b"0.6:1:dog", b"0.3:3:cat"]], classes=True)
    assert differ(ours, alike) is None
    assert differ(ours, swapped)
    # A model's own text of that form is a text.
    assert differ(tensor("BYTES", [b"0.9:3"]), tensor("BYTES", [b"0.8:3"]))


def test_what_is_not_comparable_differs_and_says_in_what() -> None:
    ours = tensor("FP32", [[1.0, 2.0]])
    for theirs, told in (
        (tensor("FP64", [[1.0, 2.0]]), "FP32 by stable, FP64 by the canary"),
        (tensor("FP32", [1.0, 2.0]), "[1, 2] by stable, [2] by the canary"),
        (tensor("FP32", [[1.0, 2.0, 3.0]]), "[1, 2] by stable, [1, 3] by the canary"),
    ):
        assert differ(ours, theirs) == f"output y: {told}"
    assert difference({"y": ours}, {}, RULE) == "output y: the canary gave none"
    assert difference({"y": ours}, {"y": ours, "z": ours}, RULE) is None
    assert difference({}, {"y": ours}, RULE) is None


def test_texts_that_cannot_be_read_differ() -> None:
    cut = Tensor("BYTES", (1,), b"\x09\0\0\0abc")
    more = Tensor("BYTES", (1,), tensor("BYTES", [b"a", b"b"]).data)
    for theirs in (cut, more):
        told = differ(tensor("BYTES", [b"a"]), theirs)
        assert told
        assert "cannot be read" in told


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("rule", [RULE, ARGMAX])
def test_nothing_agrees_with_nothing(shape: tuple[int, ...], rule: Rule) -> None:
    empty = Tensor("FP32", shape, b"")
    assert differ(empty, Tensor("FP32", shape, b""), rule) is None


def test_a_long_text_is_told_in_short() -> None:
    told = differ(tensor("BYTES", [b"x" * 10_000]), tensor("BYTES", [b"y"]))
    assert told
    assert len(told) < 300
