"""Users' own PromQL: nothing gets out of its quotation marks, and only one number is one."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.evidence.promql import UnknownPlaceholderError, escaped, filled_in, read
from tidegate_operator.evidence.queries import NoValue, QueryError, Value

VALUES = {"model": "digits", "stable": "1", "canary": "2", "namespace": "default"}


def test_placeholders_are_filled_in() -> None:
    query = 'sum(rate(orders{v="$canary",m="$model",s=\'$stable\',n=~"^$namespace$"}[1m]))'
    assert filled_in(query, VALUES) == (
        'sum(rate(orders{v="2",m="digits",s=\'1\',n=~"^default$"}[1m]))'
    )


def test_what_is_promqls_own_stays() -> None:
    query = 'label_replace(up{job=~"a$"}, "x", "$1-${2}", "y", "(.*)")'
    assert filled_in(query, VALUES) == query


@pytest.mark.parametrize("query", ["$models", "$Model", "$_"])
def test_an_unknown_placeholder_is_an_error_that_names_those_there_are(query: str) -> None:
    with pytest.raises(UnknownPlaceholderError, match=r"\$model, \$stable, \$canary, \$namespace"):
        filled_in(query, VALUES)


def test_a_filled_in_value_is_not_filled_in_again() -> None:
    assert "digits" not in filled_in("$model", {"model": "$namespace", "namespace": "digits"})


@given(st.text(max_size=20))
def test_nothing_gets_out_of_its_quotation_marks_and_nothing_is_lost(text: str) -> None:
    found = escaped(text)
    assert not set(found) & set("\"'`{}\n$")
    assert all(rest.startswith("\\U") for rest in re.findall(r"\\.*", found))
    unescaped = re.sub(r"\\U(\w{8})", lambda one: chr(int(one[1], 16)), found)
    assert unescaped == text


def vector(*values: str) -> bytes:
    rows: list[dict[str, Any]] = [{"metric": {}, "value": [1.5, value]} for value in values]
    return msgspec.json.encode(rows)


@pytest.mark.parametrize(
    ("kind", "result", "expected"),
    [
        ("vector", vector("2.5"), Value(9, 2.5)),
        ("vector", vector("-1e3"), Value(9, -1000)),
        ("vector", vector(), NoValue(9, "no series")),
        ("vector", vector("NaN"), NoValue(9, "NaN (no data, or 0 divided by 0)")),
    ],
)
def test_one_number(kind: str, result: bytes, expected: object) -> None:
    assert read(kind, result, 9) == expected


@pytest.mark.parametrize(
    ("kind", "result", "why"),
    [
        ("vector", vector("1", "2"), "3 series|2 series.*sum"),
        ("vector", vector("+Inf"), "infinite"),
        ("vector", vector("-Inf"), "infinite"),
        ("vector", b'[{"metric": {}, "histogram": [1, {}]}]', "histogram"),
        ("scalar", b'[1, "2"]', r"scalar.*vector\("),
        ("string", b'[1, "a"]', "string"),
        ("matrix", b"[]", "matrix.*range"),
    ],
)
def test_what_is_no_number(kind: str, result: bytes, why: str) -> None:
    found = read(kind, result, 9)
    assert isinstance(found, QueryError)
    assert re.search(why, found.why)
