"""CanaryRollout: moves a model's traffic from a stable version to a canary, step by step.

The status is written for two readers: people (phase, message, metrics, history) and the operator
that comes after this one (``checkpoint``: everything that a rollout's state is rebuilt from).
"""

from typing import Literal

import msgspec

from tidegate_operator.api.meta import Condition, Metadata, Stored, Wire
from tidegate_operator.evidence.proportions import ExcessEvidence
from tidegate_operator.evidence.ratio import RatioEvidence
from tidegate_operator.evidence.share import ShareEvidence
from tidegate_operator.evidence.tally import Tally

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
    "WaitingPromotion",
    "Promoting",
    "RollingBack",
    "Succeeded",
    "RolledBack",
    "Failed",
]
FINISHED: frozenset[str] = frozenset({"Succeeded", "RolledBack", "Failed"})


class ErrorRate(Wire, frozen=True, kw_only=True):
    """Bounds of the canary's share of requests that end in a server error, and of its ratio to
    stable's share at the same time.
    """

    success: float | None = None
    rollback: float | None = None
    max_ratio_to_stable: float | None = None


class Latency(Wire, frozen=True, kw_only=True):
    """Bounds of a quantile of the canary's latency, as durations, and of its ratio to stable's;
    ``priorities``: None is all.
    """

    quantile: float
    success: str | None = None
    rollback: str | None = None
    max_ratio_to_stable: float | None = None
    priorities: list[int] | None = None


class Disagreement(Wire, frozen=True, kw_only=True):
    """Bound of the share of mirrored requests that the canary answers otherwise than stable.

    ``compare``: outputs number by number, or of floats which is the largest in its row.
    ``baseline``: of the share beyond that at which stable disagrees with itself.
    """

    max: float
    tolerance: float = 0.001
    compare: Literal["Values", "Argmax"] = "Values"
    baseline: bool = False


class Range(Wire, frozen=True, kw_only=True):
    """From ``min`` to ``max``, both included; None is no bound."""

    min: float | None = None
    max: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class Query(Wire, frozen=True, kw_only=True):
    """A user's own PromQL. A value within ``rollback``, ``failure_limit`` times in a row, rolls
    back; a step passes only with a value within ``success``.
    """

    query: str
    success: Range | None = None
    rollback: Range | None = None
    failure_limit: int = 3


class Metric(Wire, frozen=True, kw_only=True):
    """One thing that is judged; exactly one kind (the CRD sees to it). ``dry_run``: it is judged
    and shown, and decides nothing.
    """

    name: str
    error_rate: ErrorRate | None = None
    latency: Latency | None = None
    disagreement: Disagreement | None = None
    prometheus: Query | None = None
    dry_run: bool = False


DEFAULT_ERRORS = ErrorRate(success=0.01, rollback=0.05, max_ratio_to_stable=1.5)
DEFAULT_LATENCY = Latency(quantile=0.95, success="100ms", rollback="500ms", max_ratio_to_stable=1.5)

OnTrouble = Literal["Hold", "Continue", "Rollback"]


class Analysis(Wire, frozen=True, kw_only=True):
    """How evidence is gathered and judged."""

    interval: str = "30s"
    warmup: str = "30s"
    min_requests: int = 100
    significance_level: float = 0.01
    pass_on: Literal["NoHarm", "Proven"] = "NoHarm"  # noqa: S105
    max_stable_slowdown: float = 1.25
    on_no_data: OnTrouble = "Hold"
    on_error: OnTrouble = "Hold"
    ack_timeout: str = "60s"
    metrics: list[Metric] | None = None


class Assignment(Wire, frozen=True, kw_only=True):
    """Sticky assignment by a header's value."""

    header: str


class Step(Wire, frozen=True, kw_only=True):
    """A step of a plan. ``gate``: it waits for a person before it gets its weight. The last step
    of a resolved plan has no duration: reaching it is the promotion.
    """

    percent: int
    duration: str | None = None
    gate: Literal["Manual"] | None = None


class Spec(Wire, frozen=True, kw_only=True):
    """What the user asks for. The four step fields, which ``steps`` replaces, have no default in
    the CRD.
    """

    model: str
    canary_version: int
    stable_version: int | None = None
    initial_percent: int | None = None
    step_percent: int | None = None
    max_percent: int | None = None
    step_duration: str | None = None
    steps: list[Step] | None = None
    analysis: Analysis = Analysis()
    mirror_percent: int = 0
    assignment: Assignment | None = None
    auto_promote: bool = True
    gating_deadline: str = "15m"
    progress_deadline: str = "24h"
    on_deadline: Literal["Hold", "Rollback"] = "Hold"
    unload_delay: str = "10m"
    rollback_window: str = "24h"
    suspend: bool = False

    @property
    def shadow_only(self) -> bool:
        """Whether the canary never gets traffic of its own."""
        return self.max_percent == 0

    @property
    def metrics(self) -> list[Metric]:
        """The metrics, defaults filled in; nobody waits for a shadow, so it has no latency."""
        if self.analysis.metrics is not None:
            return self.analysis.metrics
        errors = Metric(name="errors", error_rate=DEFAULT_ERRORS)
        if self.shadow_only:
            return [errors]
        return [errors, Metric(name="latency", latency=DEFAULT_LATENCY)]


class Checkpoint(Wire, frozen=True, kw_only=True):
    """What a rollout's state is rebuilt from, always written as a whole.

    Times are epoch seconds. ``step``: index into the plan, -1 before any weight. ``step_since``:
    when this step's weight was decided; ``live_since``: when every ready pod had acknowledged it.
    ``elapsed``: seconds that this step's clock ran; ``progressed``: seconds that count towards the
    progress deadline. ``judged``: canary requests at the last judgement of the step as a whole.
    ``pinned``: by metric, the quantile of stable's latency in seconds before the rollout.
    ``restarts``: of Triton since the first weight, up to ``restarts_until`` on Prometheus' clock;
    None: not counted, as there were some before.
    ``cursors``: by pod, the time of the last counter sample that the tallies hold; ``warming``:
    likewise of pods that joined later, while they warm up. ``harm``: by
    check, one tally of the canary for each step, gaps included. ``shares``: likewise, the evidence
    that a bound is broken; of stable's slowness since the last hold for that. A status without one
    is an older operator's: its evidence begins with the next look. ``watched``: by check, then by
    arm, the tally of this step without gaps. ``ratios``: by check. ``buckets``: by check, the
    rollout's counts by bucket of users, where these are assigned. ``itself``: by check, a tally of
    stable: slow since the last hold for that, or in disagreement with itself. ``excesses``: by
    check, the evidence that the canary disagrees more than that. ``slow``: checks by which stable
    is slowed now. ``queries``: by definition, bad answers in a row to the user's
    own query. ``passed``: the step has; what comes next waits for a person.
    """

    gating_since: float
    step: int = -1
    step_since: float = 0.0
    live_since: float | None = None
    elapsed: float = 0.0
    progressed: float = 0.0
    judged: int | None = None
    pinned: dict[str, float] = {}
    restarts: int | None = 0
    restarts_until: float | None = None
    cursors: dict[str, float] = {}
    warming: dict[str, float] = {}
    harm: dict[str, list[Tally]] = {}
    shares: dict[str, ShareEvidence] = {}
    buckets: dict[str, str] = {}
    itself: dict[str, Tally] = {}
    excesses: dict[str, ExcessEvidence] = {}
    slow: list[str] = []
    watched: dict[str, dict[str, Tally]] = {}
    ratios: dict[str, RatioEvidence] = {}
    queries: dict[str, int] = {}
    passed: bool = False


class MetricStatus(Wire, frozen=True, kw_only=True):
    """One metric as people read it. ``stable`` and ``canary`` are the rates of bad requests in
    this step (for latency: the share slower than the success bound, or rollback's without one; for
    a query of the user's own, its value); ``ratio`` of the two with its 95% ``interval`` (that of
    the canary's share where no ratio is asked for), which holds however often one looks;
    ``evidence`` is E of the worst test that can roll back, against
    the threshold at which it does.
    """

    name: str
    verdict: str
    dry_run: bool = False
    stable: float | None = None
    canary: float | None = None
    ratio: float | None = None
    interval: list[float] | None = None
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


class Finish(Wire, frozen=True, kw_only=True):
    """How a rollout ended. ``idle``: the version that nobody needs any more, None where every one
    is needed; ``lifecycle``: what its ModelVersion said then.
    """

    time: str
    idle: int | None = None
    lifecycle: str = ""


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
    """What is so. ``attempt``: counted up by a retry and by ``analysis_changes``, edits that began
    evidence anew: either has the whole level to spend.
    """

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
    last_verb: str | None = None
    attempt: int = 1
    analysis_changes: int = 0
    attempt_since: str | None = None
    finished: Finish | None = None
    conditions: list[Condition] = []
    observed_generation: int = -1
    checkpoint: Checkpoint | None = None


class CanaryRollout(Stored, frozen=True, kw_only=True):
    """The object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()
