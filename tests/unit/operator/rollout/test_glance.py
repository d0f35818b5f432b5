"""The short look: it says what the whole decision would, or nothing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from canaries import analysis
from simulation import Behaviour, Simulation, failing, healthy, two_versions

from tidegate_operator import reconciler
from tidegate_operator.api.canaryrollout import MetricStatus
from tidegate_operator.rollout.glance import glance
from tidegate_operator.rollout.model import AnyState, decide
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.state import Stepping


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every short look beside the whole one; whether it was enough."""
    enough: list[bool] = []

    def both(seen: Observation, remembered: Mapping[str, AnyState], *, detailed: bool) -> Any:
        found = glance(seen, remembered, detailed=detailed)
        enough.append(found is not None)
        if found is not None:
            plan = decide(seen, remembered)
            assert decided(plan.states) == decided(found)
            assert plan.table is None
            assert not plan.settling
            assert not plan.removals
            assert not any(write.urgent for write in plan.statuses)
        return found

    monkeypatch.setattr(reconciler, "glance", both)
    return enough


def decided(states: Mapping[str, AnyState]) -> list[AnyState]:
    """Without what is only shown."""
    return [
        replace(one, run=replace(one.run, metrics=plain(one.run.metrics)))
        if isinstance(one, Stepping)
        else one
        for one in states.values()
    ]


def plain(metrics: tuple[MetricStatus, ...]) -> tuple[MetricStatus, ...]:
    return tuple(msgspec.structs.replace(one, ratio=None, interval=None) for one in metrics)


def rolled(behaviour: Behaviour, **settings: Any) -> Simulation:
    world = two_versions(behaviour=behaviour, **settings)
    world.rollout(
        analysis=analysis(interval="10s"), initialPercent=20, stepPercent=40, stepDuration="3m"
    )
    return world


@pytest.mark.parametrize(
    ("behaviour", "end"),
    [
        (healthy, "Succeeded"),
        (failing(2, 0.5, since=1_000_200), "RolledBack"),
        (failing(2, 0.012), "Holding"),
    ],
)
def test_it_is_the_whole_decision(compared: list[bool], behaviour: Behaviour, end: str) -> None:
    rolled(behaviour).run_to(end)
    assert sum(compared) > len(compared) / 2, "most looks are short"


def test_what_somebody_does_is_decided_as_a_whole(compared: list[bool]) -> None:
    world = rolled(healthy)
    world.run_to("Progressing")
    world.run(40)
    world.prometheus_up = False
    world.run_to("Holding", within=30)
    world.prometheus_up = True
    world.run_to("Progressing", within=30)
    world.version(1, lifecycle="Active", trafficPercent=100, metadata={"a": "b"})
    world.remove_pod("triton-1")
    world.run(60)
    world.delete("CanaryRollout", "rollout")
    world.run(5)
    assert world.weight == 0
    assert any(compared)


def test_versions_that_ended_are_unloaded_while_another_rollout_runs() -> None:
    """Time alone moves that; it must not wait for the rollout's next change."""
    world = two_versions(behaviour=failing(2, 0.9))
    world.version(3)
    world.rollout(initialPercent=50, unloadDelay="10m")
    world.run_to("RolledBack")
    world.behaviour = healthy
    world.rollout("next", canary=3, steps=[{"percent": 10, "duration": "2h"}, {"percent": 100}])
    world.run_to("Progressing", name="next")
    world.run(900)
    assert world.status("digits-2", "ModelVersion")["phase"] == "Unloaded"
