"""Differences of shares: E-values by exact enumeration, worked cases, power."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tidegate_operator.api.canaryrollout import Tally
from tidegate_operator.evidence import proportions
from tidegate_operator.evidence.proportions import ExcessEvidence

shares = st.floats(0.01, 0.99)


def _tally(n: int, x: int) -> Tally:
    return Tally(requests=n, bad=x)


@given(shares, shares, st.floats(0, 0.3), st.integers(0, 40), st.integers(0, 40), st.data())
def test_the_expectation_is_at_most_one_for_every_allowed_pair(
    first: float, second: float, excess: float, x: int, y: int, data: st.DataObject
) -> None:
    """Of the next look, whatever was seen before; summed over all that can happen in it."""
    before = ExcessEvidence(first=_tally(40, x), second=_tally(40, y))
    if first > second + excess:
        first = data.draw(st.floats(0.001, min(second + excess, 0.999)))
    n, m = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 7))
    expectation = sum(
        stats.binom.pmf(i, n, first)
        * stats.binom.pmf(j, m, second)
        * math.exp(proportions.observe(before, _tally(n, i), _tally(m, j), excess=excess).log_e)
        for i, j in itertools.product(range(n + 1), range(m + 1))
    )
    assert expectation <= 1.0 + 1e-9


def test_without_an_excess_it_is_the_published_formula() -> None:
    """E = prod thc^xc (1-thc)^(nc-xc) ths^xs (1-ths)^(ns-xs) / [th0^K (1-th0)^(n-K)]."""
    before = ExcessEvidence(first=_tally(100, 20), second=_tally(300, 30))
    one, other = 20.18 / 100.36, 30.18 / 300.36
    pooled = (50 * one + 150 * other) / 200
    expected = (
        12 * math.log(one)
        + 38 * math.log(1 - one)
        + 15 * math.log(other)
        + 135 * math.log(1 - other)
        - 27 * math.log(pooled)
        - 173 * math.log(1 - pooled)
    )
    after = proportions.observe(before, _tally(50, 12), _tally(150, 15))
    assert after.log_e == pytest.approx(expected)
    assert after.first == _tally(150, 32)


def test_the_first_look_bets_nothing_and_neither_does_the_wrong_direction() -> None:
    state = proportions.observe(ExcessEvidence(), _tally(50, 50), _tally(50, 0))
    assert proportions.above(state) == pytest.approx(1.0)
    better = ExcessEvidence(first=_tally(100, 5), second=_tally(100, 30))
    assert proportions.observe(better, _tally(50, 40), _tally(50, 10)).log_e == 0.0


def test_one_arm_alone_says_nothing() -> None:
    before = ExcessEvidence(first=_tally(100, 20), second=_tally(300, 30))
    assert proportions.observe(before, _tally(50, 50), _tally(0, 0)).log_e == 0.0
    assert proportions.excess_above(_tally(1000, 900), _tally(0, 0), 0.02) < 1.0
    assert proportions.excess_above(_tally(0, 0), _tally(0, 0), 0.02) == pytest.approx(1.0)


def test_a_true_excess_is_found() -> None:
    state = ExcessEvidence()
    looks = 0
    while proportions.above(state) < 100.0:
        state = proportions.observe(state, _tally(100, 12), _tally(100, 5), excess=0.02)
        looks += 1
    assert looks <= 20
    assert proportions.excess_above(_tally(2000, 240), _tally(2000, 100), 0.02) > 100.0
    assert proportions.above(state, dispersion=2.0) == pytest.approx(
        math.sqrt(proportions.above(state))
    )


@given(st.integers(0, 200), st.integers(0, 20), st.floats(0, 0.5))
def test_totals_never_claim_more_than_the_best_alternative_could(
    x: int, y: int, excess: float
) -> None:
    """Universal inference: below the likelihood ratio of the likeliest pair to any allowed one."""
    first, second = _tally(200, x), _tally(20, y)
    found = proportions.excess_above(first, second, excess)
    share = min(y / 20, 1 - excess - 1e-9)
    allowed = proportions._log_likelihood(first, share + excess)
    allowed += proportions._log_likelihood(second, share)
    best = proportions._log_likelihood(first, x / 200) + proportions._log_likelihood(second, y / 20)
    assert math.log(found) <= best - allowed + 1e-6
    if x / 200 <= y / 20 + excess:
        assert found <= 1.0


@pytest.mark.parametrize("excess", [-0.1, 1.0, math.nan])
def test_an_excess_that_means_nothing(excess: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        proportions.observe(ExcessEvidence(), _tally(1, 0), _tally(1, 0), excess=excess)
    with pytest.raises(ValueError, match="outside"):
        proportions.excess_above(_tally(1, 0), _tally(1, 0), excess)


@pytest.mark.parametrize(
    ("first", "second"),
    [((100, 100), (100, 0)), ((100, 100), (100, 100)), ((9, 12), (9, 0)), ((10**7, 10**7), (9, 0))],
)
def test_edges(first: tuple[int, int], second: tuple[int, int]) -> None:
    found = proportions.excess_above(_tally(*first), _tally(*second), 0.02)
    assert math.isfinite(found)
    assert (found > 20.0) == (first[1] > second[1])
