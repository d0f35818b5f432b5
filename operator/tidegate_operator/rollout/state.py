"""The states of a rollout, as a tagged union, and the one place that reads them from a status.

``story`` writes them. Each state says its reason and its message itself: what, why, what next.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, cast

from tidegate_operator.api.canaryrollout import (
    Checkpoint,
    MetricStatus,
    Phase,
    Revision,
    Status,
    Step,
)
from tidegate_operator.api.quantity import epoch

HoldReason = Literal[
    "Suspended",
    "NoData",
    "Error",
    "Inconclusive",
    "NotAcknowledged",
    "NoReadyPods",
    "DeadlineExceeded",
    "AwaitingPromotion",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a started rollout carries from state to state."""

    stable: int
    plan: tuple[Step, ...]
    evidence: Checkpoint
    metrics: tuple[MetricStatus, ...] = ()
    verdict: str = ""
    revision: Revision = field(default_factory=Revision)

    @property
    def percent(self) -> int:
        """The canary's share at the present step."""
        return self.plan[self.evidence.step].percent if self.evidence.step >= 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What every state says of itself."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(Told):
    """Something is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Told):
    """Another object owns the model, or the baseline is no single version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gating(Told):
    """No weight yet: the canary is being loaded and compared, or a person must let it begin, or it
    took too long.
    """

    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepping(Told):
    """The canary has weight. ``hold``: why the clock stands still; None while it may run.
    ``clock_since``: since when it does (epoch seconds), None while it does not.
    """

    run: Run
    hold: HoldReason | None = None
    clock_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoting(Told):
    """Decided; not every pod has said so."""

    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingBack(Told):
    """Decided; not every pod has said so."""

    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Told):
    """Left only by a retry. ``run``: None where it never started."""

    phase: Literal["Succeeded", "RolledBack", "Failed"]
    run: Run | None


State = Pending | Waiting | Gating | Stepping | Promoting | RollingBack | Finished
Started = Gating | Stepping | Promoting | RollingBack

AWAITING: Final = "AwaitingPromotion"
"""Reason of a state that waits for a person's word."""
OVERDUE: Final = "DeadlineExceeded"
"""Reason of a state that took longer than ``progressDeadline``."""
ROLLED_BACK: Final = "Rolled back"
"""How the message of a rollout that had traffic and lost it begins."""


def phase_of(state: State) -> Phase:
    """The word for it in ``status.phase``."""
    match state:
        case Finished(phase=phase):
            return phase
        case Gating(reason="AwaitingPromotion") | Stepping(hold="AwaitingPromotion"):
            return "WaitingPromotion"
        case Stepping(hold=None):
            return "Progressing"
        case Stepping() | Gating(reason="DeadlineExceeded"):
            return "Holding"
        case Pending():
            return "Pending"
        case Waiting():
            return "Waiting"
        case Gating():
            return "Gating"
        case Promoting():
            return "Promoting"
        case RollingBack():
            return "RollingBack"


def weight_of(state: State) -> int:
    """The canary's share in percent."""
    match state:
        case Stepping(run=run):
            return run.percent
        case Finished(reason="ShadowOnly"):
            return 0
        case Promoting() | Finished(phase="Succeeded"):
            return 100
        case _:
            return 0


def decode(status: Status) -> State:
    """Rebuild the state from a status that ``story`` wrote."""
    reason, message = status.reason, status.message
    run = _run(status)
    match status.phase:
        case "Succeeded" | "RolledBack" | "Failed":
            return Finished(phase=status.phase, run=run, reason=reason, message=message)
        case "Waiting":
            return Waiting(reason=reason, message=message)
        case "Gating" if run:
            return Gating(run=run, reason=reason, message=message)
        case "WaitingPromotion" | "Holding" if run and run.evidence.step < 0:
            return Gating(run=run, reason=reason, message=message)
        case "Progressing" if run:
            running = status.clock_running_since
            since = epoch(running) if running else None
            return Stepping(run=run, clock_since=since, reason=reason, message=message)
        case "Holding" | "WaitingPromotion" if run:
            return Stepping(
                run=run, hold=cast("HoldReason", reason), reason=reason, message=message
            )
        case "Promoting" if run:
            return Promoting(run=run, reason=reason, message=message)
        case "RollingBack" if run:
            return RollingBack(run=run, reason=reason, message=message)
        case _:
            return Pending(reason=reason, message=message)


def _run(status: Status) -> Run | None:
    if status.checkpoint is None or status.stable_version is None:
        return None
    return Run(
        stable=status.stable_version,
        plan=tuple(status.plan),
        evidence=status.checkpoint,
        metrics=tuple(status.metrics),
        verdict=status.verdict,
        revision=status.revision,
    )
