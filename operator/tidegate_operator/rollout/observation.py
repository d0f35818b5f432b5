"""Everything that a decision about one model rests on, as it was seen at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate_contract.acknowledgement import Acknowledgement, VersionState
from tidegate_contract.table import Owner, RoutingTable
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.evidence.counters import Series
from tidegate_operator.evidence.queries import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that serves the model. ``ready_since``: epoch seconds; ``ack``: None until it told."""

    name: str
    uid: str
    ready: bool
    terminating: bool = False
    ready_since: float = 0.0
    ack: Acknowledgement | None = None

    @property
    def asked(self) -> bool:
        """Whether an acknowledgement is asked of it."""
        return self.ready and not self.terminating

    def version(self, version: int) -> VersionState | None:
        """What it says of a version."""
        return self.ack.versions.get(version) if self.ack else None

    def has(self, version: int) -> bool:
        """Whether the version is ready in it."""
        state = self.version(version)
        return state is not None and state.state == "Ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTable:
    """The table's ConfigMap. ``table`` is the last good content, also where ``problem`` says that
    the stored text is none (edited by hand).
    """

    uid: str
    resource_version: str
    table: RoutingTable | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Samples from Prometheus; ``at`` is Prometheus' own time of the query (epoch seconds)."""

    at: float
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Prometheus did not answer, or not with samples; ``why`` is for people."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMetrics:
    """A version's last five minutes, for people: requests in a second, share of errors, and
    quantiles of the latency in seconds (None where nothing was answered).
    """

    requests_per_second: float
    error_rate: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """How a model did before a rollout. ``latency``: by version, answers of the last ten minutes as
    cumulative counts by upper bound in seconds, ascending, the last bound infinite. ``errors``: by
    version, share of server errors. ``restarts``: of the model's Tritons in the last hour.
    """

    latency: Mapping[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    errors: Mapping[int, float] = field(default_factory=dict)
    restarts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen of one model at ``now`` (epoch seconds).

    ``stored`` None: there is no ConfigMap; ``last_table`` is then what this operator last saw.
    ``reading`` None: nothing was asked of Prometheus. ``last_look``: when this process last
    judged the model; None after a start. ``live``: by version, as far as known; None after a start.
    ``before``: None unless a rollout is about to start, and where Prometheus cannot be read.
    ``answers``: to users' own queries, by (uid of the object, name of the metric).
    ``busy``: who is rolling out another model in the same pods. ``detailed``: what people are shown
    is to be worked out, too.
    """

    now: float
    namespace: str
    model: str
    versions: tuple[ModelVersion, ...] = ()
    rollouts: tuple[CanaryRollout, ...] = ()
    tests: tuple[ABTest, ...] = ()
    policies: tuple[BatchPolicy, ...] = ()
    stored: StoredTable | None = None
    last_table: RoutingTable | None = None
    pods: tuple[Pod, ...] = ()
    reading: Reading | Unreadable | None = None
    live: Mapping[int, LiveMetrics] | None = None
    before: Before | None = None
    answers: Mapping[tuple[str, str], Answer] = field(default_factory=dict)
    busy: Owner | None = None
    detailed: bool = True
    last_look: float | None = None
    scrape_interval: float = 15.0
    by_version: dict[int, ModelVersion] = field(init=False)

    def __post_init__(self) -> None:
        """Index the versions; of two objects for one version the oldest counts."""
        ordered = sorted(self.versions, key=lambda one: one.metadata.age_order, reverse=True)
        object.__setattr__(self, "by_version", {one.spec.version: one for one in ordered})

    @property
    def table(self) -> RoutingTable | None:
        """The table in force."""
        return self.stored.table if self.stored else None

    @property
    def asked(self) -> tuple[Pod, ...]:
        """The pods whose acknowledgement counts."""
        return tuple(pod for pod in self.pods if pod.asked)

    def acknowledges(self, pod: Pod, revision: int) -> bool:
        """Whether a pod applies this revision, or a later one, of the table in force."""
        return (
            self.stored is not None
            and pod.ack is not None
            and pod.ack.table_uid == self.stored.uid
            and pod.ack.revision >= revision
        )
