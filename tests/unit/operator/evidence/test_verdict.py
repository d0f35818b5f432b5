"""What the counts say of a metric."""

from typing import Any

import pytest

from tidegate_contract.names import ARM_CANARY, ARM_SHADOW, ARM_STABLE
from tidegate_operator.api.canaryrollout import (
    Checkpoint,
    Disagreement,
    ErrorRate,
    Latency,
    Metric,
    Query,
    Range,
)
from tidegate_operator.evidence import proportions, ratio, share
from tidegate_operator.evidence.checks import (
    Agreement,
    Counted,
    Definition,
    Queried,
    compile_metric,
    counted,
)
from tidegate_operator.evidence.queries import Answer, NoValue, QueryError, Value
from tidegate_operator.evidence.tally import Tally
from tidegate_operator.evidence.verdict import (
    Judgement,
    Rules,
    Verdict,
    bad_in_a_row,
    harm_key,
    judge,
    step_requests,
    worst,
)

TO = Definition("u", 1, ARM_CANARY, 1.25, 0.03)
ERRORS = Metric(name="errors", error_rate=ErrorRate(success=0.01, rollback=0.05))
RATIO = Metric(name="errors", error_rate=ErrorRate(success=0.01, max_ratio_to_stable=1.5))
SLOW = Metric(
    name="slow",
    latency=Latency(quantile=0.95, success="100ms", rollback="500ms", max_ratio_to_stable=2.0),
)
AGREEMENT = Metric(name="same", disagreement=Disagreement(max=0.02))
BASELINE = Metric(name="same", disagreement=Disagreement(max=0.02, baseline=True))
REVENUE = Metric(
    name="revenue",
    prometheus=Query(query="q", success=Range(min=3), rollback=Range(max=1), failure_limit=2),
)
WORSE = ratio.observe(
    ratio.RatioEvidence(),
    [ratio.Stratum(1_000, 300, 9_000, 90)],
    max_ratio=1.5,
    planned_looks=10,
)
"""Thirty times as many errors as stable."""


def rules(**how: Any) -> Rules:
    return Rules(**{"threshold": 200.0, **how})


def looked(steps: list[Tally], allowed: float) -> share.ShareEvidence:
    """The evidence of so many steps of one look each."""
    found = share.ShareEvidence()
    for one in steps:
        found = share.observe(found, one.requests, one.bad, allowed=allowed, planned_looks=100)
    return found


def counting(metric: Metric) -> Counted:
    found = compile_metric(metric, TO)
    assert isinstance(found, Counted)
    return found


def judged(
    metric: Metric,
    canary: Tally,
    harm: list[Tally] | None = None,
    compared: ratio.RatioEvidence | None = None,
    stable: list[Tally] | None = None,
    **how: Any,
) -> Judgement:
    one = counting(metric)
    found: dict[str, list[Tally]] = {}
    shares: dict[str, share.ShareEvidence] = {}
    for bound in (one.success, one.rollback):
        if bound is not None:
            found[harm_key(bound)] = harm or [canary]
            shares[harm_key(bound)] = looked(found[harm_key(bound)], bound.allowed)
    if one.neighbour is not None and one.neighbour.broken is not None and stable:
        bound = one.neighbour.broken
        found[harm_key(bound)] = stable
        shares[harm_key(bound)] = looked(stable, bound.allowed)
    evidence = Checkpoint(
        gating_since=0,
        step=0,
        harm=found,
        shares=shares,
        watched={check.id: {ARM_CANARY: canary} for check in one.checks},
        ratios={one.ratio.id: compared} if one.ratio and compared else {},
    )
    return judge(one, evidence, rules(**how))


def test_worst_wins() -> None:
    order = [Verdict.Pass, Verdict.Inconclusive, Verdict.NoData, Verdict.Error, Verdict.Fail]
    assert sorted(Verdict) == order


def test_the_verdict_of_a_look_is_the_worst_of_those_that_decide() -> None:
    good = judged(ERRORS, Tally(requests=500), step_over=True)
    bad = judged(ERRORS, Tally(requests=100, bad=90))
    dry = Metric(name="dry", error_rate=ErrorRate(rollback=0.05), dry_run=True)
    ignored = judged(dry, Tally(requests=100, bad=90))
    assert ignored.verdict is Verdict.Fail
    assert worst([good, ignored]) is Verdict.Pass
    assert worst([good, bad, ignored]) is Verdict.Fail
    assert worst([ignored]) is Verdict.Inconclusive


def test_it_gathers_until_the_step_is_over() -> None:
    found = judged(ERRORS, Tally(requests=500, bad=0))
    assert (found.verdict, found.status.reason) == (Verdict.Inconclusive, "gathering")


def test_within_the_bound_it_passes() -> None:
    found = judged(ERRORS, Tally(requests=500, bad=5), step_over=True)
    assert (found.verdict, found.status.canary) == (Verdict.Pass, 0.01)


def test_above_the_bound_it_is_not_conclusive() -> None:
    found = judged(ERRORS, Tally(requests=500, bad=6), step_over=True)
    assert (found.verdict, found.status.reason) == (
        Verdict.Inconclusive,
        "1.2% is above success 1%",
    )


def test_without_a_success_bound_it_passes_by_not_failing() -> None:
    metric = Metric(name="errors", error_rate=ErrorRate(rollback=0.05))
    assert judged(metric, Tally(requests=500, bad=30), step_over=True).verdict is Verdict.Pass


def test_without_a_rollback_bound_it_never_fails() -> None:
    metric = Metric(name="errors", error_rate=ErrorRate(success=0.05))
    found = judged(metric, Tally(requests=500, bad=500), step_over=True)
    assert found.verdict is Verdict.Inconclusive
    assert found.status.evidence == 1.0


def test_nothing_that_it_concerns_is_not_within_bounds() -> None:
    found = judged(ERRORS, Tally(), step_over=True)
    assert (found.verdict, found.status.reason) == (
        Verdict.Inconclusive,
        "no request that it concerns reached the canary",
    )


@pytest.mark.parametrize("step_over", [False, True])
def test_a_broken_bound_fails_at_any_time(step_over: bool) -> None:
    found = judged(ERRORS, Tally(requests=100, bad=40), step_over=step_over)
    assert found.verdict is Verdict.Fail
    assert found.status.reason == "40 of 100 canary requests failed (40%), 5% allowed"
    assert found.status.threshold == 200
    assert (found.status.evidence or 0.0) >= 200


def test_it_fails_at_the_threshold_and_not_before() -> None:
    tally = Tally(requests=30, bad=6)
    e_value = share.above(looked([tally], 0.05))
    assert judged(ERRORS, tally, threshold=e_value).verdict is Verdict.Fail
    assert judged(ERRORS, tally, threshold=e_value * 1.001).verdict is Verdict.Inconclusive


def test_users_that_stick_together_need_more_of_it() -> None:
    tally = Tally(requests=30, bad=6)
    e_value = share.above(looked([tally], 0.05))
    spread = {check.id: 2.0 for check in counting(ERRORS).checks}
    held = judged(ERRORS, tally, threshold=e_value, dispersion=spread)
    assert held.verdict is Verdict.Inconclusive
    assert held.status.evidence == pytest.approx(e_value**0.5, rel=1e-3)


def test_requests_that_nobody_watched_count_for_harm() -> None:
    harm = [Tally(requests=100, bad=60)]
    assert judged(ERRORS, Tally(), harm=harm).verdict is Verdict.Fail


def test_the_reason_is_the_worst_part_of_the_rollout() -> None:
    found = judged(ERRORS, Tally(), harm=[Tally(requests=100, bad=2), Tally(requests=40, bad=30)])
    assert found.status.reason == "30 of 40 canary requests failed (75%), 5% allowed"
    found = judged(ERRORS, Tally(), harm=[Tally(requests=100, bad=60), Tally(requests=40, bad=2)])
    assert found.status.reason == "62 of 140 canary requests failed (44.3%), 5% allowed"


def test_a_slow_canary_says_how_slow() -> None:
    found = judged(SLOW, Tally(requests=100, bad=60))
    assert found.status.reason == (
        "60 of 100 canary requests took longer than 500ms (60%), 5% allowed"
    )


def test_a_ratio_fails_only_where_the_rate_is_above_success_too() -> None:
    above = Tally(requests=1_000, bad=11)
    found = judged(RATIO, above, compared=WORSE)
    assert found.verdict is Verdict.Fail
    assert "the canary fails" in found.status.reason
    assert "times as often as stable, 1.5 allowed" in found.status.reason
    within = Tally(requests=1_000, bad=10)
    assert judged(RATIO, within, compared=WORSE).verdict is Verdict.Inconclusive
    passed = judged(RATIO, within, compared=WORSE, step_over=True)
    assert passed.verdict is Verdict.Pass
    assert passed.status.reason.startswith("within bounds, though the canary fails")


def test_a_ratio_that_earlier_steps_broke_is_not_told_by_this_step() -> None:
    """Harm is of the rollout, the interval of the step: "at least 0 times" would say nothing."""
    above = Tally(requests=1_000, bad=11)
    found = judged(RATIO, above, compared=ratio.new_step(WORSE))
    assert found.status.reason == (
        "the canary fails more than 1.5 times as often as stable, 1.5 allowed"
    )
    few = ratio.observe(
        ratio.new_step(WORSE),
        [ratio.Stratum(100, 4, 900, 12)],
        max_ratio=1.5,
        planned_looks=10,
    )
    found = judged(RATIO, above, compared=few)
    assert found.status.reason == ("the canary fails about 3 times as often as stable, 1.5 allowed")


@pytest.mark.parametrize(
    ("harm", "step"),
    [
        ([Tally(requests=1_000, bad=30)], Tally(requests=1_000, bad=5)),
        ([Tally(requests=9_000, bad=30)], Tally(requests=1_000, bad=20)),
    ],
)
def test_within_success_means_in_this_step_and_in_the_rollout(
    harm: list[Tally], step: Tally
) -> None:
    assert judged(RATIO, step, harm=harm, compared=WORSE).verdict is Verdict.Fail


def test_without_success_a_proven_ratio_fails() -> None:
    metric = Metric(name="errors", error_rate=ErrorRate(max_ratio_to_stable=1.5))
    assert judged(metric, Tally(requests=1_000), compared=WORSE).verdict is Verdict.Fail


def test_where_stable_has_no_requests_nothing_is_compared() -> None:
    metric = Metric(name="errors", error_rate=ErrorRate(max_ratio_to_stable=1.5))
    alone = {"compared": WORSE, "step_over": True, "proof": 100.0}
    canary = Tally(requests=1_000, bad=500)
    one = counting(metric)
    assert one.ratio is not None
    evidence = Checkpoint(
        gating_since=0, watched={one.ratio.id: {ARM_CANARY: canary}}, ratios={one.ratio.id: WORSE}
    )
    del alone["compared"]
    assert judge(one, evidence, rules(compared=False, **alone)).verdict is Verdict.Pass
    assert judge(one, evidence, rules(compared=True, **alone)).verdict is Verdict.Fail


def test_proof_is_asked_where_it_is_wanted() -> None:
    canary = Tally(requests=1_000, bad=5)
    assert judged(RATIO, canary, step_over=True).verdict is Verdict.Pass
    found = judged(RATIO, canary, step_over=True, proof=100.0)
    assert found.verdict is Verdict.Inconclusive
    assert found.status.reason == "not yet proven to be no worse than stable (E 1 of 100)"
    assert judged(RATIO, canary, step_over=True, proof=1.0).verdict is Verdict.Pass


def test_what_cannot_be_compared_passes_by_its_other_bounds_but_is_no_proof() -> None:
    unpinned = compile_metric(SLOW, Definition("u", 1, ARM_CANARY, 1.25))
    assert isinstance(unpinned, Counted)
    fast = {check.id: {ARM_CANARY: Tally(requests=100)} for check in unpinned.checks}
    evidence = Checkpoint(gating_since=0, watched=fast)
    assert judge(unpinned, evidence, rules(step_over=True)).verdict is Verdict.Pass
    held = judge(unpinned, evidence, rules(step_over=True, proof=100.0))
    assert held.verdict is Verdict.Inconclusive
    alone = Metric(name="slow", latency=Latency(quantile=0.95, max_ratio_to_stable=2.0))
    bare = compile_metric(alone, Definition("u", 1, ARM_CANARY, 1.25))
    found = judge(bare, evidence, rules(step_over=True))
    assert found.verdict is Verdict.Inconclusive
    assert found.status.reason == held.status.reason
    assert "how fast stable was before the rollout is not known" in found.status.reason


def test_a_neighbour_beyond_its_own_bound_fails() -> None:
    slow = [Tally(requests=1_000, bad=300)]
    found = judged(SLOW, Tally(requests=100), stable=slow)
    assert found.verdict is Verdict.Fail
    assert found.status.reason == (
        "stable, on the same device, was within its bound before: 300 of 1000 stable requests took "
        "longer than 500ms (30%), 5% allowed"
    )


def agreed(metric: Metric, pairs: Tally, itself: Tally | None = None, **how: Any) -> Judgement:
    one = compile_metric(metric, TO)
    assert isinstance(one, Agreement)
    id_ = one.bound.id
    excess = proportions.ExcessEvidence()
    for _ in range(2):  # the first look has nothing to bet on
        excess = proportions.observe(
            excess, pairs, itself or Tally(), excess=one.bound.allowed, planned_looks=10
        )
    evidence = Checkpoint(
        gating_since=0,
        step=0,
        harm={id_: [pairs]},
        shares={id_: looked([pairs], one.bound.allowed)},
        watched={id_: {ARM_SHADOW: pairs}},
        itself={id_: itself} if itself else {},
        excesses={id_: excess},
    )
    return judge(one, evidence, rules(**how))


def test_pairs_pass_within_their_bound_at_the_end() -> None:
    pairs = Tally(requests=1_000, bad=20)
    assert agreed(AGREEMENT, pairs).status.reason == "gathering"
    assert agreed(AGREEMENT, pairs, step_over=True).verdict is Verdict.Pass
    over = agreed(AGREEMENT, Tally(requests=1_000, bad=21), step_over=True)
    assert (over.verdict, over.status.reason) == (
        Verdict.Inconclusive,
        "2.1% disagreed, 2% allowed",
    )
    none = agreed(AGREEMENT, Tally(), step_over=True)
    assert none.status.reason == "no requests disagreed, 2% allowed"
    assert none.verdict is Verdict.Inconclusive


def test_pairs_fail_as_soon_as_that_is_proven() -> None:
    found = agreed(AGREEMENT, Tally(requests=100, bad=30))
    assert (found.verdict, found.status.reason) == (
        Verdict.Fail,
        "30 of 100 mirrored requests were answered otherwise than by stable (30%), 2% allowed",
    )
    assert found.status.stable is None


def test_pairs_fail_at_the_threshold_and_not_before() -> None:
    pairs = Tally(requests=100, bad=10)
    e_value = share.above(looked([pairs], 0.02))
    assert agreed(AGREEMENT, pairs, threshold=e_value).verdict is Verdict.Fail
    assert agreed(AGREEMENT, pairs, threshold=e_value * 1.001).verdict is Verdict.Inconclusive


def test_of_pairs_only_what_stable_does_not_do_itself_counts() -> None:
    pairs, itself = Tally(requests=10_000, bad=3_000), Tally(requests=1_000, bad=300)
    same = agreed(BASELINE, pairs, itself, step_over=True)
    assert (same.verdict, same.status.stable) == (Verdict.Pass, 0.3)
    steady = Tally(requests=1_000, bad=10)
    found = agreed(BASELINE, pairs, steady, step_over=True)
    assert found.verdict is Verdict.Fail
    assert found.status.reason.endswith("(30%), 3% allowed")


@pytest.mark.parametrize("metric", [AGREEMENT, BASELINE])
def test_pairs_of_users_that_stick_together_need_more_of_it(metric: Metric) -> None:
    one = compile_metric(metric, TO)
    assert isinstance(one, Agreement)
    pairs, itself = Tally(requests=1_000, bad=60), Tally(requests=1_000, bad=1)
    assert agreed(metric, pairs, itself).verdict is Verdict.Fail
    spread = {one.bound.id: 20.0}
    assert agreed(metric, pairs, itself, dispersion=spread).verdict is Verdict.Inconclusive


def test_pairs_are_not_asked_for_where_stable_has_no_requests() -> None:
    assert agreed(AGREEMENT, Tally(), step_over=True, compared=False).verdict is Verdict.Pass
    bad = Tally(requests=100, bad=30)
    assert agreed(AGREEMENT, bad, step_over=True, compared=False).verdict is Verdict.Fail


def asked(answer: Answer | None, bad: int = 0, metric: Metric = REVENUE, **how: Any) -> Judgement:
    one = compile_metric(metric, TO)
    assert isinstance(one, Queried)
    answers = {} if answer is None else {"revenue": answer}
    evidence = Checkpoint(gating_since=0, queries={one.id: bad})
    return judge(one, evidence, rules(answers=answers, **how))


@pytest.mark.parametrize(
    ("answer", "bad", "verdict", "reason"),
    [
        (None, 0, Verdict.Inconclusive, "not asked yet"),
        (NoValue(0, "no series"), 2, Verdict.NoData, "its query gives no series"),
        (QueryError(0, "timeout"), 2, Verdict.Error, "its query fails: timeout"),
        (Value(0, 3.0), 0, Verdict.Pass, "within bounds"),
        (Value(0, 2.9), 0, Verdict.Inconclusive, "its value is not within success (at least 3)"),
        (Value(0, 1.0), 1, Verdict.Inconclusive, "its value is within rollback, 1 of 2"),
        (Value(0, 1.0), 2, Verdict.Fail, "1 is within rollback (at most 1), 2 times in a row"),
    ],
)
def test_answers(answer: Answer | None, bad: int, verdict: Verdict, reason: str) -> None:
    found = asked(answer, bad, step_over=True)
    assert (found.verdict, found.status.reason) == (verdict, reason)


def test_an_answer_gathers_until_the_step_is_over_and_is_shown() -> None:
    found = asked(Value(0, 5.0))
    assert (found.verdict, found.status.reason, found.status.canary) == (
        Verdict.Inconclusive,
        "gathering",
        5.0,
    )


def test_an_answer_without_success_passes_by_not_failing() -> None:
    metric = Metric(name="revenue", prometheus=Query(query="q", rollback=Range(max=1)))
    assert asked(Value(0, 2.0), metric=metric, step_over=True).verdict is Verdict.Pass


def test_bad_answers_are_counted_in_a_row() -> None:
    one = compile_metric(REVENUE, TO)
    assert isinstance(one, Queried)
    count = 0
    for answer, expected in [
        (Value(0, 0.5), 1),
        (NoValue(0, ""), 1),
        (Value(0, 1.0), 2),
        (QueryError(0, ""), 2),
        (Value(0, 1.1), 0),
        (Value(0, 0.0), 1),
    ]:
        evidence = Checkpoint(gating_since=0, queries={one.id: count})
        count = bad_in_a_row([one], evidence, rules(answers={"revenue": answer}))[one.id]
        assert count == expected


def test_a_query_without_rollback_counts_nothing() -> None:
    metric = Metric(name="revenue", prometheus=Query(query="q", success=Range(min=1, max=2)))
    one = compile_metric(metric, TO)
    evidence = Checkpoint(gating_since=0)
    assert bad_in_a_row([one], evidence, rules(answers={"revenue": Value(0, 9.0)})) == {}
    found = asked(Value(0, 9.0), metric=metric, step_over=True)
    assert found.status.reason == "its value is not within success (at least 1 and at most 2)"


def test_requests_of_a_step_are_those_of_the_widest_check() -> None:
    narrow = Metric(name="slow", latency=Latency(quantile=0.9, success="1s", priorities=[1]))
    checks = counted([counting(ERRORS), counting(narrow)])
    watched = {
        checks[0].id: {ARM_STABLE: Tally(requests=90), ARM_CANARY: Tally(requests=10)},
        checks[1].id: {ARM_STABLE: Tally(requests=9), ARM_CANARY: Tally(requests=1)},
        "errors/rollback@old": {ARM_CANARY: Tally(requests=1000)},
    }
    assert step_requests(checks, watched) == {ARM_STABLE: 90, ARM_CANARY: 10, ARM_SHADOW: 0}
    assert step_requests(checks, {}) == {ARM_STABLE: 0, ARM_CANARY: 0, ARM_SHADOW: 0}
