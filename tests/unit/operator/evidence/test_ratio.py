"""The ratio of error rates: worked cases, its checkpoint, and what it must not depend on."""

import math
from itertools import pairwise
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from tidegate_operator.evidence import ratio
from tidegate_operator.evidence.ratio import RatioEvidence, Stratum

counts = st.integers(0, 400)


@st.composite
def _stratum(draw: st.DrawFn) -> Stratum:
    canary, stable = draw(counts), draw(counts)
    return Stratum(
        canary,
        draw(st.integers(0, min(canary, 40))),
        stable,
        draw(st.integers(0, min(stable, 40))),
    )


strata = st.lists(_stratum(), min_size=1, max_size=5)


def _after(*looks: list[Stratum], max_ratio: float = 1.0) -> RatioEvidence:
    state = RatioEvidence()
    for look in looks:
        state = ratio.observe(state, look, max_ratio=max_ratio, planned_looks=100)
    return state


@pytest.mark.parametrize(
    ("bad", "all_bad", "expected"), [(20, 120, 2.485), (40, 200, 1049.8), (4, 4, 474.0)]
)
def test_reference_case_8(bad: int, all_bad: int, expected: float) -> None:
    found = ratio.at_least([Stratum(1000, bad, 9000, all_bad - bad)], 1.0)
    assert f"{found:.4g}" == f"{expected:.4g}"


def test_evidence_by_hand() -> None:
    """One look: the first part of the mass has betted, the rest has not."""
    look = [Stratum(1000, 20, 9000, 100)]
    betted = ratio.AT_ONCE * ratio.at_least(look, 1.0)
    assert ratio.harm(_after(look)) == pytest.approx(betted + 1 - ratio.AT_ONCE)
    assert ratio.harm(RatioEvidence()) == 1.0
    assert ratio.harm(_after(look), dispersion=2.0) == pytest.approx(
        math.sqrt(betted + 1 - ratio.AT_ONCE)
    )


def test_nothing_is_learnt_where_an_arm_is_missing_or_nobody_errs() -> None:
    silent = _after([Stratum(100, 0, 900, 0)], [Stratum(100, 7, 0, 0), Stratum(0, 0, 900, 3)])
    assert ratio.harm(silent) == pytest.approx(1.0)
    assert ratio.not_worse(silent, 1.5) == pytest.approx(1.0)
    fresh = RatioEvidence()
    assert ratio.observe(fresh, [], max_ratio=1.0, planned_looks=9) is fresh
    assert ratio.estimate(_after([Stratum(100, 0, 900, 0)])) is None
    assert ratio.interval(_after([Stratum(100, 0, 900, 0)]), 0.05) == (0.0, math.inf)


def test_errors_of_requests_not_yet_counted_are_no_proof() -> None:
    """A hung version's requests are bad before they are finished."""
    assert ratio.harm(_after([Stratum(0, 50, 900, 9)])) == pytest.approx(1.0)


@given(strata, st.randoms(use_true_random=False), st.sampled_from([0.8, 1.0, 1.5]))
def test_the_order_within_a_look_does_not_matter(
    look: list[Stratum], random: Random, max_ratio: float
) -> None:
    shuffled = look.copy()
    random.shuffle(shuffled)
    one, other = _after(look, max_ratio=max_ratio), _after(shuffled, max_ratio=max_ratio)
    assert ratio.harm(one) == pytest.approx(ratio.harm(other))
    assert ratio.not_worse(one, 1.5) == pytest.approx(ratio.not_worse(other, 1.5))


@given(strata, strata)
def test_a_checkpoint_forgets_nothing(first: list[Stratum], second: list[Stratum]) -> None:
    kept = _after(first)
    read = msgspec.json.decode(msgspec.json.encode(kept), type=RatioEvidence)
    assert read == kept
    assert len(msgspec.json.encode(kept)) < 1000
    again = ratio.observe(read, second, max_ratio=1.0, planned_looks=100)
    assert again == _after(first, second)


@given(st.lists(strata, min_size=1, max_size=4))
def test_a_steps_evidence_does_not_depend_on_how_it_is_cut_into_looks(
    looks: list[list[Stratum]],
) -> None:
    cut, whole = _after(*looks), _after([one for look in looks for one in look])
    assert cut.canary_bad == whole.canary_bad
    assert ratio.not_worse(cut, 1.2) == pytest.approx(ratio.not_worse(whole, 1.2), rel=1e-6)


@given(strata, st.sampled_from([1.0, 1.25, 2.0]))
def test_not_worse_is_the_formula(look: list[Stratum], bound: float) -> None:
    logs = [
        sum(
            -delta * one.canary_bad
            - (one.canary_bad + one.stable_bad)
            * math.log(
                (1 + _share(one) * (bound * math.exp(-delta) - 1)) / (1 + _share(one) * (bound - 1))
            )
            for one in look
        )
        for delta in ratio.DELTAS
    ]
    expected = sum(math.exp(one) for one in logs) / len(logs)
    assert ratio.not_worse(_after(look), bound) == pytest.approx(expected, rel=1e-5)


def _share(stratum: Stratum) -> float:
    requests = stratum.canary + stratum.stable
    return stratum.canary / requests if requests else 0.0


def test_a_ratio_that_the_checkpoint_cannot_tell() -> None:
    with pytest.raises(ValueError, match="outside"):
        ratio.not_worse(_after([Stratum(100, 1, 900, 9)]), 0.1)


def test_one_more_error_of_the_canary_is_more_evidence_of_harm() -> None:
    found = [ratio.harm(_after([Stratum(100, bad, 900, 12 - bad)])) for bad in range(13)]
    assert all(less < more for less, more in pairwise(found))


def test_an_estimate_that_a_growing_share_does_not_mislead() -> None:
    """The rate triples while the share grows from 5 to 50%: pooled, the canary looks worse."""
    step = _after([Stratum(500, 5, 9500, 95)], [Stratum(5000, 150, 5000, 150)])
    pooled = (155 / 5500) / (245 / 14500)
    assert pooled > 1.6
    assert ratio.estimate(step) == pytest.approx(1.0, abs=0.01)
    assert ratio.estimate(_after([Stratum(100, 0, 900, 9)])) == 0.0
    assert ratio.estimate(_after([Stratum(100, 3, 900, 0)])) == math.inf


@pytest.mark.parametrize(
    ("canary", "bad", "stable", "stable_bad"),
    [(1000, 30, 9000, 90), (100, 2, 900, 30), (10**6, 30_000, 9 * 10**6, 90_000), (50, 0, 900, 4)],
)
def test_the_interval_is_where_the_likelihood_keeps_up_with_its_average(
    canary: int, bad: int, stable: int, stable_bad: int
) -> None:
    rho, all_bad = canary / (canary + stable), bad + stable_bad

    def likelihood(u: float) -> float:
        return bad * u - all_bad * math.log1p(rho * math.expm1(u))

    peak = max(np.linspace(-5, 5, 20_001), key=likelihood)

    def weighted(u: float) -> float:
        return math.exp(likelihood(u) - likelihood(peak) - u * u / 2) / math.sqrt(2 * math.pi)

    points = [peak, peak - 0.01, peak + 0.01]
    average = math.log(integrate.quad(weighted, -5, 5, points=points, limit=500)[0])
    low, high = ratio.interval(_after([Stratum(canary, bad, stable, stable_bad)]), 0.05)
    for end in (low, high):
        if 0.0 < end < math.inf:
            excess = average + likelihood(peak) - likelihood(math.log(end)) - math.log(20)
            slope = abs(likelihood(math.log(end) + 1e-4) - likelihood(math.log(end) - 1e-4)) / 2e-4
            assert 0.0 <= excess / slope <= 0.021, "at most two steps of the grid outside"
    assert low < math.exp(peak) < high or bad == 0


def test_the_interval_narrows_and_widens_with_dispersion() -> None:
    looks = [[Stratum(1000, 10, 9000, 90)]] * 40
    widths = [
        math.log(high / low)
        for low, high in (ratio.interval(_after(*looks[:n]), 0.05) for n in (1, 4, 40))
    ]
    assert widths[0] > widths[1] > widths[2]
    low, high = ratio.interval(_after(*looks), 0.05, dispersion=4.0)
    assert math.log(high / low) > 1.5 * widths[2]


def test_a_new_step_keeps_harm_only_and_a_gap_counts_for_harm_only() -> None:
    look = [Stratum(1000, 30, 9000, 90)]
    before = _after(look, look)
    after = ratio.new_step(before)
    assert ratio.harm(after) == ratio.harm(before) > 1.0
    assert after.looks == before.looks
    assert ratio.not_worse(after, 1.5) == 1.0
    gap = ratio.observe(after, look, max_ratio=1.0, planned_looks=100, gap=True)
    assert ratio.harm(gap) > ratio.harm(after)
    assert ratio.estimate(gap) is None


@pytest.mark.parametrize("planned", [1, 7, 300])
def test_no_more_than_the_whole_probability_is_given_away(planned: int) -> None:
    """Also when a rollout is held long beyond its plan, or the plan changes midway."""
    waiting = 1.0
    for looks in range(20_000):
        starting = ratio.begins_now(looks, waiting, planned if looks < 1000 else 5)
        assert starting > 0.0
        waiting -= starting
    assert waiting >= ratio.RESERVE
    assert float(np.exp(ratio._LATER).mean()) == pytest.approx(1.0)


def test_a_late_fault_is_found_soon_after_weeks_of_good_looks() -> None:
    state = RatioEvidence()
    harm = np.full(len(ratio.DELTAS), -np.inf)
    quiet = ratio.increment(np.array([[50.0], [0.5], [450.0], [4.5]]), 1.0)
    waiting = 1.0
    for looks in range(20_000):
        starting = ratio.begins_now(looks, waiting, 140)
        waiting -= starting
        harm = ratio.grow(harm, starting, looks, quiet)
    state = RatioEvidence(harm=ratio.pack(harm), looks=20_000, waiting=waiting)
    needed = 0
    while ratio.harm(state) < 100.0:
        state = ratio.observe(state, [Stratum(50, 25, 450, 4)], max_ratio=1.0, planned_looks=140)
        needed += 1
    assert needed == 1


def test_extremes_neither_overflow_nor_vanish() -> None:
    state = _after(*[[Stratum(10**9, 10**9, 10**9, 0)]] * 3)
    assert ratio.harm(state) == pytest.approx(1e300)
    assert ratio.interval(state, 0.05).high == math.inf
    good = _after(*[[Stratum(10**9, 0, 10**9, 10**8)]] * 3)
    assert ratio.harm(good) >= ratio.RESERVE
    assert ratio.not_worse(good, 1.0) == pytest.approx(1e300)
