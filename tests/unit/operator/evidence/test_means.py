"""Differences of means: reference cases, buckets of users, covariates, false alarms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.evidence import means
from tidegate_operator.evidence.means import Buckets, Effect, Units

ALPHA = 0.05


def test_reference_case_2() -> None:
    found = means.lift(Units.of_successes(3000, 1396), Units.of_successes(3461, 2422))
    low, high = means.interval(found, 6461, ALPHA, 5000)
    assert round(found.difference, 5) == 0.50386
    assert (round(low, 5), round(high, 5)) == (0.40098, 0.60675)


def test_reference_case_3() -> None:
    control = Units.of_values(3000, 1396.87, 52377.9767)
    treatment = Units.of_values(3461, 2422.7, 134698.29)
    found = means.lift(control, treatment)
    low, high = means.interval(found, 6461, ALPHA, 1000)
    assert round(found.difference, 5) == 0.50336
    assert (round(low, 5), round(high, 5)) == (-0.55844, 1.56516)


def test_the_cost_of_looking_at_any_time() -> None:
    assert round(means.boundary(5000, ALPHA, 5000), 3) == 3.035
    # narrowest, for what is known by then, where it was told to be
    reach = {n: means.boundary(5000, ALPHA, n) for n in (50, 500, 5000, 50_000, 500_000)}
    assert min(reach, key=lambda n: reach[n]) == 5000


@given(st.floats(-5, 5), st.floats(0.01, 5), st.integers(2, 10**6), st.sampled_from([0.01, 0.05]))
def test_p_is_below_the_level_exactly_where_the_interval_excludes_nothing(
    difference: float, error: float, units: int, alpha: float
) -> None:
    found = Effect(difference, error)
    low, high = means.interval(found, units, alpha)
    p = means.p_value(found, units, alpha)
    if abs(p / alpha - 1) > 1e-9:
        assert (p < alpha) == (not low <= 0.0 <= high)


def test_nothing_known() -> None:
    assert means.interval(Effect(1.0, 0.1), 1, ALPHA) == (-math.inf, math.inf)
    assert means.p_value(Effect(1.0, math.inf), 100, ALPHA) == 1.0
    one = Buckets([5.0, 0.0], [3.0, 0.0])
    assert means.effect(one, one).error == math.inf
    assert means.few_buckets(Effect(1.0, 0.1), 2, ALPHA, 100, 5000).error == math.inf
    assert means.p_value(Effect(0.0, 0.0), 100, ALPHA) == 1.0
    assert means.p_value(Effect(0.1, 0.0), 100, ALPHA) == 0.0


def test_buckets_of_one_user_each_are_users() -> None:
    """With one outcome in each bucket the linearised variance is that of independent values."""
    values = np.random.default_rng(1).normal(3, 2, 64)
    one = Buckets(np.ones(64), values)
    units = Units.of_values(64, float(values.sum()), float((values**2).sum()))
    assert one.mean == pytest.approx(units.mean)
    assert one.mean_variance == pytest.approx(units.mean_variance)


def test_a_user_who_sends_everything_ten_times_is_still_one_user() -> None:
    random = np.random.default_rng(2)
    n, total = random.integers(1, 9, 64).astype(float), random.normal(5, 1, 64)
    assert Buckets(10 * n, 10 * total).mean_variance == pytest.approx(
        Buckets(n, total).mean_variance
    )


def test_a_covariate_takes_off_what_it_foretells() -> None:
    random = np.random.default_rng(3)

    def arm(gain: float) -> Buckets:
        n = random.poisson(30, 64).astype(float)
        history = n * 2.0 + random.normal(0, 6, 64)
        return Buckets(n, n * gain + 1.5 * (history - 2.0 * n) + random.normal(0, 1, 64), history)

    control, treatment = arm(1.0), arm(1.2)
    plain = means.effect(control, treatment)
    adjusted = means.effect(*means.cuped(control, treatment))
    assert adjusted.error < plain.error / 4
    assert abs(adjusted.difference - 0.2) < 3 * adjusted.error
    assert adjusted.error > 0.0


def test_a_covariate_that_is_the_same_for_all_changes_nothing() -> None:
    control = Buckets([4.0, 6.0], [1.0, 3.0], [8.0, 12.0])
    treatment = Buckets([5.0, 5.0], [2.0, 4.0], [10.0, 10.0])
    plain = means.effect(control, treatment)
    assert means.effect(*means.cuped(control, treatment)) == pytest.approx(plain)


@pytest.mark.parametrize("users", [1000, 4000])
def test_sticky_users_raise_no_more_false_alarms_than_the_level(users: int) -> None:
    """Lognormal activity, each user with a success rate of their own; a look a day for 30 days.

    As many looks as requests would be units are shown to go wrong.
    """
    runs, days = 400, 30
    random = np.random.default_rng(users)
    robust = requests_alarm = 0
    for _ in range(runs):
        activity = random.lognormal(0, 1, users)
        able = random.beta(2, 2, users)
        cell = random.integers(0, 64, users) + 64 * (random.random(users) < 0.5)
        asked = np.bincount(cell, activity, 128)
        good = np.bincount(cell, activity * able, 128)
        hits = random.poisson(good, (days, 128)).cumsum(axis=0)
        misses = random.poisson(asked - good, (days, 128)).cumsum(axis=0)
        robust += _alarm(hits, hits + misses, users)
        requests_alarm += _alarm_by_request(hits, hits + misses)
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert robust / runs <= limit
    assert requests_alarm / runs > limit


def _alarm(hits: np.ndarray, n: np.ndarray, users: int) -> bool:
    for day in range(len(hits)):
        arms = Buckets(n[day, :64], hits[day, :64]), Buckets(n[day, 64:], hits[day, 64:])
        found = means.effect(*arms)
        found = means.few_buckets(found, len(arms[0].n) + len(arms[1].n), ALPHA, users, users)
        if means.p_value(found, users, ALPHA, users) < ALPHA:
            return True
    return False


def _alarm_by_request(hits: np.ndarray, n: np.ndarray) -> bool:
    for day in range(len(hits)):
        sums = [(int(n[day, half].sum()), int(hits[day, half].sum())) for half in _HALVES]
        found = means.effect(*(Units.of_successes(*one) for one in sums))
        if means.p_value(found, sums[0][0] + sums[1][0], ALPHA) < ALPHA:
            return True
    return False


_HALVES = (slice(0, 64), slice(64, 128))
