"""Every claim of the demo can fail: each is broken once here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tidegate_demo.ledger import Answer, Ledger, Report
from tidegate_demo.proof import Counted, Ending, Seen, checks
from tidegate_demo.train import HeldOut

HELD_OUT = HeldOut(
    images=np.zeros((10, 64), np.float32),
    labels=np.arange(10),
    predictions={
        1: np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 0]),
        2: np.arange(10),
        3: np.arange(10),
    },
)


ACCURACY = {"name": "accuracy", "control": 0.8, "treatment": 1.0, "interval": [0.1, 0.3]}
DRY_RUN = {"name": "disagreement", "verdict": "Fail", "dryRun": True}
WON = "version 2 won its test, which moved nothing"
MEASURED = "the test measured what its users know"
STAYED = "every user in it stayed on one version"
REPORTED = "every report of theirs was counted once"
DISAGREED = "copies disagreed as often as the versions do"
DECIDED_NOTHING = "that was a dry run, and decided nothing"
ARMS = ("control", "treatment")
COPIES = {"agreed": 80, "disagreed": 20, "failed": 3}
"""Of ten images the versions agree on eight."""


def history(*weights: int) -> list[dict[str, int]]:
    return [{"weight": weight} for weight in weights]


def ending(began: float, ended: float, status: Mapping[str, Any], baseline: int) -> Ending:
    return Ending({"status": status}, began, ended, {baseline: 10_000})


def story(**changes: Mapping[str, Any]) -> dict[str, Ending]:
    """The endings as they should be, but for changes by ending; ``baseline`` is the version that
    has the traffic afterwards, all else is of the status."""
    wanted: dict[str, tuple[float, float, dict[str, Any]]] = {
        "test": (
            -100,
            -40,
            {
                "baseline": 1,
                "phase": "Finished",
                "verdict": "TreatmentWins",
                "startedAt": "1969-12-31T23:58:20Z",
                "metrics": [ACCURACY],
            },
        ),
        "better": (
            10,
            20,
            {
                "phase": "Succeeded",
                "history": history(0, 10, 40, 70, 100),
                "metrics": [DRY_RUN],
            },
        ),
        "broken": (30, 40, {"phase": "RolledBack", "history": history(0, 10, 0)}),
        "other_shape": (
            50,
            60,
            {
                "phase": "Failed",
                "reason": "Incompatible",
                "message": "input image is FP32[8,8], not FP32[64]",
                "history": history(0),
            },
        ),
    }
    endings = {}
    for name, (began, ended, status) in wanted.items():
        changed = {"baseline": 2, **status, **changes.get(name, {})}
        endings[name] = ending(began, ended, changed, changed.pop("baseline"))
    return endings


def answer(sent: float, version: int, arm: str = "stable", **changes: Any) -> Answer:
    image = changes.pop("image", round(sent) % 10)
    label = int(HELD_OUT.predictions[min(version, 3)][image])
    facts: dict[str, Any] = {
        "status": 200,
        "label": label,
        "user": None,
        "pod": "127.0.0.2",
        "own": True,
    } | changes
    return Answer(sent=sent, done=sent + 0.1, image=image, arm=arm, version=version, **facts)


def traffic() -> list[Answer]:
    return [
        *(answer(time, 1, "control", user="ada") for time in range(-70, -60)),
        *(answer(time, 2, "treatment", user="alan") for time in range(-60, -50)),
        *(answer(time, 1) for time in range(10)),
        answer(12, 2, "canary", user="ada"),
        answer(15, 2, "canary", user="ada"),
        *(answer(time, 2) for time in range(21, 30)),
        answer(32, 3, "canary", status=500, label=None),
        *(answer(time, 2) for time in range(41, 70)),
    ]


def said(answers: list[Answer]) -> list[Report]:
    """What the users of the test report; during its warm-up they know nothing yet."""
    rated = [one for one in answers if one.arm in ARMS]
    return [
        Report(-90.0, "control", correct=False),
        *(Report(one.done, one.arm, one.label == one.image) for one in rated),
    ]


def failed_claims(
    answers: list[Answer],
    endings: dict[str, Ending],
    *,
    extra: int = 0,
    reports: list[Report] | None = None,
    counted_reports: int | None = None,
    copies: Mapping[str, int] = COPIES,
) -> list[str]:
    """The claims that do not hold. ``extra``: requests that only the sidecars know of."""
    ledger = Ledger(HELD_OUT)
    for one in answers:
        ledger.open()
        ledger.close(one)
    for report in said(traffic()) if reports is None else reports:
        ledger.reported(report)
    requests = ledger.answers_by_arm()
    requests["stable"] += extra
    counted = len(ledger.reports) if counted_reports is None else counted_reports
    seen = Seen(counted=Counted(requests, counted, copies), finished=100, **endings)
    return [check.claim for check in checks(seen, ledger, HELD_OUT) if not check.held]


def test_all_claims_hold_of_the_story_as_it_should_be() -> None:
    assert failed_claims(traffic(), story()) == []


@pytest.mark.parametrize(
    ("endings", "claim"),
    [
        (story(test={"phase": "Stopped"}), WON),
        (story(test={"verdict": "Inconclusive"}), WON),
        (story(test={"baseline": 2}), WON),
        (story(test={"metrics": [{**ACCURACY, "interval": [-0.1, 0.3]}]}), WON),
        (story(test={"metrics": [{**ACCURACY, "treatment": 0.9}]}), MEASURED),
        (story(test={"metrics": [{**ACCURACY, "control": None}], "startedAt": None}), MEASURED),
        (story(better={"metrics": [{**DRY_RUN, "verdict": "Pass"}]}), DECIDED_NOTHING),
        (story(better={"metrics": [{**DRY_RUN, "dryRun": False}]}), DECIDED_NOTHING),
        (story(better={"baseline": 1}), "version 2 was promoted"),
        (
            story(better={"history": history(0, 10, 70, 100)}),
            "its share grew step by step, as planned",
        ),
        (story(broken={"phase": "Succeeded"}), "version 3 was rolled back"),
        (story(broken={"baseline": 3}), "version 3 was rolled back"),
        (story(other_shape={"phase": "Succeeded"}), "version 4 was refused before any weight"),
        (story(other_shape={"reason": "Loading"}), "version 4 was refused before any weight"),
        (story(other_shape={"message": "no"}), "version 4 was refused before any weight"),
        (
            story(other_shape={"history": history(0, 10, 0)}),
            "version 4 was refused before any weight",
        ),
    ],
)
def test_a_cluster_that_says_otherwise_breaks_the_claim(
    endings: dict[str, Ending], claim: str
) -> None:
    assert failed_claims(traffic(), endings) == [claim]


@pytest.mark.parametrize(
    ("one", "claim"),
    [
        (answer(-30, 2), WON),
        (answer(-55, 1, "control", user="alan"), STAYED),
        (answer(25, 1), "version 2 was promoted"),
        (answer(18, 1, user="ada"), "no sticky user was sent back while it grew"),
        (answer(45, 3, "canary"), "version 3 was rolled back"),
        (answer(55, 4, image=5), "version 4 was refused before any weight"),
        (answer(5, 1, status=500, label=None), "the stable arm never failed"),
        (answer(5, 1, image=4, label=6), "each answer is what its version says"),
        (answer(5, 1, own=False), "every request was answered exactly once"),
        (answer(5, 1, "none", status=0, label=None), "every request was answered exactly once"),
    ],
)
def test_an_answer_that_should_not_be_breaks_the_claim(one: Answer, claim: str) -> None:
    assert claim in failed_claims(sorted([*traffic(), one], key=lambda each: each.done), story())


def test_a_rollout_that_fails_breaks_what_rests_on_its_end() -> None:
    failed = failed_claims(traffic(), story(better={"phase": "RolledBack"}))

    assert failed == ["version 2 was promoted", DECIDED_NOTHING]


def test_a_test_without_users_on_both_arms_proves_nothing_of_them() -> None:
    without = [one for one in traffic() if one.arm != "treatment"]

    assert STAYED in failed_claims(without, story())


@pytest.mark.parametrize(
    ("reports", "claims"),
    [
        ([Report(-60.0, "control", correct=True)], [MEASURED]),
        ([Report(-60.0, arm, correct=True) for arm in ARMS for _ in range(90)], [MEASURED]),
        ([], [MEASURED, REPORTED]),
    ],
)
def test_users_who_know_otherwise_than_the_test_are_noticed(
    reports: list[Report], claims: list[str]
) -> None:
    assert failed_claims(traffic(), story(), reports=reports) == claims


def test_a_report_that_was_counted_twice_is_noticed() -> None:
    once = len(said(traffic()))

    assert failed_claims(traffic(), story(), counted_reports=once + 1) == [REPORTED]


@pytest.mark.parametrize("copies", [{}, {"agreed": 100}, {"agreed": 500, "disagreed": 500}])
def test_copies_that_disagree_otherwise_than_the_models_are_noticed(
    copies: Mapping[str, int],
) -> None:
    assert failed_claims(traffic(), story(), copies=copies) == [DISAGREED]


def test_requests_that_the_sidecars_counted_twice_are_noticed() -> None:
    assert failed_claims(traffic(), story(), extra=1) == ["every request was answered exactly once"]


def test_a_model_that_reads_worse_than_it_was_trained_to_is_noticed() -> None:
    misread = [answer(time, 2, image=1, label=7) for time in range(70, 80)]

    assert "version 2 is as accurate as trained" in failed_claims(traffic() + misread, story())
