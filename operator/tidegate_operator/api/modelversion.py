"""ModelVersion: a version of a model that pods should have, and its part in the baseline."""

from typing import Literal

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.names import LABEL_MODEL
from tidegate_operator.api.meta import Condition, Metadata, Stored, Wire

KIND = "ModelVersion"
PLURAL = "modelversions"

Lifecycle = Literal["Testing", "Active", "Inactive", "Deprecated"]


class Requirement(Wire, frozen=True, kw_only=True):
    """One of a selector's ``matchExpressions``."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []

    def matches(self, labels: dict[str, str]) -> bool:
        """As Kubernetes does it: NotIn and DoesNotExist hold where the label is missing."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None


class Selector(Wire, frozen=True, kw_only=True):
    """A label selector."""

    match_labels: dict[str, str] = {}
    match_expressions: list[Requirement] = []

    def matches(self, labels: dict[str, str]) -> bool:
        """True where all labels and all expressions hold."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            one.matches(labels) for one in self.match_expressions
        )

    def __str__(self) -> str:
        pairs = [f"{key}={value}" for key, value in sorted(self.match_labels.items())]
        return ",".join(pairs + [f"{one.key} {one.operator}" for one in self.match_expressions])


class Spec(Wire, frozen=True, kw_only=True):
    """What the user asks for."""

    model: str
    version: int
    lifecycle: Lifecycle = "Testing"
    traffic_percent: int | None = None
    pod_selector: Selector | None = None
    compatibility: Literal["Strict", "Ignore"] = "Strict"
    metadata: dict[str, str] = {}

    @property
    def selector(self) -> Selector:
        """The pods that serve this version; by default those labelled with the model's name."""
        return self.pod_selector or Selector(match_labels={LABEL_MODEL: self.model})


class Pods(Wire, frozen=True, kw_only=True):
    """How many of the selected pods have the version ready."""

    ready: int
    total: int


class Metrics(Wire, frozen=True, kw_only=True):
    """The last five minutes: requests in a second, share of server errors, quantiles of the latency
    in seconds.
    """

    requests_per_second: float
    error_rate: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Status(Wire, frozen=True, kw_only=True):
    """What is so. ``pod_selector``: of the pods that a rollout or a test splits the traffic in;
    None while none does. ``undeclared``: versions that Triton has and no object names, told by the
    oldest object of the model.
    """

    phase: str = ""
    lifecycle: str = ""
    traffic_percent: int = 0
    pod_selector: Selector | None = None
    pods: Pods = Pods(ready=0, total=0)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    metrics: Metrics | None = None
    undeclared: list[int] = []
    message: str = ""
    display: dict[str, str] = {}
    conditions: list[Condition] = []
    observed_generation: int = -1


class ModelVersion(Stored, frozen=True, kw_only=True):
    """The object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()

    @property
    def selector(self) -> Selector:
        """The pods that serve this version now: an edited selector waits while a rollout or a test
        splits the traffic.
        """
        return self.status.pod_selector or self.spec.selector
