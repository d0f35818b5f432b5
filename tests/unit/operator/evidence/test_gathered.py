import numpy as np
from experiments import BUCKETS, NOW, sample

from tidegate_operator.api.abtest import Checkpoint, Users
from tidegate_operator.evidence import gathered
from tidegate_operator.evidence.counters import Outcomes, Stratum, Sums, Window
from tidegate_operator.evidence.queries import NoValue, Value
from tidegate_operator.evidence.tally import Tally

EMPTY = Checkpoint(gating_since=NOW)


def united(*samples: object, known: Users | None = None) -> Users:
    return gathered.united(known or Users(), samples, "uid-test")  # type: ignore[arg-type]


def test_a_user_of_several_pods_counts_once() -> None:
    users = united(sample([1, 2, 3], [7]), sample([3, 4], [7, 8]))
    assert users.seen == (4, 2)


def test_users_that_were_known_stay_known_when_their_pod_goes() -> None:
    users = united(sample([3], []), known=united(sample([1, 2], [7])))
    assert users.seen == (3, 1)
    assert united(known=users) == users


def test_samples_are_cut_to_the_smallest_limit() -> None:
    above = 2**63 + 5
    users = united(sample([1, above], [2]), sample([3], [4], limit=2**62))
    assert users.halvings == 2
    assert users.sampled == (2, 2)
    assert users.seen == (8, 8)


def test_many_users_are_estimated_from_as_many_as_a_status_can_hold() -> None:
    marks = np.random.default_rng(1).integers(0, 2**63, 60_000).astype(np.uint64) * np.uint64(2)
    users = united(sample(marks[:20_000], marks[20_000:]))
    assert sum(users.sampled) <= 4096
    control, treatment = users.seen
    assert abs(control / 20_000 - 1) < 0.1
    assert abs(treatment / 40_000 - 1) < 0.1
    assert united(sample(marks[:20_000], marks[20_000:]), known=users) == users


def test_requests_add_up_by_arm_and_bucket() -> None:
    tallies = {"control": Tally(requests=10, bad=1), "treatment": Tally(requests=7)}
    strangers = {"stable": Tally(requests=100, bad=100)}
    strata = [Stratum("a", "5", False, tallies), Stratum("b", "5", True, tallies | strangers)]
    seen = Window({"check": strata, "other": strata})
    evidence = gathered.with_requests(EMPTY, seen, ["check"], assigned=True)
    evidence = gathered.with_requests(evidence, seen, ["check"], assigned=True)
    sums = gathered.requests(evidence, "check")
    assert sums[:, 5].tolist() == [[40, 4], [28, 0]]
    assert sums.sum() == 72
    assert list(evidence.requests) == ["check"]


def test_without_an_assignment_priorities_are_no_buckets() -> None:
    seen = Window({"check": [Stratum("a", "3", False, {"control": Tally(requests=10)})]})
    evidence = gathered.with_requests(EMPTY, seen, ["check"], assigned=False)
    assert gathered.requests(evidence, "check")[0, 0].tolist() == [10, 0]


def test_outcomes_add_up_by_metric_arm_and_bucket() -> None:
    sums = Sums(count=4, pos=6, neg=2, squares=20, covariate_pos=1, covariate_neg=3)
    found = Outcomes(
        {
            ("m", "treatment", "63"): sums,
            ("m", "direct", "1"): sums,
            ("other", "control", "1"): sums,
        }
    )
    evidence = gathered.with_outcomes(EMPTY, found, ["m"], assigned=True)
    evidence = gathered.with_outcomes(evidence, found, ["m"], assigned=True)
    kept = gathered.outcomes(evidence, "m")
    assert kept[1, BUCKETS - 1].tolist() == [8, 8, 40, -4]
    assert kept.sum() == 52
    assert list(evidence.outcomes) == ["m"]


def test_the_users_own_counters_count_from_where_they_were_at_the_start() -> None:
    evidence = gathered.with_answers(EMPTY, {"q": Value(NOW, 100.0)}, counting=True)
    evidence = gathered.with_answers(evidence, {"q": Value(NOW, 130.0)}, counting=True)
    evidence = gathered.with_answers(evidence, {"q": NoValue(NOW, "gives nothing")}, counting=True)
    assert evidence.queried == {"q": [130.0, 30.0]}
    gone = gathered.with_answers(evidence, {"q": Value(NOW, 70.0)}, counting=True)
    assert gone.queried == {"q": [70.0, 30.0]}, "a pod that went is no restart from zero"
    suspended = gathered.with_answers(evidence, {"q": Value(NOW, 170.0)}, counting=False)
    assert suspended.queried == {"q": [170.0, 30.0]}
