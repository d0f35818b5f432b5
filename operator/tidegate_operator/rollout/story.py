"""A rollout's status as people and tools read it, written from its state."""

from typing import Any, Final

from tidegate_operator.api.canaryrollout import (
    FINISHED,
    HISTORY_LENGTH,
    CanaryRollout,
    HistoryEntry,
    Status,
    StepRequests,
)
from tidegate_operator.api.meta import Condition, condition
from tidegate_operator.api.quantity import timestamp
from tidegate_operator.evidence.verdict import step_requests
from tidegate_operator.rollout.canary import compiled_metrics
from tidegate_operator.rollout.state import (
    Finished,
    Pending,
    Run,
    State,
    Stepping,
    Waiting,
    phase_of,
    weight_of,
)

_PROGRESS: Final = ("checkpoint", "stepElapsed", "stepRequests", "metrics", "display")
"""Fields that move at every look: they alone are no reason to write a status."""


def tell(rollout: CanaryRollout, state: State, now: float) -> Status:
    """The whole status of a rollout in this state."""
    before = rollout.status
    run = None if isinstance(state, Pending | Waiting) else state.run
    phase, weight = phase_of(state), weight_of(state)
    requests = StepRequests()
    if run is not None:
        counted = step_requests(compiled_metrics(rollout), run.evidence.watched)
        requests = StepRequests(stable=counted["stable"], canary=counted["canary"])
    clock_since = state.clock_since if isinstance(state, Stepping) else None
    return Status(
        phase=phase,
        reason=state.reason,
        message=state.message,
        plan=list(run.plan) if run else [],
        current_step=run.evidence.step + 1 if run else 0,
        total_steps=len(run.plan) if run else 0,
        weight=weight,
        stable_version=run.stable if run else rollout.spec.stable_version,
        verdict=run.verdict if run else "",
        revision=run.revision if run else before.revision,
        step_elapsed=round(run.evidence.elapsed, 3) if run else 0.0,
        clock_running_since=timestamp(clock_since) if clock_since is not None else None,
        step_requests=requests,
        metrics=list(run.metrics) if run else [],
        history=_history(before, phase, weight, state.reason, now),
        display=_display(run, state, requests, weight),
        conditions=_conditions(rollout, state, now),
        observed_generation=rollout.metadata.generation,
        checkpoint=run.evidence if run else None,
    )


def meaning(status: dict[str, Any]) -> dict[str, Any]:
    """The part of a written status whose change is worth a write at once."""
    return {key: value for key, value in status.items() if key not in _PROGRESS}


def _history(
    before: Status, phase: str, weight: int, reason: str, now: float
) -> list[HistoryEntry]:
    if (before.phase, before.weight) == (phase, weight):
        return before.history
    entry = HistoryEntry(
        time=timestamp(now), from_=before.phase or "New", to=phase, weight=weight, reason=reason
    )
    return [*before.history, entry][-HISTORY_LENGTH:]


def _display(run: Run | None, state: State, requests: StepRequests, weight: int) -> dict[str, str]:
    steps = ""
    if run is not None and run.plan:
        finished = isinstance(state, Finished) and state.phase == "Succeeded"
        done = len(run.plan) if finished else run.evidence.step + 1
        steps = f"{done}/{len(run.plan)}"
    acked = ""
    if run is not None and run.revision.wanted:
        acked = f"{run.revision.acknowledged_pods}/{run.revision.total_pods}"
    shown = f"{requests.stable}+{requests.canary}" if run is not None else ""
    return {"step": steps, "weight": f"{weight}%", "acked": acked, "requests": shown}


def _conditions(rollout: CanaryRollout, state: State, now: float) -> list[Condition]:
    phase = phase_of(state)
    over = phase in FINISHED
    good = phase == "Succeeded"
    held = isinstance(state, Stepping) and state.hold is not None
    words: dict[str, bool | None] = {
        "Ready": good,
        "Reconciling": not over,
        "Stalled": over and not good,
        "Progressing": not over and not held and not isinstance(state, Pending | Waiting),
        "Paused": held,
        "Promoted": good if over else None,
    }
    return [
        condition(
            rollout.status.conditions,
            type_,
            word,
            state.reason,
            state.message,
            now=now,
            generation=rollout.metadata.generation,
        )
        for type_, word in words.items()
    ]
