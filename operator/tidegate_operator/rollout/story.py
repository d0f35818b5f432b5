"""A rollout's status as people and tools read it, written from its state."""

from dataclasses import replace
from typing import Any, Final

from tidegate_contract.names import ARM_CANARY, ARM_SHADOW, ARM_STABLE
from tidegate_operator.api.canaryrollout import (
    FINISHED,
    HISTORY_LENGTH,
    CanaryRollout,
    Finish,
    HistoryEntry,
    Status,
    StepRequests,
)
from tidegate_operator.api.meta import Condition, condition
from tidegate_operator.api.quantity import timestamp
from tidegate_operator.evidence.checks import counted
from tidegate_operator.evidence.verdict import step_requests
from tidegate_operator.rollout import pods
from tidegate_operator.rollout.look import compiled_metrics
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.state import (
    ROLLED_BACK,
    Finished,
    Pending,
    RollingBack,
    Run,
    State,
    Stepping,
    Waiting,
    phase_of,
    weight_of,
)

ANALYSIS_CHANGED: Final = "AnalysisChanged"
"""Reason in the history: a metric was edited. Its evidence is gathered anew, and so the level is
spent anew: it is another attempt.
"""

_PROGRESS: Final = (
    "checkpoint",
    "stepElapsed",
    "stepRequests",
    "metrics",
    "display",
    "elapsed",
    "samples",
    "sampleRatio",
    "estimatedEnd",
)
"""Fields, of tests too, that move at every look: they alone are no reason to write a status."""

_PASSING: Final = frozenset({"Loading", "Analysing", "NoData", "Error"})
"""Reasons that come and go without anybody's doing."""
_LASTING: Final = (
    *("weight", "currentStep", "plan", "stableVersion", "attempt", "analysisChanges"),
    *("lastVerb", "finished", "observedGeneration"),
)


def tell(
    rollout: CanaryRollout, state: State, seen: Observation, last_verb: str | None = None
) -> Status:
    """The whole status of a rollout in this state. ``last_verb``: the word that was acted on last,
    while it still stands on the object.
    """
    before, now = rollout.status, seen.now
    state = _with_late_pods(state, seen)
    run = None if isinstance(state, Pending | Waiting) else state.run
    phase, weight = phase_of(state), weight_of(state)
    retried = before.phase in FINISHED and phase not in FINISHED
    edited = not retried and _edited(before, run)
    requests = StepRequests()
    if run is not None:
        checks = counted(compiled_metrics(rollout, run.evidence))
        requested = step_requests(checks, run.evidence.watched)
        judged = ARM_SHADOW if rollout.spec.shadow_only else ARM_CANARY
        requests = StepRequests(stable=requested[ARM_STABLE], canary=requested[judged])
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
        history=_history(before, phase, weight, state.reason, now, edited=edited),
        display=_display(run, state, requests, weight),
        last_verb=last_verb,
        attempt=before.attempt + retried + edited,
        analysis_changes=before.analysis_changes + edited,
        attempt_since=timestamp(now) if retried else before.attempt_since,
        finished=_finish(rollout, state, seen),
        conditions=_conditions(rollout, state, now),
        observed_generation=rollout.metadata.generation,
        checkpoint=run.evidence if run else None,
    )


def _with_late_pods(state: State, seen: Observation) -> State:
    """A way back names the pods that have not gone it yet; whoever decided it knows it without."""
    _, lagging = pods.acknowledged(seen)
    if not isinstance(state, RollingBack) or not lagging:
        return state
    names = ", ".join(pod.name for pod in lagging)
    return replace(state, message=f"{state.message}; waiting for {names} to apply it")


def _finish(rollout: CanaryRollout, state: State, seen: Observation) -> Finish | None:
    """The end, and the version that it leaves behind."""
    if not isinstance(state, Finished):
        return None
    if rollout.status.finished is not None and rollout.status.phase == state.phase:
        return rollout.status.finished
    left = None
    if state.run is not None:
        promoted = state.phase == "Succeeded" and state.reason != "ShadowOnly"
        left = state.run.stable if promoted else rollout.spec.canary_version
    version = seen.by_version.get(left) if left is not None else None
    return Finish(
        time=timestamp(seen.now), idle=left, lifecycle=version.spec.lifecycle if version else ""
    )


def meaning(status: dict[str, Any]) -> dict[str, Any]:
    """The part of a written status whose change is worth a write at once."""
    return {key: value for key, value in status.items() if key not in _PROGRESS}


def passing(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two written statuses differ only in what may be something else a moment later: how
    far loading is, how evidence stands, and that it is missing, as it is for all rollouts at once
    while Prometheus is slow.
    """
    return _lasting(before) == _lasting(after)


def _lasting(status: dict[str, Any]) -> list[Any]:
    reason, phase = status.get("reason"), status.get("phase")
    if reason in _PASSING:
        reason, phase = "", "Progressing" if phase == "Holding" else phase
    return [reason, phase, *(status.get(key) for key in _LASTING)]


def _edited(before: Status, run: Run | None) -> bool:
    """Whether a metric's evidence began anew, as it was edited."""
    old = before.checkpoint.harm.keys() if before.checkpoint else set()
    return run is not None and bool(old) and not run.evidence.harm.keys() <= old


def _history(
    before: Status, phase: str, weight: int, reason: str, now: float, *, edited: bool
) -> list[HistoryEntry]:
    if (before.phase, before.weight) == (phase, weight) and not edited:
        return before.history
    if edited:
        reason = ANALYSIS_CHANGED
    if edited or before.phase in FINISHED:
        reason = f"{reason} (attempt {before.attempt + 1})"
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
    message = state.message
    if isinstance(state, Stepping):  # step and weight have columns of their own
        message = message.partition("): ")[2] or message
    if message.startswith(ROLLED_BACK):  # the phase says it, and why comes first
        message = message.partition(": ")[2] or message
    return {
        "step": steps,
        "weight": f"{weight}%",
        "acked": acked,
        "requests": shown,
        "message": message[:1].upper() + message[1:],
    }


def _conditions(rollout: CanaryRollout, state: State, now: float) -> list[Condition]:
    phase = phase_of(state)
    over = phase in FINISHED
    good = phase == "Succeeded"
    held = phase in {"Holding", "WaitingPromotion"}
    words: dict[str, bool | None] = {
        "Ready": good,
        "Reconciling": not over,
        "Stalled": over and not good,
        "Progressing": not over and not held and not isinstance(state, Pending | Waiting),
        "Paused": held,
        "Promoted": good and state.reason != "ShadowOnly" if over else None,
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
