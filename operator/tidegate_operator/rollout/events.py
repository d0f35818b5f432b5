"""What a change of an object's state is worth telling, once, as Kubernetes events."""

from dataclasses import dataclass
from typing import Literal

from tidegate_operator.api.meta import Condition
from tidegate_operator.api.modelversion import Status
from tidegate_operator.rollout import versions
from tidegate_operator.rollout.state import (
    AWAITING,
    OVERDUE,
    Finished,
    Gating,
    Pending,
    Promoting,
    RollingBack,
    State,
    Stepping,
    Waiting,
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object, once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def of_version(old: Status, new: Status) -> list[Event]:
    """What the change of a ModelVersion's status is worth telling."""
    told = []
    if new.phase != old.phase and new.phase == "Ready" and old.phase != "Degraded":
        told.append(Event("Normal", "VersionLoaded", f"Ready in all {new.pods.total} pods"))
    failing = versions.LOAD_FAILED in {one.reason for one in new.conditions}
    if failing and versions.LOAD_FAILED not in {one.reason for one in old.conditions}:
        told.append(Event("Warning", "VersionLoadFailed", new.message))
    if set(new.undeclared) - set(old.undeclared):
        told.append(Event("Normal", "VersionDiscovered", _discovered(new.undeclared)))
    if new.lifecycle == "Deprecated" != old.lifecycle and new.traffic_percent:
        told.append(Event("Warning", "Deprecated", versions.DEPRECATED))
    wrong = {one.type for one in old.conditions if _is_wrong(one)}
    return told + [
        Event("Warning", "InvalidSpec", one.message)
        for one in new.conditions
        if one.type not in wrong and _is_wrong(one)
    ]


def _is_wrong(one: Condition) -> bool:
    """Whether a condition says that a spec cannot be followed."""
    if one.type in {"TrafficSplitValid", "SelectorMatches"}:
        return one.status == "False"
    return one.reason == versions.STILL_SERVES


def of_rollout(old: State, new: State) -> list[Event]:  # noqa: C901, PLR0912 - a table of transitions
    """What the step from one state of a rollout to the next is worth telling."""
    match old, new:
        case (Waiting(reason=r), Waiting(reason=s)) if r == s:
            return []
        case _, Waiting(reason="WaitingForOwner", message=message):
            return [Event("Normal", "WaitingForOwner", message)]
        case Gating(reason=r), Gating(reason="VersionLoadFailed", message=m) if (
            r != "VersionLoadFailed"
        ):
            return [Event("Warning", "VersionLoadFailed", m)]
        case (
            Pending() | Waiting() | Gating(),
            Finished(phase="Failed", reason=reason, message=message),
        ):
            word = {
                "Incompatible": "Incompatible",
                "Aborted": "RolledBack",
                "DeadlineExceeded": "RolledBack",
            }
            return [Event("Warning", word.get(reason, "VersionLoadFailed"), message)]
        case Gating(reason=r), Gating(reason="AwaitingPromotion", message=message) if r != AWAITING:
            return [Event("Normal", "RolloutPaused", message)]
        case Gating(reason=r), Gating(reason="DeadlineExceeded", message=message) if r != OVERDUE:
            return [Event("Warning", "RolloutHeld", message)]
        case Gating(), Promoting(message=message):
            return [Event("Normal", "TrafficWeightUpdated", message)]
        case Gating(), Stepping(run=run):
            return [
                Event("Normal", "VersionLoaded", "The canary is loaded on every ready pod"),
                _weight(0, run.percent),
            ]
        case Stepping(run=a), Stepping(run=b) if a.evidence.step != b.evidence.step:
            return [_completed(old), _weight(a.percent, b.percent)]
        case Stepping(run=a), Promoting():
            return [_completed(old), _weight(a.percent, 100)]
        case Stepping(hold=a), Stepping(hold=b, message=message) if a != b:
            if b in {"Suspended", AWAITING}:
                return [Event("Normal", "RolloutPaused", message)]
            if b is None:
                return [Event("Normal", "RolloutResumed", message)]
            return [Event("Warning", "RolloutHeld", message)]
        case Stepping() | Promoting(), (
            RollingBack(message=message) | Finished(phase="RolledBack" | "Failed", message=message)
        ):
            return [Event("Warning", "RolledBack", message)]
        case Promoting(), Finished(message=message):
            return [Event("Normal", "Promoted", message)]
        case Stepping(), Finished(reason="ShadowOnly", message=message):
            return [Event("Normal", "StepCompleted", message)]
        case _:
            return []


def _weight(old: int, new: int) -> Event:
    message = f"The canary's share goes from {old}% to {new}%"
    if not new:
        message = "The canary gets mirrored requests, and no share of the traffic"
    return Event("Normal", "TrafficWeightUpdated", message)


def _completed(state: Stepping) -> Event:
    run = state.run
    step = f"{run.evidence.step + 1}/{len(run.plan)}"
    return Event("Normal", "StepCompleted", f"Step {step} at {run.percent}% is done")


def _discovered(undeclared: list[int]) -> str:
    listed = ", ".join(map(str, undeclared))
    return (
        f"Triton also has version {listed}, which no ModelVersion names; `kubectl tidegate "
        "discover` writes one"
    )
