"""A test's status as people and tools read it, written from its state."""

from typing import Any

from tidegate_operator.api.abtest import (
    FINISHED,
    HISTORY_LENGTH,
    ABTest,
    MetricStatus,
    Status,
)
from tidegate_operator.api.canaryrollout import HistoryEntry
from tidegate_operator.api.meta import Condition, condition
from tidegate_operator.api.quantity import timestamp
from tidegate_operator.rollout.experiment_state import (
    Finished,
    Pending,
    Run,
    Running,
    Settling,
    State,
    Waiting,
    phase_of,
)
from tidegate_operator.rollout.observation import Observation


def tell(test: ABTest, state: State, seen: Observation, last_verb: str | None = None) -> Status:
    """The whole status of a test in this state. ``last_verb``: the word that was acted on last,
    while it still stands on the object.
    """
    before, now = test.status, seen.now
    run = None if isinstance(state, Pending | Waiting) else state.run
    phase, weight = phase_of(state), _weight(test, state)
    over = phase in FINISHED
    started = run.evidence.started if run else None
    clock_since = state.clock_since if isinstance(state, Running) else None
    shared: dict[str, Any] = {}
    if run is not None:
        shared = {
            "verdict": run.verdict if started is not None else "",
            "samples": run.samples,
            "metrics": list(run.metrics),
            "sample_ratio": run.sample_ratio,
            "estimated_end": _time(run.estimated_end),
            "started_at": _time(started),
            "elapsed": round(run.evidence.elapsed, 3),
            "revision": run.revision,
            "checkpoint": run.evidence,
        }
    return Status(
        phase=phase,
        reason=state.reason,
        message=state.message,
        weight=weight,
        ending=state.ending if isinstance(state, Settling | Finished) else None,
        finished_at=(before.finished_at or timestamp(now)) if over else None,
        clock_running_since=_time(clock_since),
        history=_history(test, phase, weight, state.reason, now),
        display=_display(run),
        last_verb=last_verb,
        conditions=_conditions(test, state, now),
        observed_generation=test.metadata.generation,
        **shared,
    )


def _time(at: float | None) -> str | None:
    return None if at is None else timestamp(at)


def _weight(test: ABTest, state: State) -> int:
    """The treatment's share in percent."""
    match state:
        case Running(run=run):
            over = run.evidence.ended is not None and test.spec.on_finish != "Hold"
            return 0 if over else test.spec.treatment_percent
        case Finished(ending="Keep"):
            return test.spec.treatment_percent
        case Settling(ending="Promote") | Finished(ending="Promote"):
            return 100
        case _:
            return 0


def _history(test: ABTest, phase: str, weight: int, reason: str, now: float) -> list[HistoryEntry]:
    before = test.status
    if (before.phase, before.weight) == (phase, weight):
        return before.history
    entry = HistoryEntry(
        time=timestamp(now), from_=before.phase or "New", to=phase, weight=weight, reason=reason
    )
    return [*before.history, entry][-HISTORY_LENGTH:]


def _display(run: Run | None) -> dict[str, str]:
    """Columns; lift and p are those of the success metric that is nearest to a verdict."""
    if run is None or run.evidence.started is None:
        return {"samples": "", "lift": "", "p": ""}
    samples = f"{run.samples.control}+{run.samples.treatment}"
    compared = [one for one in run.metrics if one.p is not None]
    nearest = min(compared, key=_p, default=None)
    if nearest is None or nearest.lift is None:
        return {"samples": samples, "lift": "", "p": ""}
    return {"samples": samples, "lift": f"{nearest.lift:+.2%}", "p": f"{nearest.p:.2g}"}


def _p(row: MetricStatus) -> float:
    return 1.0 if row.p is None else row.p


def _conditions(test: ABTest, state: State, now: float) -> list[Condition]:
    phase = phase_of(state)
    over = phase in FINISHED
    promoted = isinstance(state, Finished) and state.ending == "Promote"
    words: dict[str, bool | None] = {
        "Ready": phase == "Finished",
        "Reconciling": not over,
        "Stalled": phase in {"Stopped", "Failed"},
        "Progressing": phase in {"Gating", "Running"},
        "Paused": phase == "Holding",
        "Promoted": promoted if over else None,
    }
    return [
        condition(
            test.status.conditions,
            type_,
            word,
            state.reason,
            state.message,
            now=now,
            generation=test.metadata.generation,
        )
        for type_, word in words.items()
    ]
