"""ABTest: compares two versions of a model on live traffic and says which one does better.

The status is written for two readers: people (phase, verdict, message, metrics) and the operator
that comes after this one (``checkpoint``: everything that a test's state is rebuilt from).
"""

from base64 import b64decode
from typing import Literal

from tidegate_contract.table import Outcome
from tidegate_operator.api.canaryrollout import Assignment, HistoryEntry, Revision
from tidegate_operator.api.meta import Condition, Metadata, Stored, Wire
from tidegate_operator.api.quantity import seconds
from tidegate_operator.evidence.proportions import ExcessEvidence
from tidegate_operator.evidence.ratio import RatioEvidence

KIND = "ABTest"
PLURAL = "abtests"
HISTORY_LENGTH = 50

Phase = Literal[
    "",
    "Pending",
    "Waiting",
    "Gating",
    "Running",
    "Holding",
    "Finished",
    "Stopped",
    "Failed",
]
FINISHED: frozenset[str] = frozenset({"Finished", "Stopped", "Failed"})

Verdict = Literal[
    "",
    "Running",
    "TreatmentWins",
    "ControlWins",
    "NoDifference",
    "GuardrailFailed",
    "SampleRatioMismatch",
    "Inconclusive",
]
Goal = Literal["Increase", "Decrease"]
Ending = Literal["Revert", "Promote", "Keep"]
"""Who has the traffic in the end: control, the treatment, or both as they had it."""


class Feedback(Wire, frozen=True, kw_only=True):
    """Outcomes that clients report. ``range``: lowest and highest value, of kind Value only."""

    kind: Literal["Binary", "Value"]
    goal: Goal = "Increase"
    min_effect: float | None = None
    range: tuple[float, float] | None = None


class Queries(Wire, frozen=True, kw_only=True):
    """Outcomes that the user counts: each query gives a counter's value for one arm."""

    successes: str
    total: str
    goal: Goal = "Increase"
    min_effect: float | None = None


class SuccessMetric(Wire, frozen=True, kw_only=True):
    """What the versions are compared by; exactly one kind (the CRD sees to it)."""

    name: str
    feedback: Feedback | None = None
    prometheus: Queries | None = None

    @property
    def source(self) -> Feedback | Queries:
        """Where its outcomes come from."""
        found = self.feedback or self.prometheus
        assert found is not None, "the CRD demands exactly one kind"
        return found


class ErrorRate(Wire, frozen=True, kw_only=True):
    """Bounds of the treatment's share of server errors against control's: ``max_ratio_to_control``
    times it, or above it by ``max_excess``; within either it does no harm.
    """

    max_ratio_to_control: float = 1.0
    max_excess: float | None = None


class Latency(Wire, frozen=True, kw_only=True):
    """Bound of a quantile of the treatment's latency against control's; ``priorities``: None is
    all.
    """

    quantile: float
    max_ratio_to_control: float
    priorities: list[int] | None = None


class Guardrail(Wire, frozen=True, kw_only=True):
    """What must not get worse; exactly one kind (the CRD sees to it)."""

    name: str
    error_rate: ErrorRate | None = None
    latency: Latency | None = None


class Covariate(Wire, frozen=True, kw_only=True):
    """A number for each user that was known before the test."""

    header: str


class Spec(Wire, frozen=True, kw_only=True):
    """What the user asks for; exactly one of ``duration`` and ``end_time``."""

    model: str
    control_version: int
    treatment_version: int
    success_metrics: list[SuccessMetric]
    treatment_percent: int = 50
    assignment: Assignment | None = None
    start_time: str | None = None
    end_time: str | None = None
    duration: str | None = None
    min_samples: int = 1000
    significance_level: float = 0.05
    guardrails: list[Guardrail] = []
    covariate: Covariate | None = None
    expected_samples: int = 5000
    feedback_delay: str = "0s"
    stop_early: bool = True
    on_finish: Literal["RevertToControl", "PromoteWinner", "Hold"] = "RevertToControl"
    suspend: bool = False

    @property
    def outcomes(self) -> list[Outcome]:
        """What clients may report, as the routing table tells it."""
        return [
            Outcome(
                name=one.name,
                kind=one.feedback.kind,
                low=one.feedback.range[0] if one.feedback.range else 0.0,
                high=one.feedback.range[1] if one.feedback.range else 1.0,
            )
            for one in self.success_metrics
            if one.feedback is not None
        ]

    @property
    def delay(self) -> float:
        """Seconds after the end in which outcomes still count."""
        return seconds(self.feedback_delay)


class Users(Wire, frozen=True, kw_only=True):
    """A sample of the distinct users of each arm: those whose 64-bit hash lies
    below 2^(64 - ``halvings``). By arm, base64 of the sorted hashes as little-endian uint64.
    """

    halvings: int = 0
    control: str = ""
    treatment: str = ""

    @property
    def sampled(self) -> tuple[int, int]:
        """Users in the sample, of control and of treatment."""
        return len(b64decode(self.control)) // 8, len(b64decode(self.treatment)) // 8

    @property
    def seen(self) -> tuple[int, int]:
        """Estimates of all distinct users of control and of treatment; exact without halvings."""
        control, treatment = self.sampled
        return control << self.halvings, treatment << self.halvings


class Checkpoint(Wire, frozen=True, kw_only=True):
    """What a test's state is rebuilt from, always written as a whole.

    Times are epoch seconds. ``started``: when the treatment's share was decided; ``live_since``:
    when the ready pods had acknowledged it; ``elapsed``: seconds that the clock ran. ``ended``:
    since when only late outcomes are taken. ``pinned``: by guardrail, the quantile of control's
    latency in seconds before the test. ``cursors`` and ``heard``: by pod, the time of the last
    sample of requests and of feedback that is counted here. ``requests``: by check, the counts of
    each arm by bucket of users; ``ratios`` and ``excesses``: by guardrail, the evidence of harm.
    ``outcomes``: by metric, sums of each arm by bucket. ``queried``: by query, the counter's last
    value and its rise since the start.
    """

    gating_since: float
    started: float | None = None
    live_since: float | None = None
    elapsed: float = 0.0
    ended: float | None = None
    pinned: dict[str, float] = {}
    cursors: dict[str, float] = {}
    heard: dict[str, float] = {}
    requests: dict[str, str] = {}
    ratios: dict[str, RatioEvidence] = {}
    excesses: dict[str, ExcessEvidence] = {}
    outcomes: dict[str, str] = {}
    queried: dict[str, list[float]] = {}
    users: Users = Users()


class Rated(Wire, frozen=True, kw_only=True):
    """Shares of the answers that users reported an outcome of."""

    control: float
    treatment: float


class MetricStatus(Wire, frozen=True, kw_only=True):
    """One metric as people read it.

    ``control`` and ``treatment``: mean outcome (of a guardrail: share of bad requests) of each
    arm; ``lift``: their difference as a share of control's; ``interval``: of the difference, of a
    guardrail of the ratio: it holds however often one looks; ``p``: of "there is no difference",
    corrected for the number of success metrics, likewise; ``evidence``: E of the test that stops
    the test, against its ``threshold``.
    """

    name: str
    verdict: str
    control: float | None = None
    treatment: float | None = None
    lift: float | None = None
    interval: list[float] | None = None
    evidence: float | None = None
    threshold: float | None = None
    p: float | None = None
    rated: Rated | None = None
    reason: str = ""


class Samples(Wire, frozen=True, kw_only=True):
    """Distinct users of each arm, or requests where users are not assigned."""

    control: int = 0
    treatment: int = 0


class SampleRatio(Wire, frozen=True, kw_only=True):
    """Whether users are distributed as asked. ``control`` and ``treatment``: users of the sample
    that is compared; ``evidence``: E against "as asked", ``threshold``: where it is a mismatch;
    ``p``: of Pearson's test, for people who know it: it decides nothing and holds for one look.
    """

    verdict: str
    control: int
    treatment: int
    evidence: float
    threshold: float
    p: float = 1.0


class Status(Wire, frozen=True, kw_only=True):
    """What is so. ``ending``: decided; None while the test runs."""

    phase: Phase = ""
    reason: str = ""
    verdict: Verdict = ""
    message: str = ""
    samples: Samples = Samples()
    metrics: list[MetricStatus] = []
    sample_ratio: SampleRatio | None = None
    weight: int = 0
    estimated_end: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    ending: Ending | None = None
    elapsed: float = 0.0
    clock_running_since: str | None = None
    revision: Revision = Revision()
    history: list[HistoryEntry] = []
    display: dict[str, str] = {}
    last_verb: str | None = None
    conditions: list[Condition] = []
    observed_generation: int = -1
    checkpoint: Checkpoint | None = None


class ABTest(Stored, frozen=True, kw_only=True):
    """The object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()
