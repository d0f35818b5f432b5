"""The objects as the command reads them: what it shows, with a default for all that may be missing.

A status may be an older or a newer operator's: a field that is not known here is left alone, one
whose form is still open is taken as it is.
"""

from typing import Final, TypeVar

import msgspec

from tidegate_cli.cluster import ROLLOUT, Raw

FINISHED: Final = frozenset({"Succeeded", "RolledBack", "Failed", "Finished", "Stopped"})
WELL_ENDED: Final = frozenset({"Succeeded", "Finished"})

T = TypeVar("T", bound="View")


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what is read from the API server."""


class Metadata(View, frozen=True, kw_only=True):
    """The part of ``metadata`` that is shown or needed."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 1
    creation_timestamp: str = "1970-01-01T00:00:00Z"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Condition(View, frozen=True, kw_only=True):
    """A Kubernetes condition."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Pods(View, frozen=True, kw_only=True):
    """How many pods have a version ready."""

    ready: int = 0
    total: int = 0


class VersionSpec(View, frozen=True, kw_only=True):
    """What a ModelVersion asks for. ``pod_selector``: as written, None for the default."""

    model: str
    version: int
    lifecycle: str = "Testing"
    traffic_percent: int | None = None
    pod_selector: Raw | None = None


class VersionStatus(View, frozen=True, kw_only=True):
    """What is so. ``display``: figures of the last five minutes, as columns show them.
    ``undeclared``: on one version of a model, those that Triton has besides.
    """

    phase: str = ""
    lifecycle: str = ""
    traffic_percent: int = 0
    pods: Pods = Pods()
    display: dict[str, str] = {}
    undeclared: list[int] = []
    message: str = ""
    conditions: list[Condition] = []


class ModelVersion(View, frozen=True, kw_only=True):
    """A version of a model."""

    metadata: Metadata
    spec: VersionSpec
    status: VersionStatus = VersionStatus()
    raw: Raw = {}

    def condition(self, type_: str) -> Condition | None:
        """A condition, where the operator has set it."""
        return next((one for one in self.status.conditions if one.type == type_), None)


class TrialSpec(View, frozen=True, kw_only=True):
    """What a rollout (stable, canary) or a test (control, treatment) is between."""

    model: str
    stable_version: int | None = None
    canary_version: int | None = None
    control_version: int | None = None
    treatment_version: int | None = None
    suspend: bool = False
    mirror_percent: int = 0
    analysis: Raw = {}
    success_metrics: list[Raw] = []
    guardrails: list[Raw] = []

    @property
    def valued(self) -> frozenset[str]:
        """The metrics whose figures are values, where all others are shares."""
        own = [one for one in self.analysis.get("metrics") or [] if "prometheus" in one]
        rated = [
            one for one in self.success_metrics if one.get("feedback", {}).get("kind") == "Value"
        ]
        return frozenset(str(one["name"]) for one in (*own, *rated))

    @property
    def guarded(self) -> frozenset[str]:
        """The metrics of a test whose interval is of the ratio, not of the difference."""
        return frozenset(str(one["name"]) for one in self.guardrails)


class Step(View, frozen=True, kw_only=True):
    """A step of the plan; the last one has no duration."""

    percent: int
    duration: str | None = None
    gate: str | None = None


class Metric(View, frozen=True, kw_only=True):
    """One metric as it was last judged. Rates are shares or, for a user's own query, its value."""

    name: str
    verdict: str = ""
    stable: float | None = None
    canary: float | None = None
    control: float | None = None
    treatment: float | None = None
    ratio: float | None = None
    lift: float | None = None
    interval: list[float] | None = None
    evidence: float | None = None
    threshold: float | None = None
    p: float | None = None
    dry_run: bool = False
    reason: str = ""


class Change(View, frozen=True, kw_only=True):
    """A line of the history."""

    time: str
    from_: str = msgspec.field(name="from", default="")
    to: str = ""
    weight: int = 0
    reason: str = ""


class Revision(View, frozen=True, kw_only=True):
    """The table's revision that a weight needs, and who applies it."""

    wanted: int = 0
    acknowledged_pods: int = 0
    total_pods: int = 0


class TrialStatus(View, frozen=True, kw_only=True):
    """What is so. ``last_verb``: the annotation that was acted on, such as ``promote=step@2``."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    verdict: str = ""
    plan: list[Step] = []
    current_step: int = 0
    total_steps: int = 0
    weight: int = 0
    stable_version: int | None = None
    step_elapsed: float = 0.0
    clock_running_since: str | None = None
    revision: Revision = Revision()
    step_requests: dict[str, int] = {}
    samples: dict[str, int] = {}
    estimated_end: str | None = None
    metrics: list[Metric] = []
    history: list[Change] = []
    last_verb: str | None = None
    observed_generation: int = -1


class Trial(View, frozen=True, kw_only=True):
    """A CanaryRollout or an ABTest: what may own a model's traffic for a time."""

    kind: str
    metadata: Metadata
    spec: TrialSpec
    status: TrialStatus = TrialStatus()
    raw: Raw = {}

    @property
    def finished(self) -> bool:
        """Whether it is over, well or not."""
        return self.status.phase in FINISHED

    @property
    def short(self) -> str:
        """As kubectl takes it: ``cro/NAME`` or ``abt/NAME``."""
        return f"{'cro' if self.kind == ROLLOUT else 'abt'}/{self.metadata.name}"


def read(raw: Raw, type_: type[T]) -> T:
    """An object as one of the types above.

    Raises:
        msgspec.ValidationError: a field that is needed is missing or of another type.
    """
    return msgspec.convert({**raw, "raw": raw}, type_, strict=False)
