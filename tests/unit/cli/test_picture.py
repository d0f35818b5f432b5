"""What a person reads, line by line, at 100 columns."""

import pytest
from rich.console import Console, RenderableType
from shelf import Raw, Shelf, abtest, rollout, routing_table, version

from tidegate_cli import terminal
from tidegate_cli.cluster import MODEL_VERSION
from tidegate_cli.lookup import observe
from tidegate_cli.picture import pictures


def lines(what: RenderableType) -> list[str]:
    console = Console(width=terminal.WIDTH)
    with console.capture() as captured:
        console.print(what)
    return [line.strip() for line in captured.get().splitlines()]


def shown(shelf: Shelf, *, detailed: bool = False) -> list[str]:
    return lines(pictures(observe(shelf, None), detailed=detailed))


def replace_owner(shelf: Shelf, owner: Raw) -> None:
    shelf.put(owner)
    shelf.put(routing_table(owner))


def test_the_plan_says_what_is_done_and_where_it_stands(shelf: Shelf) -> None:
    plan = [
        {"percent": 5, "duration": "10m"},
        {"percent": 20, "duration": "10m"},
        {"percent": 50, "duration": "1h", "gate": "Manual"},
        {"percent": 100},
    ]
    running = {"plan": plan, "currentStep": 2, "totalSteps": 4, "weight": 20, "stepElapsed": 192.4}
    cases = {
        "plan  5% ✓  20% ◂  50% (gate)  100%   3m12s of 10m": {
            "phase": "Progressing",
            "clockRunningSince": "2026-12-01T09:00:00Z",
        },
        "plan  5% ✓  20% ◂  50% (gate)  100%   3m12s of 10m, standing still": {"phase": "Holding"},
        "plan  5% ✓  20% ✗  50% (gate)  100%": {"phase": "RolledBack"},
        "plan  5% ✓  20% ✓  50% ✓  100% ✓": {"phase": "Succeeded"},
    }
    for line, status in cases.items():
        replace_owner(shelf, rollout(**{**running, **status}))
        assert line in shown(shelf)


def test_figures_of_a_metric_are_shares_unless_the_query_is_the_users_own(shelf: Shelf) -> None:
    metrics = [
        {"name": "errors", "verdict": "Pass", "stable": 0.0, "canary": 0.123, "ratio": 1.5},
        {"name": "revenue", "verdict": "Pass", "dryRun": True, "canary": 0.123},
    ]
    owner = rollout(phase="Progressing", metrics=metrics)
    owner["spec"]["analysis"] = {
        "metrics": [{"name": "errors"}, {"name": "revenue", "prometheus": {}}]
    }
    replace_owner(shelf, owner)

    rows = [line.split() for line in shown(shelf)]

    assert ["METRIC", "VERDICT", "STABLE", "CANARY", "RATIO"] in rows
    assert ["errors", "Pass", "0.0%", "12.3%", "1.5"] in rows
    assert ["revenue", "(dry", "run)", "Pass", "-", "0.123", "-"] in rows


def test_a_test_shows_means_lift_and_the_interval_of_each_kind(shelf: Shelf) -> None:
    metrics = [
        {
            "name": "accuracy",
            "verdict": "TreatmentWins",
            "control": 0.91,
            "treatment": 0.916,
            "lift": 0.0066,
            "interval": [0.001, 0.013],
            "p": 0.031,
        },
        {
            "name": "rating",
            "control": 7.21,
            "treatment": 7.9,
            "lift": -0.5,
            "interval": [-0.3, 1.5],
        },
        {"name": "errors", "control": 0.001, "treatment": 0.002, "interval": [0.6, 1.9]},
    ]
    spec = {
        "successMetrics": [
            {"name": "accuracy", "feedback": {"kind": "Binary"}},
            {"name": "rating", "feedback": {"kind": "Value"}},
        ],
        "guardrails": [{"name": "errors"}],
    }
    samples = {"control": 10233, "treatment": 10301}
    replace_owner(shelf, abtest(spec=spec, phase="Running", samples=samples, metrics=metrics))

    text = shown(shelf)
    rows = [line.split() for line in text]

    assert "Running · 10,233 + 10,301 samples" in text
    head = ["METRIC", "VERDICT", "CONTROL", "TREATMENT", "LIFT", "INTERVAL", "P"]
    assert head in rows
    row = ["accuracy", "TreatmentWins", "91.0%", "91.6%", "0.66%", "0.1%", "to", "1.3%", "0.031"]
    assert row in rows
    assert ["rating", "7.21", "7.9", "-50%", "-0.3", "to", "1.5", "-"] in rows
    assert ["errors", "0.1%", "0.2%", "-", "0.6", "to", "1.9", "-"] in rows


def test_who_waits_stands_below_the_owner_and_the_past_only_in_detail(shelf: Shelf) -> None:
    shelf.put(rollout("next", created="2026-12-09", phase="Waiting", message="for digits-2"))
    shelf.put(rollout("past", created="2026-11-01", phase="Failed", message="Incompatible"))

    assert "CanaryRollout next: Waiting · for digits-2" in shown(shelf)
    assert not [line for line in shown(shelf) if "past" in line]
    assert "CanaryRollout past: Failed · Incompatible" in shown(shelf, detailed=True)


def test_without_an_owner_the_last_one_that_ended_is_shown(shelf: Shelf) -> None:
    shelf.put(rollout(phase="Succeeded", message="Version 2 has all the traffic"))
    shelf.put(routing_table(None, {("stable", 2): 100}, {2: 100}))

    text = shown(shelf)

    assert "CanaryRollout digits-2" in text
    assert "Version 2 has all the traffic" in text


def test_versions_that_git_is_behind_of_are_named_in_a_line(shelf: Shelf) -> None:
    before = len(shown(shelf))
    for number in (1, 2):
        behind = version(number)
        behind["status"]["conditions"] = [
            {"type": "SpecBehind", "status": "True", "message": "live 100%, spec 0%: a long story"}
        ]
        shelf.put(behind)

    assert "Spec behind live: 1, 2. kubectl tidegate catch-up digits" in shown(shelf)
    assert len(shown(shelf)) == before + 1


def test_versions_that_nobody_declared_are_pointed_to(shelf: Shelf) -> None:
    shelf.objects[MODEL_VERSION, "default", "digits-1"]["status"]["undeclared"] = [7, 3]

    assert "Undeclared: 3, 7. kubectl tidegate discover digits" in shown(shelf)


def test_a_model_without_table_or_versions_says_so(shelf: Shelf) -> None:
    shelf.objects.clear()
    shelf.put(rollout())

    text = shown(shelf)

    assert "No routing table: no version has the traffic yet." in text
    assert "No ModelVersion names this model." in text
    assert "CanaryRollout digits-2: not looked at yet" in text


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\r", "\x9b31m", "[bold]", "\u202e"])
def test_words_of_others_do_not_drive_the_terminal(shelf: Shelf, hostile: str) -> None:
    shelf.put(rollout(phase="Progressing", message=f"before{hostile}after"))
    raw = shelf.objects[MODEL_VERSION, "default", "digits-1"]
    raw["status"]["message"] = f"before{hostile}after"

    text = "".join(shown(shelf))

    expected = hostile if hostile == "[bold]" else "�" + hostile[1:]
    assert text.count(f"before{expected}after") == 2


def test_long_messages_stay_within_the_width(shelf: Shelf) -> None:
    raw = shelf.objects[MODEL_VERSION, "default", "digits-1"]
    raw["status"]["message"] = "cannot load: " + "x" * 300
    metric = {"name": "errors", "verdict": "Fail", "reason": "many words " * 30}
    replace_owner(shelf, rollout(phase="Progressing", message="y" * 300, metrics=[metric]))

    assert max(len(line) for line in shown(shelf)) <= terminal.WIDTH
