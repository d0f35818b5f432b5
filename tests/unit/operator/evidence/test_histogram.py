"""Quantiles of a histogram."""

import math

import pytest

from tidegate_operator.evidence.histogram import LEAST, quantile

BUCKETS = [(0.01, 500.0), (0.1, 900.0), (1.0, 1_000.0), (math.inf, 1_000.0)]


@pytest.mark.parametrize(
    ("q", "value"),
    [(0.0, 0.0), (0.25, 0.005), (0.5, 0.01), (0.7, 0.055), (0.9, 0.1), (0.95, 0.55), (1.0, 1.0)],
)
def test_it_lies_within_its_bucket_in_proportion(q: float, value: float) -> None:
    assert quantile(BUCKETS, q) == pytest.approx(value)


def test_beyond_the_last_bound_it_is_unknown() -> None:
    assert quantile([(0.1, 900.0), (math.inf, 1_000.0)], 0.95) is None
    assert quantile([(0.1, 900.0), (math.inf, 1_000.0)], 0.9) == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "known"), [(LEAST, True), (LEAST - 1, False), (0, False)])
def test_of_too_few_it_is_unknown(count: int, known: bool) -> None:
    found = quantile([(0.1, float(count)), (math.inf, float(count))], 0.5)
    assert (found is not None) is known


def test_of_none_it_is_unknown() -> None:
    assert quantile([], 0.5) is None


def test_an_empty_bucket_is_passed_over() -> None:
    buckets = [(0.01, 100.0), (0.1, 100.0), (1.0, 200.0), (math.inf, 200.0)]
    assert quantile(buckets, 0.5) == pytest.approx(0.01)
    assert quantile(buckets, 0.75) == pytest.approx(0.55)
