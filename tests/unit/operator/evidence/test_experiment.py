from collections import Counter

import numpy as np
import pytest
from experiments import (
    ACCURACY,
    BUCKETS,
    ERRORS,
    LATENCY,
    NOW,
    Crowd,
    ab_test,
    hashes,
    packed,
    sample,
)

from tidegate_operator.api.abtest import ABTest, Checkpoint, Users
from tidegate_operator.evidence import counters, experiment, gathered, guardrails
from tidegate_operator.evidence.experiment import judge, questions
from tidegate_operator.evidence.tally import Tally

MANY = Users(
    halvings=4,
    control=hashes(np.arange(1000)),
    treatment=hashes(np.arange(1000, 2000)),
)
"""16,000 users of each arm."""


def outcomes(control: float, treatment: float, n: int = 10_000, seed: int = 1) -> str:
    """Binary outcomes with these means, ``n`` of each arm, over the buckets."""
    random = np.random.default_rng(seed)
    sums = np.zeros((2, BUCKETS, 4))
    for arm, mean in enumerate((control, treatment)):
        sums[arm, :, 0] = n / BUCKETS
        sums[arm, :, 1] = sums[arm, :, 2] = random.binomial(n // BUCKETS, mean, BUCKETS)
    return packed(sums)


def evidence(test: ABTest, /, users: Users = MANY, **found: str) -> Checkpoint:
    answers = np.zeros((2, BUCKETS, 2))
    answers[:, :, 0] = 1000
    return Checkpoint(
        gating_since=NOW,
        started=NOW,
        outcomes=found,
        requests={guardrails.answered(test).id: packed(answers)},
        users=users,
    )


def window(test: ABTest, control: Tally, treatment: Tally, check: str = "") -> counters.Window:
    """What a look counted, evenly over the buckets."""

    def part(whole: Tally, bucket: int) -> Tally:
        requests, bad = (n // BUCKETS + (bucket < n % BUCKETS) for n in (whole.requests, whole.bad))
        return Tally(requests=requests, bad=bad)

    strata = [
        counters.Stratum(
            "pod", str(i), False, {"control": part(control, i), "treatment": part(treatment, i)}
        )
        for i in range(BUCKETS)
    ]
    return counters.Window({check or guardrails.answered(test).id: strata})


def watched(test: ABTest, before: Checkpoint, looks: int, seen: counters.Window) -> Checkpoint:
    ids = [one.id for one in guardrails.checks(test, before.pinned)]
    for _ in range(looks):
        before = guardrails.observe(before, seen, test, 100)
        before = gathered.with_requests(before, seen, ids, assigned=True)
    return before


def test_equal_versions_win_no_more_often_than_the_level_says() -> None:
    test = ab_test(minSamples=300, successMetrics=[{**ACCURACY, "feedback": {"kind": "Binary"}}])
    verdicts: Counter[str] = Counter()
    runs = 2000
    for seed in range(runs):
        crowd = Crowd(1000, seed)
        for _ in range(10):
            crowd.act(500)
            judged = crowd.judged(test)
            if judged.decided or judged.harmful:
                verdicts[judged.verdict] += 1
                break
    wrong = verdicts["TreatmentWins"] + verdicts["ControlWins"]
    level = test.spec.significance_level
    assert wrong / runs <= level + 2 * (level * (1 - level) / runs) ** 0.5
    assert not verdicts["SampleRatioMismatch"]


def test_a_real_effect_is_found() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(40):
        crowd = Crowd(8000, seed, effect=0.03)
        for _ in range(20):
            crowd.act(4000)
        verdicts[crowd.judged(ab_test()).verdict] += 1
    assert verdicts["TreatmentWins"] >= 36
    assert not verdicts["ControlWins"]


@pytest.mark.parametrize(
    ("goal", "means", "verdict"),
    [
        ("Increase", (0.80, 0.86), "TreatmentWins"),
        ("Increase", (0.86, 0.80), "ControlWins"),
        ("Decrease", (0.80, 0.86), "ControlWins"),
        ("Decrease", (0.86, 0.80), "TreatmentWins"),
        ("Increase", (0.80, 0.805), "Inconclusive"),
    ],
)
def test_the_goal_says_which_direction_wins(
    goal: str, means: tuple[float, float], verdict: str
) -> None:
    test = ab_test(successMetrics=[{"name": "m", "feedback": {"kind": "Binary", "goal": goal}}])
    assert judge(test, evidence(test, m=outcomes(*means))).verdict == verdict


def test_no_difference_needs_an_interval_within_the_least_effect() -> None:
    def verdict(min_effect: float | None, n: int) -> str:
        feedback = {"kind": "Binary", "minEffect": min_effect}
        test = ab_test(successMetrics=[{"name": "m", "feedback": feedback}])
        return judge(test, evidence(test, m=outcomes(0.8, 0.8, n))).verdict

    assert verdict(0.03, 50_000) == "NoDifference"
    assert verdict(0.0005, 50_000) == "Inconclusive"
    assert verdict(0.03, 1_000) == "Inconclusive"
    assert verdict(None, 50_000) == "Inconclusive"


@pytest.mark.parametrize("assignment", [{"header": "x-user-id"}, None])
def test_outcomes_that_never_vary_are_not_certain(assignment: dict[str, str] | None) -> None:
    """Each of 640 right in both arms: the shares may still differ by half a percent."""

    def verdict(control: float, min_effect: float) -> str:
        feedback = {"kind": "Binary", "minEffect": min_effect}
        metric = {"name": "m", "feedback": feedback}
        test = ab_test(successMetrics=[metric], assignment=assignment)
        return judge(test, evidence(test, m=outcomes(control, 1.0, 640))).verdict

    assert verdict(1.0, 0.005) == "Inconclusive"
    assert verdict(1.0, 0.05) == "NoDifference"
    assert verdict(0.0, 0.005) == "TreatmentWins"


def test_too_few_samples_are_no_verdict() -> None:
    test = ab_test(minSamples=20_000)
    judged = judge(test, evidence(test, accuracy=outcomes(0.5, 0.9)))
    assert judged.verdict == "Inconclusive"
    assert judged.reason == "16000 of the 20000 users that each arm needs"


def test_too_few_outcomes_are_no_verdict_either() -> None:
    test = ab_test(minSamples=1000)
    judged = judge(test, evidence(test, accuracy=outcomes(0.3, 0.9, 448)))
    assert judged.verdict == "Inconclusive"
    assert "448 of the 500 outcomes" in judged.reason


def test_several_metrics_share_the_level() -> None:
    """A p-value that suffices alone does not suffice among five."""

    def judged(metrics: int) -> tuple[str, float | None]:
        names = [f"m{i}" for i in range(metrics)]
        feedback = {"kind": "Binary"}
        test = ab_test(successMetrics=[{"name": name, "feedback": feedback} for name in names])
        found = {name: outcomes(0.8, 0.8, seed=i) for i, name in enumerate(names)}
        found["m0"] = outcomes(0.800, 0.824, seed=3)
        judgement = judge(test, evidence(test, **found))
        return judgement.verdict, judgement.metrics[0].p

    alone, among = judged(1), judged(5)
    assert alone[0] == "TreatmentWins"
    assert among[0] == "Inconclusive"
    assert alone[1] is not None
    assert among[1] is not None
    assert among[1] > 4 * alone[1]


def test_metrics_that_contradict_each_other_have_no_winner() -> None:
    feedback = {"kind": "Binary"}
    test = ab_test(successMetrics=[{"name": n, "feedback": feedback} for n in ("up", "down")])
    found = evidence(test, up=outcomes(0.5, 0.6), down=outcomes(0.6, 0.5))
    judged = judge(test, found)
    assert judged.verdict == "Inconclusive"
    assert "contradict" in judged.reason


def test_a_covariate_narrows_the_interval() -> None:
    """CUPED: what is known of a user before explains most of what differs between buckets."""
    random = np.random.default_rng(5)
    sums = np.zeros((2, BUCKETS, 4))
    habit = random.normal(0.0, 30.0, (2, BUCKETS))
    sums[:, :, 0] = 500
    sums[:, :, 1] = 500 * 5.0 + habit + random.normal(0.0, 3.0, (2, BUCKETS))
    sums[:, :, 2] = 500 * 26.0
    sums[:, :, 3] = 2.0 * habit

    def width(**spec: object) -> float:
        metric = {"name": "m", "feedback": {"kind": "Value", "range": [0, 10]}}
        test = ab_test(successMetrics=[metric], **spec)
        low, high = judge(test, evidence(test, m=packed(sums))).metrics[0].interval or [0, 0]
        return high - low

    assert width(covariate={"header": "x-user-history"}) < 0.3 * width()


def test_values_without_an_assignment_are_independent() -> None:
    metric = {"name": "m", "feedback": {"kind": "Value", "range": [-10, 10]}}
    test = ab_test(successMetrics=[metric], assignment=None, minSamples=1000)
    sums = np.zeros((2, BUCKETS, 4))
    sums[:, 0, 0] = 5000
    sums[0, 0, 1:3] = -500.0, 5000 * 4.01
    sums[1, 0, 1:3] = 500.0, 5000 * 4.01
    judged = judge(test, evidence(test, users=Users(), m=packed(sums)))
    assert judged.verdict == "TreatmentWins"
    assert judged.samples.control == 64_000, "requests, as users are not told apart"
    assert judged.sample_ratio is None
    assert judged.metrics[0].lift == pytest.approx(2.0)


def test_the_users_own_counters_are_compared() -> None:
    metric = {"name": "orders", "prometheus": {"successes": "$arm", "total": "$version"}}
    test = ab_test(successMetrics=[metric], assignment=None)
    risen = {"total": [0.0, 10_000.0], "successes": [0.0, 1_000.0]}
    queried = {
        f"orders/{arm}/{part}": rise for arm in gathered.ARMS for part, rise in risen.items()
    }
    queried["orders/treatment/successes"] = [0.0, 1_300.0]
    found = Checkpoint(
        gating_since=NOW, queried=queried, requests=evidence(test).requests, started=NOW
    )
    judged = judge(test, found)
    assert judged.verdict == "TreatmentWins"
    asked = questions(test)
    assert set(asked) == set(queried)
    assert asked["orders/treatment/successes"].values == {
        "model": "digits",
        "version": "2",
        "arm": "treatment",
        "namespace": "default",
    }


def test_lost_users_of_one_arm_are_a_mismatch_and_nothing_else_counts() -> None:
    crowd = Crowd(6000, 1, effect=0.1)
    crowd.act(40_000)
    kept = crowd.arm == 0
    kept[::4] = True
    crowd.seen &= kept
    judged = crowd.judged(ab_test())
    assert judged.verdict == "SampleRatioMismatch"
    assert judged.sample_ratio is not None
    assert judged.sample_ratio.verdict == "Mismatch"
    assert judged.sample_ratio.p < 1e-3, "shown beside it: the usual test"
    assert judged.harmful


@pytest.mark.parametrize("treated", [0.5, 0.1])
def test_users_as_asked_are_no_mismatch(treated: float) -> None:
    percent = round(100 * treated)
    for seed in range(30):
        crowd = Crowd(12_000, seed, treated=treated)
        for _ in range(8):
            crowd.act(20_000)
            judged = crowd.judged(ab_test(treatmentPercent=percent))
            assert judged.verdict != "SampleRatioMismatch"


def test_every_halving_of_the_sample_costs_a_part_of_the_level() -> None:
    test = ab_test()

    def threshold(halvings: int) -> float:
        users = Users(halvings=halvings, control=hashes(np.arange(10)))
        split = judge(test, evidence(test, users)).sample_ratio
        assert split is not None
        return split.threshold

    spent = sum(1 / threshold(halvings) for halvings in range(60))
    assert spent < 1 / 1000
    assert threshold(0) < threshold(1) < threshold(2)


def test_a_broken_guardrail_comes_before_a_win() -> None:
    test = ab_test(guardrails=[ERRORS])
    found = watched(
        test,
        evidence(test, accuracy=outcomes(0.5, 0.9)),
        20,
        window(test, Tally(requests=1000, bad=5), Tally(requests=1000, bad=30)),
    )
    judged = judge(test, found)
    assert judged.verdict == "GuardrailFailed"
    assert judged.reason.startswith("errors: ")
    row = judged.metrics[-1]
    assert (row.name, row.verdict) == ("errors", "Fail")
    assert row.evidence is not None
    assert row.threshold == 20
    assert row.evidence >= row.threshold


def test_a_guardrail_that_breaks_late_is_seen_and_told_by_what_broke_it() -> None:
    test = ab_test(guardrails=[{"name": "errors", "errorRate": {"maxExcess": 0.001}}])
    usual = Tally(requests=6400, bad=64)
    good = window(test, usual, usual)
    bad = window(test, usual, Tally(requests=6400, bad=512))
    before = watched(test, evidence(test, accuracy=outcomes(0.5, 0.5)), 100, good)
    assert judge(test, before).verdict != "GuardrailFailed"
    judged = judge(test, watched(test, before, 1, bad))
    assert judged.verdict == "GuardrailFailed"
    assert "8% errors, against control's" in judged.reason


def test_an_excess_that_is_allowed_does_no_harm_whatever_the_ratio() -> None:
    """5 times as many errors, but only 0.04% more of all requests."""

    def verdict(excess: float | None) -> str:
        bound = {"maxRatioToControl": 1.5, "maxExcess": excess}
        test = ab_test(guardrails=[{"name": "errors", "errorRate": bound}])
        seen = window(test, Tally(requests=100_000, bad=10), Tally(requests=100_000, bad=50))
        found = watched(test, evidence(test, accuracy=outcomes(0.5, 0.5)), 20, seen)
        return judge(test, found).verdict

    assert verdict(0.001) == "Inconclusive"
    assert verdict(None) == "GuardrailFailed"
    assert verdict(0.0001) == "GuardrailFailed"


def test_one_user_who_always_fails_is_no_bad_version() -> None:
    """All errors of the treatment are of one group of users."""

    def verdict(buckets: int) -> str:
        test = ab_test(guardrails=[{"name": "errors", "errorRate": {"maxRatioToControl": 1.5}}])
        steady = dict.fromkeys(gathered.ARMS, Tally(requests=1000, bad=1))
        odd = {**steady, "treatment": Tally(requests=1000, bad=1 + 256 // buckets)}
        strata = [
            counters.Stratum("pod", str(i), False, odd if i < buckets else steady)
            for i in range(BUCKETS)
        ]
        seen = counters.Window({guardrails.answered(test).id: strata})
        return judge(test, watched(test, evidence(test), 2, seen)).verdict

    assert verdict(64) == "GuardrailFailed"
    assert verdict(1) == "Inconclusive"


def test_guardrails_share_the_level() -> None:
    thresholds = []
    for count in (1, 4):
        named = [{**ERRORS, "name": f"errors-{i}"} for i in range(count)]
        test = ab_test(guardrails=named)
        row = judge(test, evidence(test)).metrics[-1]
        thresholds.append(row.threshold)
    assert thresholds == [20, 80]


def test_latency_is_held_against_control_as_it_was_before() -> None:
    test = ab_test(guardrails=[LATENCY])
    unknown = judge(test, evidence(test)).metrics[-1]
    assert unknown.verdict == "Inconclusive"
    assert "not known" in unknown.reason
    begun = Checkpoint(gating_since=NOW, started=NOW, pinned={"latency": 0.05}, users=MANY)
    slow = guardrails.checks(test, begun.pinned)[-1]
    assert slow.bounds == {"control": 0.05, "treatment": pytest.approx(0.06)}  # type: ignore[union-attr]
    same = window(test, Tally(requests=1000, bad=50), Tally(requests=1000, bad=50), slow.id)
    assert judge(test, watched(test, begun, 20, same)).metrics[-1].verdict == "Pass"
    worse = window(test, Tally(requests=1000, bad=50), Tally(requests=1000, bad=90), slow.id)
    judged = judge(test, watched(test, begun, 20, worse))
    assert judged.verdict == "GuardrailFailed"
    assert "slower than 60ms" in judged.reason


def test_what_no_guardrail_could_judge_is_no_win() -> None:
    test = ab_test(guardrails=[ERRORS, LATENCY])
    seen = window(test, Tally(requests=1000, bad=5), Tally(requests=1000, bad=5))
    judged = judge(test, watched(test, evidence(test, accuracy=outcomes(0.5, 0.9)), 5, seen))
    assert [one.verdict for one in judged.metrics] == ["TreatmentWins", "Pass", "Inconclusive"]
    assert judged.verdict == "Inconclusive"
    assert not judged.decided
    assert "but nobody can tell of harm (latency: how fast control was" in judged.reason
    lost = judge(test, watched(test, evidence(test, accuracy=outcomes(0.9, 0.5)), 5, seen))
    assert lost.verdict == "ControlWins"


def test_answers_that_are_rated_unequally_often_raise_a_warning() -> None:
    test = ab_test()
    even = judge(test, evidence(test, accuracy=outcomes(0.8, 0.8, 10_048)))
    assert "beware" not in even.metrics[0].reason
    sums = np.zeros((2, BUCKETS, 4))
    random = np.random.default_rng(3)
    for arm, rated in enumerate((150, 300)):
        sums[arm, :, 0] = random.poisson(rated, BUCKETS)
        sums[arm, :, 1] = sums[arm, :, 2] = random.binomial(sums[arm, :, 0].astype(int), 0.8)
    odd = judge(test, evidence(test, accuracy=packed(sums)))
    assert "beware: 15" in odd.metrics[0].reason
    assert odd.metrics[0].rated is not None
    assert odd.metrics[0].rated.control == pytest.approx(0.15, abs=0.01)
    assert odd.metrics[0].rated.treatment == pytest.approx(0.3, abs=0.01)


def test_the_pace_says_how_much_more_evidence_a_decision_takes() -> None:
    test = ab_test(minSamples=1000)
    near = judge(test, evidence(test, accuracy=outcomes(0.8, 0.81)))
    assert near.pace is not None
    assert near.pace > 1.0
    decided = judge(test, evidence(test, accuracy=outcomes(0.8, 0.9)))
    assert decided.pace == 1.0
    assert judge(test, evidence(test)).pace is None


def test_nothing_yet_is_said_as_nothing() -> None:
    test = ab_test(guardrails=[ERRORS, LATENCY])
    judged = judge(test, Checkpoint(gating_since=NOW))
    assert judged.verdict == "Inconclusive"
    assert [one.verdict for one in judged.metrics] == ["Inconclusive"] * 3
    assert judged.sample_ratio is None
    assert judged.pace is None
    assert (
        experiment.judge(ab_test(assignment=None), Checkpoint(gating_since=NOW)).samples.control
        == 0
    )


def test_users_of_another_test_do_not_count() -> None:
    united = gathered.united(Users(), [sample([1], [2], salt="uid-other")], "uid-test")
    assert united.seen == (0, 0)
