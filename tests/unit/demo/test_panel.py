"""The live view: all that a status says of the evidence, within the width of a terminal."""

import io
from typing import Any

from rich.console import Console

from tidegate_demo.ledger import ArmFigures
from tidegate_demo.panel import BAR, Snapshot, in_a_line, whole

WIDTH = 100
GATHERING = {
    "stable": 0.0512,
    "canary": 0.1234,
    "ratio": 0.2214,
    "interval": [0.0134, 12.34],
    "evidence": 1.9e9,
    "threshold": 500.0,
}
ROLLOUT = {
    "kind": "CanaryRollout",
    "status": {
        "phase": "Progressing",
        "plan": [{"percent": percent} for percent in (10, 40, 70, 100)],
        "currentStep": 2,
        "totalSteps": 4,
        "weight": 40,
        "verdict": "Inconclusive",
        "message": "At 40% (step 2/4): gathering evidence",
        "metrics": [
            {"name": "latency", "verdict": "Inconclusive", **GATHERING},
            {"name": "disagreement", "verdict": "Inconclusive", "dryRun": True, **GATHERING},
        ],
    },
}
TEST = {
    "kind": "ABTest",
    "status": {
        "phase": "Running",
        "weight": 50,
        "verdict": "Running",
        "message": "Running: no verdict so far",
        "metrics": [
            {
                "name": "accuracy",
                "verdict": "TreatmentWins",
                "control": 0.8466,
                "treatment": 0.9874,
                "lift": 0.1663,
                "interval": [0.0792, 0.2031],
                "p": 1.4e-9,
            },
            {"name": "errors", "verdict": "Pass", "control": 0.0, "treatment": 0.0},
        ],
    },
}
FIGURES = ArmFigures(rate=112.2, failed=10, p95=1.2345, version=2, reports=12345, correct=0.9874)


def shown(brought: dict[str, Any], *arms: str) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    snapshot = Snapshot(59.6, brought, dict.fromkeys(arms, FIGURES), 12_345)
    console.print(whole(snapshot))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, name: str) -> str:
    (found,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    return " ".join(found.split())


def test_a_rollouts_metrics_are_rows_with_ratio_interval_and_evidence() -> None:
    text = shown(ROLLOUT, "stable", "canary")

    assert row(text, "latency") == (
        "latency Inconclusive 5.1% 12.3% 0.22 0.013 to 12 1.9e+09 of 500"
    )
    assert row(text, "disagreement").endswith("of 500 dry run")
    assert "gathering evidence" in text


def test_a_tests_metrics_are_rows_with_lift_interval_and_p() -> None:
    text = shown(TEST, "control", "treatment", "unassigned")

    assert row(text, "accuracy") == (
        "accuracy TreatmentWins 84.7% 98.7% +16.6% +7.9 to +20.3 points 1.4e-09"
    )
    assert row(text, "treatment").endswith("10 failed 98.7% right of 12,345 reported")


def test_nothing_is_cut_off_or_wrapped_at_the_width_of_a_terminal() -> None:
    for text in (
        shown(ROLLOUT, "stable", "canary"),
        shown(TEST, "stable", "control", "treatment", "unassigned"),
    ):
        lines = [line.rstrip() for line in text.splitlines()]
        assert max(map(len, lines)) < WIDTH
        assert "…" not in text


def test_the_whole_bar_is_shared_out_whatever_is_rounded() -> None:
    text = shown(TEST, "stable", "control", "treatment", "unassigned", "direct")

    assert text.count("█") == BAR


def test_a_line_names_each_arm_and_what_failed() -> None:
    snapshot = Snapshot(59.6, ROLLOUT, {"canary": FIGURES, "stable": FIGURES}, 12_345)

    assert in_a_line(snapshot) == (
        "    60s  Progressing step 2/4 weight 40%"
        "  stable 112/s 1234 ms 10 failed  canary 112/s 1234 ms 10 failed"
    )
