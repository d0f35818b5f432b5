"""The merge patch of a status, and the API server's refusals as our errors."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import patched

from tidegate_operator.adapters.cluster import (
    ClusterError,
    ConflictError,
    GoneError,
    _translated,
    merge_patch,
)


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda below: st.lists(below, max_size=3) | objects(below),
    max_leaves=12,
)


@given(objects(VALUES), objects(VALUES))
def test_applying_it_gives_the_second(before: dict[str, Any], after: dict[str, Any]) -> None:
    kept = copy.deepcopy((before, after))
    assert patched(before, merge_patch(before, after)) == after
    assert (before, after) == kept


@given(objects(VALUES))
def test_where_nothing_changed_it_is_empty(same: dict[str, Any]) -> None:
    assert merge_patch(same, copy.deepcopy(same)) == {}


def test_only_what_changed_is_in_it() -> None:
    before = {"a": {"b": 1, "c": 2}, "d": [1], "e": 0}
    after = {"a": {"b": 1, "c": 3}, "d": [1, 2]}
    assert merge_patch(before, after) == {"a": {"c": 3}, "d": [1, 2], "e": None}


def test_our_patching_is_the_rfcs() -> None:
    """The cases of RFC 7396, appendix A, that concern objects."""
    cases: list[tuple[Any, Any, Any]] = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    assert [patched(target, patch) for target, patch, _ in cases] == [want for *_, want in cases]


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (404, '{"message": "not found"}', GoneError, "not found"),
        (409, '{"message": "has been modified"}', ConflictError, "has been modified"),
        (403, '{"message": "forbidden"}', ClusterError, "answered 403: forbidden"),
        (502, "<html>bad gateway", ClusterError, "answered 502: <html>bad"),
        (500, "[]", ClusterError, "answered 500"),
    ],
)
def test_refusals(status: int, body: str, kind: type[Exception], words: str) -> None:
    error = _translated(status, body)
    assert type(error) is kind
    assert words in str(error)
