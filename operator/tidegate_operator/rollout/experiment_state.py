"""The states of a test, as a tagged union, and the one place that reads them from a status.

``experiment_story`` writes them. Each state says its reason and its message itself.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, cast

from tidegate_operator.api.abtest import (
    Checkpoint,
    Ending,
    MetricStatus,
    Phase,
    SampleRatio,
    Samples,
    Status,
    Verdict,
)
from tidegate_operator.api.canaryrollout import Revision
from tidegate_operator.api.quantity import epoch
from tidegate_operator.evidence.experiment import Judgement

HoldReason = Literal["Suspended", "NoData", "Error", "NotAcknowledged", "NoReadyPods"]

ABORTED = "Aborted"
STOPPED = frozenset({"GuardrailFailed", "SampleRatioMismatch", ABORTED})
"""Reasons for which a test ends before its time, whatever its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a started test carries from state to state; ``estimated_end`` in epoch seconds."""

    evidence: Checkpoint
    verdict: Verdict = "Running"
    metrics: tuple[MetricStatus, ...] = ()
    samples: Samples = field(default_factory=Samples)
    sample_ratio: SampleRatio | None = None
    estimated_end: float | None = None
    revision: Revision = field(default_factory=Revision)

    def judged(self, found: Judgement) -> "Run":
        """With the rows of a judgement; the verdict is given when the test ends."""
        return replace(
            self, metrics=found.metrics, samples=found.samples, sample_ratio=found.sample_ratio
        )


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
    """For its time, for another object that owns the model, or for a baseline of control alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gating(Told):
    """No weight yet: the treatment is being loaded and compared."""

    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(Told):
    """Both arms have weight, or late outcomes are waited for. ``hold``: why the clock stands
    still; None while it may run. ``clock_since``: since when it does (epoch seconds), None while
    it does not.
    """

    run: Run
    hold: HoldReason | None = None
    clock_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling(Told):
    """Decided; not every pod has said so."""

    run: Run
    ending: Ending

    @property
    def stopped(self) -> bool:
        """Whether harm, a split that is not as asked, or a person ended the test: for good."""
        return self.reason in STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Told):
    """``run`` and ``ending``: None where it never started. What is kept (and with it the ownership
    of the model) is given up when the test is deleted or ``onFinish`` says otherwise.
    """

    phase: Literal["Finished", "Stopped", "Failed"]
    run: Run | None = None
    ending: Ending | None = None


State = Pending | Waiting | Gating | Running | Settling | Finished
Started = Gating | Running | Settling


def owns(state: State) -> bool:
    """Whether a test in this state decides its model's split."""
    kept = isinstance(state, Finished) and state.ending == "Keep"
    return kept or isinstance(state, Started)


def live(state: State) -> Running | None:
    """The state, if its counters are to be read at every look."""
    if isinstance(state, Running) and state.run.evidence.live_since is not None:
        return state
    return None


def phase_of(state: State) -> Phase:
    """The word for it in ``status.phase``."""
    match state:
        case Finished(phase=phase):
            return phase
        case Running(hold=None) | Settling():
            return "Running"
        case Running():
            return "Holding"
        case Pending():
            return "Pending"
        case Waiting():
            return "Waiting"
        case Gating():
            return "Gating"


def decode(status: Status) -> State:
    """Rebuild the state from a status that ``experiment_story`` wrote."""
    reason, message = status.reason, status.message
    run = _run(status)
    match status.phase:
        case "Finished" | "Stopped" | "Failed":
            return Finished(
                phase=status.phase, run=run, ending=status.ending, reason=reason, message=message
            )
        case "Waiting":
            return Waiting(reason=reason, message=message)
        case "Gating" if run:
            return Gating(run=run, reason=reason, message=message)
        case "Running" if run and status.ending:
            return Settling(run=run, ending=status.ending, reason=reason, message=message)
        case "Running" if run:
            since = epoch(status.clock_running_since) if status.clock_running_since else None
            return Running(run=run, clock_since=since, reason=reason, message=message)
        case "Holding" if run:
            return Running(run=run, hold=cast("HoldReason", reason), reason=reason, message=message)
        case _:
            return Pending(reason=reason, message=message)


def _run(status: Status) -> Run | None:
    if status.checkpoint is None:
        return None
    return Run(
        evidence=status.checkpoint,
        verdict=status.verdict or "Running",
        metrics=tuple(status.metrics),
        samples=status.samples,
        sample_ratio=status.sample_ratio,
        estimated_end=epoch(status.estimated_end) if status.estimated_end else None,
        revision=status.revision,
    )
