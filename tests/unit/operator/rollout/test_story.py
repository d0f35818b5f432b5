"""What people and tools read: history, conditions, display, events, messages."""

import re

import pytest
from canaries import analysis, started, stepping, steps, where
from simulation import Simulation, failing, two_versions

from tidegate_operator.api.canaryrollout import HISTORY_LENGTH, Checkpoint, Status
from tidegate_operator.api.meta import convert, wire
from tidegate_operator.rollout import state as states
from tidegate_operator.rollout import story
from tidegate_operator.rollout.state import decode, phase_of, weight_of

WORDS = ("Ready", "Reconciling", "Stalled", "Progressing", "Paused", "Promoted")
CONDITIONS = {
    "Waiting": "FTFFFU",
    "Gating": "FTFTFU",
    "WaitingPromotion": "FTFFTU",
    "Progressing": "FTFTFU",
    "Holding": "FTFFTU",
    "Succeeded": "TFFFFT",
    "RolledBack": "FFTFFF",
    "Failed": "FFTFFF",
}


def conditions(world: Simulation) -> str:
    found = {one["type"]: one["status"][0] for one in world.status()["conditions"]}
    assert tuple(found) == WORDS
    return "".join(found.values())


@pytest.mark.parametrize("phase", CONDITIONS)
def test_conditions_are_what_kstatus_reads(phase: str) -> None:
    world = two_versions()
    gates = (60,) if phase == "WaitingPromotion" else ()
    world.rollout(
        canary=9 if phase == "Failed" else 2,
        suspend=phase == "Waiting",
        analysis=analysis(),
        **steps(20, 60, 100, gates=gates),
    )
    world.run(1)
    if phase == "Failed":
        world.say("abort", "x")
    if phase == "Gating":
        world.before = None
    if phase == "RolledBack":
        world.behaviour = failing(2, 0.9)
    if phase == "Holding":
        world.run_to("Progressing")
        world.prometheus_up = False
    world.run_to(phase)
    assert conditions(world) == CONDITIONS[phase]
    status = world.status()
    assert {one["observedGeneration"] for one in status["conditions"]} == {1}
    assert status["observedGeneration"] == 1
    assert {one["reason"] for one in status["conditions"]} == {status["reason"]}


def test_a_transition_time_is_that_of_the_last_change() -> None:
    world = stepping()
    before = world.condition("CanaryRollout", "rollout", "Paused")["lastTransitionTime"]
    world.run(60, lambda w: w.weight == 60)
    assert world.condition("CanaryRollout", "rollout", "Paused")["lastTransitionTime"] == before
    world.edit(suspend=True)
    world.run(1)
    assert world.condition("CanaryRollout", "rollout", "Paused")["lastTransitionTime"] > before


def test_history_is_every_change_of_phase_or_weight() -> None:
    world = started()
    status = world.run_to("Succeeded")
    assert [(one["from"], one["to"], one["weight"]) for one in status["history"]] == [
        ("New", "Gating", 0),
        ("Gating", "Progressing", 20),
        ("Progressing", "Progressing", 60),
        ("Progressing", "Promoting", 100),
        ("Promoting", "Succeeded", 100),
    ]
    times = [one["time"] for one in status["history"]]
    assert times == sorted(times)


def test_history_keeps_its_last_fifty() -> None:
    world = stepping(**steps(20, 100, duration="30m"))
    for _ in range(HISTORY_LENGTH):
        world.edit(suspend=True)
        world.run(1)
        world.edit(suspend=False)
        world.run(1)
    history = world.status()["history"]
    assert len(history) == HISTORY_LENGTH
    assert (history[-2]["reason"], history[-1]["to"]) == ("Suspended", "Progressing")


def test_display_is_what_the_columns_show() -> None:
    world = started()
    world.run_to("Gating")
    assert world.status()["display"] == {
        "step": "0/3",
        "weight": "0%",
        "acked": "",
        "requests": "0+0",
        "message": world.status()["message"],
    }
    world.run_to("Progressing")
    world.run(11)
    shown = world.status()["display"]
    assert (shown["step"], shown["weight"], shown["acked"]) == ("1/3", "20%", "2/2")
    assert shown["message"] == "Gathering evidence; the next step comes after 20s in all"
    world.edit(suspend=True)
    world.run(1)
    shown = world.status()["display"]
    assert shown["message"] == "Suspended by spec.suspend; resumes when it is false"
    world.edit(suspend=False)
    world.run(10)
    stable, canary = map(int, world.status()["display"]["requests"].split("+"))
    assert stable == pytest.approx(4 * canary, rel=0.1)
    world.run_to("Succeeded")
    assert world.status()["display"]["step"] == "3/3"
    world = started()
    world.behaviour = failing(2, 0.9)
    world.run_to("RolledBack")
    shown = world.status()["display"]
    assert (shown["step"], shown["weight"]) == ("1/3", "0%")


def test_events_are_told_once_and_in_order() -> None:
    world = started(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")
    world.run(300)
    world.say("promote", "step")
    world.run_to("Succeeded")
    world.run(300)
    assert world.reasons() == [
        "VersionLoaded",
        "TrafficWeightUpdated",
        "RolloutPaused",
        "StepCompleted",
        "TrafficWeightUpdated",
        "StepCompleted",
        "TrafficWeightUpdated",
        "Promoted",
    ]
    told = [one.message for one in world.events if one.reason == "TrafficWeightUpdated"]
    assert told == [
        "The canary's share goes from 0% to 20%",
        "The canary's share goes from 20% to 60%",
        "The canary's share goes from 60% to 100%",
    ]


def test_a_version_that_cannot_be_loaded_any_more_is_told_once() -> None:
    world = two_versions()
    world.load_error[3] = "no such file"
    world.version(3)
    world.rollout(canary=3, gatingDeadline="1m")
    world.run(40)
    assert world.reasons() == ["VersionLoadFailed"]
    world.run_to("Failed")
    assert world.reasons() == ["VersionLoadFailed", "VersionLoadFailed"]


def test_nothing_is_told_of_what_stays_as_it_is() -> None:
    world = stepping(**steps(20, 100, duration="1h"))
    world.run(60)
    told, writes = list(world.events), len(world.writes)
    world.run(600)
    assert world.events == told
    assert len(world.writes) - writes <= 11, "progress once a minute"


def test_every_message_is_one_sentence_that_starts_large_and_ends_open() -> None:
    """What, why, what next: joined by colons and semicolons, so that it fits a column."""
    world = stepping()
    world.prometheus_up = False
    world.run_to("Holding")
    assert world.status()["message"] == (
        "Holding at 20% (step 1/3): Prometheus cannot be read (connection refused); resumes when "
        "it answers"
    )
    world.prometheus_up = True
    world.behaviour = failing(2, 1.0)
    message = world.run_to("RolledBack")["message"]
    assert re.fullmatch(
        r"Rolled back to version 1 from 20%: errors: \d+ of \d+ canary requests failed \(\d+%\), "
        "5% allowed; mend the canary, then retry this rollout or apply another",
        re.sub(r"\(\d+\.\d+%", "(9%", message),
    )
    assert world.status()["display"]["message"] == f"E{message.partition(': e')[2]}"


def test_missing_evidence_that_rolls_back_promises_no_return() -> None:
    world = stepping(analysis=analysis(onError="Rollback"))
    world.prometheus_up = False
    assert world.run_to("RolledBack")["message"] == (
        "Rolled back to version 1 from 20%: Prometheus cannot be read (connection refused); retry "
        "this rollout or apply another"
    )
    assert where(world) == ("RolledBack", "Error")


RUN = states.Run(stable=1, plan=(), evidence=Checkpoint(gating_since=1.0))


def test_a_way_back_names_the_pods_that_have_not_gone_it() -> None:
    world = stepping()
    world.by_name["triton-1"].silent = True
    world.behaviour = failing(2, 0.9)
    message = world.run_to("RollingBack", within=30)["message"]
    world.run(120)
    assert world.status()["phase"] == "RollingBack"
    assert world.status()["message"] == f"{message}; waiting for triton-1 to apply it"
    world.kill()
    world.run(5)
    assert world.status()["message"] == f"{message}; waiting for triton-1 to apply it"
    world.by_name["triton-1"].silent = False
    assert world.run_to("RolledBack", within=30)["message"] == message


@pytest.mark.parametrize(
    ("phase", "reason", "step", "kind", "weight"),
    [
        ("", "", -1, states.Pending, 0),
        ("Pending", "NoBaseline", -1, states.Pending, 0),
        ("Waiting", "Suspended", -1, states.Waiting, 0),
        ("Gating", "Loading", -1, states.Gating, 0),
        ("WaitingPromotion", "AwaitingPromotion", -1, states.Gating, 0),
        ("Holding", "DeadlineExceeded", -1, states.Gating, 0),
        ("WaitingPromotion", "AwaitingPromotion", 0, states.Stepping, 20),
        ("Progressing", "Analysing", 0, states.Stepping, 20),
        ("Holding", "NoData", 0, states.Stepping, 20),
        ("Promoting", "AnalysisPassed", 0, states.Promoting, 100),
        ("RollingBack", "AnalysisFailed", 0, states.RollingBack, 0),
        ("Succeeded", "Promoted", 0, states.Finished, 100),
        ("Succeeded", "ShadowOnly", 0, states.Finished, 0),
        ("RolledBack", "Aborted", 0, states.Finished, 0),
        ("Failed", "Incompatible", -1, states.Finished, 0),
    ],
)
def test_a_state_is_rebuilt_from_its_status(
    phase: str, reason: str, step: int, kind: type, weight: int
) -> None:
    status = convert(
        {
            "phase": phase,
            "reason": reason,
            "stableVersion": 1,
            "plan": [{"percent": 20, "duration": "1m"}, {"percent": 100}],
            "checkpoint": wire(Checkpoint(gating_since=1.0, step=step)),
        },
        Status,
    )
    state = decode(status)
    assert isinstance(state, kind)
    assert (state.reason, weight_of(state)) == (reason, weight)
    assert phase_of(state) == (phase or "Pending")


@pytest.mark.parametrize("phase", ["Gating", "Progressing", "Holding", "RollingBack", "Promoting"])
def test_a_status_that_lost_its_checkpoint_begins_again(phase: str) -> None:
    assert isinstance(decode(convert({"phase": phase, "stableVersion": 1}, Status)), states.Pending)


@pytest.mark.parametrize(
    ("before", "after", "passing"),
    [
        (("Gating", "Loading", 0), ("Gating", "NoData", 0), True),
        (("Progressing", "Analysing", 10), ("Holding", "NoData", 10), True),
        (("Holding", "Error", 10), ("Progressing", "Analysing", 10), True),
        (("Gating", "NoData", 0), ("Progressing", "AwaitingAcknowledgement", 10), False),
        (("Progressing", "AwaitingAcknowledgement", 10), ("Progressing", "Analysing", 10), False),
        (("Progressing", "Analysing", 10), ("Progressing", "Analysing", 20), False),
        (("Holding", "NoData", 10), ("Holding", "Suspended", 10), False),
        (("Holding", "NoData", 10), ("RollingBack", "NoData", 10), False),
        (("Gating", "Loading", 0), ("Gating", "VersionLoadFailed", 0), False),
    ],
)
def test_what_may_wait_is_what_is_soon_something_else(
    before: tuple[str, str, int], after: tuple[str, str, int], passing: bool
) -> None:
    names = ("phase", "reason", "weight")
    old, new = (dict(zip(names, one, strict=True)) for one in (before, after))
    assert story.passing(old, new) is passing
    assert not story.passing(old, {**new, "lastVerb": "abort"})
