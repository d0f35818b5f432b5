"""Every claim of the demo can fail: each is broken once here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tidegate_demo.ledger import Answer, Ledger
from tidegate_demo.proof import Ending, Seen, checks
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


def history(*weights: int) -> list[dict[str, int]]:
    return [{"weight": weight} for weight in weights]


def ending(began: float, status: Mapping[str, Any], baseline: int) -> Ending:
    return Ending({"status": status}, began, began + 10, {baseline: 10_000})


def story(**changes: Mapping[str, Any]) -> dict[str, Ending]:
    """The three endings as they should be, but for changes by ending; ``baseline`` is the
    version that has the traffic afterwards, all else is of the rollout's status."""
    wanted: dict[str, tuple[float, dict[str, Any]]] = {
        "better": (10, {"phase": "Succeeded", "history": history(0, 10, 40, 70, 100)}),
        "broken": (30, {"phase": "RolledBack", "history": history(0, 10, 0)}),
        "other_shape": (
            50,
            {
                "phase": "Failed",
                "reason": "Incompatible",
                "message": "input image is FP32[8,8], not FP32[64]",
                "history": history(0),
            },
        ),
    }
    endings = {}
    for name, (began, status) in wanted.items():
        changed = {"baseline": 2, **status, **changes.get(name, {})}
        endings[name] = ending(began, changed, changed.pop("baseline"))
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
        *(answer(time, 1) for time in range(10)),
        answer(12, 2, "canary", user="ada"),
        answer(15, 2, "canary", user="ada"),
        *(answer(time, 2) for time in range(21, 30)),
        answer(32, 3, "canary", status=500, label=None),
        *(answer(time, 2) for time in range(41, 70)),
    ]


def failed_claims(answers: list[Answer], endings: dict[str, Ending], extra: int = 0) -> list[str]:
    ledger = Ledger(HELD_OUT)
    for one in answers:
        ledger.open()
        ledger.close(one)
    counted = ledger.answers_by_arm()
    counted["stable"] += extra
    seen = Seen(counted=counted, finished=100, **endings)
    return [check.claim for check in checks(seen, ledger, HELD_OUT) if not check.held]


def test_all_claims_hold_of_the_story_as_it_should_be() -> None:
    assert failed_claims(traffic(), story()) == []


@pytest.mark.parametrize(
    ("endings", "claim"),
    [
        (story(better={"phase": "RolledBack"}), "version 2 was promoted"),
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


def test_requests_that_the_sidecars_counted_twice_are_noticed() -> None:
    assert failed_claims(traffic(), story(), extra=1) == ["every request was answered exactly once"]


def test_a_model_that_reads_worse_than_it_was_trained_to_is_noticed() -> None:
    misread = [answer(time, 2, image=1, label=7) for time in range(70, 80)]

    assert "version 2 is as accurate as trained" in failed_claims(traffic() + misread, story())
