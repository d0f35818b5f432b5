"""CanaryRollout: moves a model's traffic from a stable version to a canary, step by step.

The status is written for two readers: people (phase, message, metrics, history) and the operator
that comes after this one (``checkpoint``: everything that a rollout's state is rebuilt from).
"""

from typing import Any, Literal

import msgspec

from tidegate_operator.api.meta import Condition, Metadata, Wire

KIND = "CanaryRollout"
PLURAL = "canaryrollouts"
HISTORY_LENGTH = 50

Phase = Literal[
    "",
    "Pending",
    "Waiting",
    "Gating",
    "Progressing",
    "Holding",
    "Promoting",
    "RollingBack",
    "Succeeded",
    "RolledBack",
    "Failed",
]
FINISHED: frozenset[str] = frozenset({"Succeeded", "RolledBack", "Failed"})


class ErrorRate(Wire, frozen=True, kw_only=True):
    """Bounds of the canary's share of requests that end in a server error."""

    success: float | None = None
    rollback: float | None = None


class Latency(Wire, frozen=True, kw_only=True):
    """Bounds of a quantile of the canary's latency, as durations; ``priorities``: None is all."""

    quantile: float
    success: str | None = None
    rollback: str | None = None
    priorities: list[int] | None = None


class Metric(Wire, frozen=True, kw_only=True):
    """One thing that is judged; exactly one kind (the CRD sees to it)."""

    name: str
    error_rate: ErrorRate | None = None
    latency: Latency | None = None


DEFAULT_METRICS = [
    Metric(name="errors", error_rate=ErrorRate(success=0.01, rollback=0.05)),
    Metric(name="latency", latency=Latency(quantile=0.95, success="100ms", rollback="500ms")),
]


class Analysis(Wire, frozen=True, kw_only=True):
    """How evidence is gathered and judged."""

    interval: str = "30s"
    warmup: str = "30s"
    min_requests: int = 100
    significance_level: float = 0.01
    ack_timeout: str = "60s"
    metrics: list[Metric] = msgspec.field(default_factory=lambda: list(DEFAULT_METRICS))


class Assignment(Wire, frozen=True, kw_only=True):
    """Sticky assignment by a header's value."""

    header: str


class Spec(Wire, frozen=True, kw_only=True):
    """What the user asks for. The four step fields have no default in the CRD."""

    model: str
    canary_version: int
    stable_version: int | None = None
    initial_percent: int | None = None
    step_percent: int | None = None
    max_percent: int | None = None
    step_duration: str | None = None
    analysis: Analysis = Analysis()
    assignment: Assignment | None = None
    gating_deadline: str = "15m"


class Step(Wire, frozen=True, kw_only=True):
    """A step of the resolved plan; the last one has no duration: reaching it is the promotion."""

    percent: int
    duration: str | None = None


class Tally(Wire, frozen=True, kw_only=True):
    """Requests that a check concerned, and how many of them were bad."""

    requests: int = 0
    bad: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(requests=self.requests + other.requests, bad=self.bad + other.bad)

    @property
    def rate(self) -> float | None:
        """Share of bad requests; None where there were none at all."""
        return self.bad / self.requests if self.requests else None


class Checkpoint(Wire, frozen=True, kw_only=True):
    """What a rollout's state is rebuilt from, always written as a whole.

    ``step``: index into the plan, -1 before any weight. ``step_since``: when this step's weight
    was decided; ``live_since``: when every ready pod had acknowledged it (epoch seconds).
    ``cursors``: by pod, the time of the last counter sample that the tallies hold. ``harm``: by
    check, one tally of the canary for each step, gaps included. ``watched``: by check, then by
    arm, the tally of this step without gaps. ``judged``: canary requests at the last judgement.
    """

    gating_since: float
    step: int = -1
    step_since: float = 0.0
    live_since: float | None = None
    elapsed: float = 0.0
    judged: int | None = None
    cursors: dict[str, float] = {}
    harm: dict[str, list[Tally]] = {}
    watched: dict[str, dict[str, Tally]] = {}


class MetricStatus(Wire, frozen=True, kw_only=True):
    """One metric as people read it. ``stable`` and ``canary`` are the rates of bad requests in
    this step (for latency: the share slower than the success bound, or rollback's without one);
    ``evidence`` is E against the threshold at which the rollback bound counts as broken.
    """

    name: str
    verdict: str
    stable: float | None = None
    canary: float | None = None
    evidence: float | None = None
    threshold: float | None = None
    reason: str = ""


class HistoryEntry(Wire, frozen=True, kw_only=True):
    """A change of phase or of weight."""

    time: str
    from_: str = msgspec.field(name="from")
    to: str
    weight: int
    reason: str


class Revision(Wire, frozen=True, kw_only=True):
    """The table's revision that this step's weight needs, and who applies it."""

    wanted: int = 0
    acknowledged_pods: int = 0
    total_pods: int = 0


class StepRequests(Wire, frozen=True, kw_only=True):
    """Requests of this step that count, by arm."""

    stable: int = 0
    canary: int = 0


class Status(Wire, frozen=True, kw_only=True):
    """What is so."""

    phase: Phase = ""
    reason: str = ""
    message: str = ""
    plan: list[Step] = []
    current_step: int = 0
    total_steps: int = 0
    weight: int = 0
    stable_version: int | None = None
    verdict: str = ""
    revision: Revision = Revision()
    step_elapsed: float = 0.0
    clock_running_since: str | None = None
    step_requests: StepRequests = StepRequests()
    metrics: list[MetricStatus] = []
    history: list[HistoryEntry] = []
    display: dict[str, str] = {}
    conditions: list[Condition] = []
    observed_generation: int = -1
    checkpoint: Checkpoint | None = None


class CanaryRollout(Wire, frozen=True, kw_only=True):
    """The object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()
    raw_status: dict[str, Any] = {}
