"""A ModelVersion's status: where it is loaded, what traffic it has, whether that is as asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tidegate_contract.acknowledgement import VersionState
from tidegate_contract.names import ARM_STABLE
from tidegate_contract.table import RoutingTable
from tidegate_operator.api.meta import Condition, condition
from tidegate_operator.api.modelversion import Metrics, ModelVersion, Pods, Status
from tidegate_operator.api.quantity import duration
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.gate import differences, no_ready_pods
from tidegate_operator.rollout.idle import Idle
from tidegate_operator.rollout.observation import LiveMetrics, Observation

LOAD_FAILED = "LoadFailed"
"""Reason of the condition Loaded where a pod cannot load the version."""
STILL_NAMED = "StillNamed"
"""Reason of the condition Loaded where requests that name the version are all that keeps it."""
_LASTING: Final = ("phase", "lifecycle", "inputs", "outputs", "undeclared", "observedGeneration")
STILL_SERVES = "InactiveServes"
"""Reason of the condition SpecBehind where a version that is to be unloaded has traffic."""
DEPRECATED = "Deprecated: serves what it has and takes no new rollout; move off it"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The version in the pods that are Ready: ``states`` by pod name, None where it is not."""

    states: Mapping[str, VersionState | None]

    @property
    def ready(self) -> int:
        """Pods that have it ready."""
        return sum(one is not None and one.state == "Ready" for one in self.states.values())

    @property
    def failed(self) -> tuple[str, str] | None:
        """A pod that cannot load it, and why."""
        for pod, one in self.states.items():
            if one is not None and one.state == "Failed":
                return pod, one.error or "no reason given"
        return None

    @property
    def waiting(self) -> str:
        """What a pod waits for before it loads the version; empty where none does."""
        for pod, one in self.states.items():
            if one is not None and one.state == "Loading" and one.error:
                return f"pod {pod}: {one.error}"
        return ""


def selector_problem(versions: Sequence[ModelVersion]) -> str | None:
    """All versions of a model must select the same pods; else nothing may change."""
    selectors = {str(one.spec.selector) for one in versions}
    if len(selectors) <= 1:
        return None
    listed = "; ".join(
        f"{one.metadata.name}: {one.spec.selector}"
        for one in sorted(versions, key=lambda one: one.spec.version)
    )
    return f"all versions of a model must select the same pods ({listed}); nothing changes"


def tell(
    one: ModelVersion,
    seen: Observation,
    baseline: Baseline,
    table: RoutingTable | None,
    idle: Idle,
) -> Status:
    """The whole status of a ModelVersion. ``table``: the one that is in force from now on.
    ``idle``: the model's versions that nobody needs.
    """
    version = one.spec.version
    loaded = Loaded({pod.name: pod.version(version) for pod in seen.asked})
    weight = sum(arm.weight for arm in table.split if arm.version == version) if table else 0
    share = baseline.shares.get(version, 0)
    kept = one.spec.lifecycle == "Deprecated" or not share
    lifecycle = one.spec.lifecycle if kept else "Active"
    phase, message = _phase(one, seen, loaded, lifecycle, weight, idle)
    mismatch = selector_problem(seen.versions)
    behind = _behind(one, baseline)
    if mismatch:
        message = f"SelectorMismatch: {mismatch}"
    elif phase == "Ready" and behind[0] == STILL_SERVES:
        message = behind[1]
    signature = next((s for s in loaded.states.values() if s and s.state == "Ready"), None)
    metrics = _metrics(one.status.metrics, seen.live, version)
    return Status(
        phase=phase,
        lifecycle=lifecycle,
        traffic_percent=weight // 100,
        pod_selector=one.selector if _keeps_pods(one, table) else None,
        pods=Pods(ready=loaded.ready, total=len(seen.pods)),
        inputs=signature.inputs if signature else one.status.inputs,
        outputs=signature.outputs if signature else one.status.outputs,
        metrics=metrics,
        undeclared=_undeclared(seen) if _tells(one, seen) else [],
        message=message,
        display={
            "traffic": f"{weight / 100:g}%",
            "pods": f"{loaded.ready}/{len(seen.pods)}",
            **_shown(metrics),
        },
        conditions=_conditions(
            one, seen, baseline, loaded, behind, phase, message, _named(one, idle, metrics)
        ),
        observed_generation=one.metadata.generation,
    )


def _keeps_pods(one: ModelVersion, table: RoutingTable | None) -> bool:
    """Whether an edited selector waits: from when a rollout or a test has some of the traffic, or
    copies of it, until nobody owns the model. The pods that it is judged by stay the same.
    """
    if table is None or table.owner is None:
        return False
    arms = {arm.name for arm in table.split}
    return one.status.pod_selector is not None or table.mirror is not None or arms != {ARM_STABLE}


def _metrics(
    old: Metrics | None, known: Mapping[int, LiveMetrics] | None, version: int
) -> Metrics | None:
    """The live figures; those that were written stay until one of them has moved by a quarter, as
    a write for every breath would cost the API server more than it tells. Where it is not known
    any more how a version does, there are none.
    """
    if known is None:
        return old
    live = known.get(version)
    if live is None:
        return None
    new = Metrics(
        requests_per_second=_rounded(live.requests_per_second) or 0.0,
        error_rate=_rounded(live.error_rate),
        p50=_rounded(live.p50),
        p95=_rounded(live.p95),
        p99=_rounded(live.p99),
    )
    if old is None:
        return new
    pairs = zip(msgspec.structs.astuple(old), msgspec.structs.astuple(new), strict=True)
    return new if any(_moved(a, b) for a, b in pairs) else old


def _moved(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(new - old) > 0.25 * max(old, new)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def _shown(metrics: Metrics | None) -> dict[str, str]:
    if metrics is None:
        return {}
    shown = {"requests": f"{metrics.requests_per_second:g}/s"}
    if metrics.error_rate is not None:
        shown["errors"] = f"{metrics.error_rate:.2%}"
    if metrics.p95 is not None:
        shown["p95"] = duration(metrics.p95)
    return shown


def _tells(one: ModelVersion, seen: Observation) -> bool:
    """Whether this object tells of versions that none names: the oldest, as long as it is there."""
    return one == min(seen.versions, key=lambda other: other.metadata.age_order)


def passing(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two written statuses differ only in what follows a rollout: the share of the traffic,
    figures, and how many pods have the version. So do none and the first one of a version that is
    being loaded, if there is nothing else to say.
    """
    if not before.get("phase") and after["phase"] == "Loading":
        wrong = {one["type"] for one in after["conditions"] if one["status"] == "False"}
        return not (wrong & {"TrafficSplitValid", "SelectorMatches"} or after["undeclared"])
    return _lasting(before) == _lasting(after)


def _lasting(status: dict[str, Any]) -> list[Any]:
    conditions = status.get("conditions", [])
    said = [(one["type"], one["status"], one["reason"]) for one in conditions]
    return [said, *(status.get(key) for key in _LASTING)]


def _undeclared(seen: Observation) -> list[int]:
    found = {version for pod in seen.asked if pod.ack for version in pod.ack.undeclared}
    return sorted(found - set(seen.by_version))


def _phase(
    one: ModelVersion,
    seen: Observation,
    loaded: Loaded,
    lifecycle: str,
    weight: int,
    idle: Idle,
) -> tuple[str, str]:
    version, model = one.spec.version, one.spec.model
    if lifecycle == "Inactive" or version in idle.unloaded:
        if any(loaded.states.values()):
            return "Loading", f"Unloading version {version}"
        inactive = f"Version {version} is Inactive: unloaded; set lifecycle to load it"
        return "Unloaded", idle.unloaded.get(version, inactive)
    if seen.table is None and baseline_missing(seen):
        return "Pending", (
            f"No version of {model} has the traffic yet: set lifecycle Active and trafficPercent "
            "on the versions that should have it, 100 in all"
        )
    if not seen.asked:
        return "Pending", no_ready_pods(seen)
    if loaded.failed:
        pod, error = loaded.failed
        phase = "Degraded" if loaded.ready else "Failed"
        return phase, f"Pod {pod} cannot load version {version}: {error}; it tries again"
    if loaded.ready == len(seen.pods):
        return "Ready", _serving(lifecycle, weight)
    rows = seen.table.versions if seen.table else []
    everywhere = any(row.version == version and row.pods is None for row in rows)
    loading = any(one and one.state == "Loading" for one in loaded.states.values())
    if loaded.ready and everywhere and not loading:
        return "Degraded", f"{loaded.ready} of {len(seen.pods)} pods have version {version} ready"
    waiting = f"; {loaded.waiting}" if loaded.waiting else ""
    ready = f"{loaded.ready} of {len(seen.pods)} pods have version {version} ready"
    return "Loading", ready + waiting


def baseline_missing(seen: Observation) -> bool:
    """Whether no version has the traffic, so that there is no table to load by."""
    return not any(one.spec.lifecycle == "Active" for one in seen.versions)


def _serving(lifecycle: str, weight: int) -> str:
    match lifecycle:
        case "Active" | "Deprecated" if not weight:
            return "Loaded; has no share of the traffic, reachable by its number only"
        case "Testing" if not weight:
            return "Loaded; reachable by its number only"
        case "Deprecated":
            return DEPRECATED
        case _:
            return "Serving"


def _conditions(
    one: ModelVersion,
    seen: Observation,
    baseline: Baseline,
    loaded: Loaded,
    behind: tuple[str, str],
    phase: str,
    message: str,
    named: str,
) -> list[Condition]:
    good = phase in {"Ready", "Unloaded"}
    mismatch = selector_problem(seen.versions)
    report = _incompatibility(one, seen, baseline)
    matches = bool(seen.pods)
    rows: list[tuple[str, bool | None, str, str]] = [
        ("Ready", good and not mismatch, phase, message),
        ("Reconciling", phase in {"Loading", "Pending"}, phase, message),
        ("Stalled", phase == "Failed", phase, message),
        ("Loaded", loaded.ready > 0, *_loaded(loaded, phase, message, named)),
        ("Compatible", report if report is None else not report[0], *_because(report)),
        (
            "TrafficSplitValid",
            baseline.problem is None,
            "Valid" if baseline.problem is None else "SplitDoesNotAddUp",
            baseline.problem or "",
        ),
        ("SelectorMatches", matches and not mismatch, *_matching(one, seen, mismatch)),
        ("SpecBehind", bool(behind[1]), *behind),
    ]
    return [
        condition(
            one.status.conditions,
            type_,
            word,
            reason,
            text,
            now=seen.now,
            generation=one.metadata.generation,
        )
        for type_, word, reason, text in rows
    ]


def _matching(one: ModelVersion, seen: Observation, mismatch: str | None) -> tuple[str, str]:
    """Reason and message of the condition SelectorMatches."""
    if mismatch:
        return "SelectorMismatch", mismatch
    if not seen.pods:
        return "NoPods", no_ready_pods(seen)
    if one.selector != one.spec.selector:
        return "EditWaits", (
            f"the traffic is split in the pods of {one.selector} until nobody owns the model any "
            "more; then the edited podSelector counts"
        )
    return "Matches", ""


def _loaded(loaded: Loaded, phase: str, message: str, named: str) -> tuple[str, str]:
    """Reason and message of the condition Loaded."""
    if loaded.failed:
        return LOAD_FAILED, message
    return (STILL_NAMED, named) if named else (phase, message)


def _named(one: ModelVersion, idle: Idle, metrics: Metrics | None) -> str:
    """That only requests which name the version themselves keep it loaded; empty otherwise. It has
    no other requests: their rate is its own.
    """
    left_by = idle.named.get(one.spec.version)
    if left_by is None:
        return ""
    rate = "" if metrics is None else f", {metrics.requests_per_second:g} a second"
    return (
        f"Not unloaded: requests name version {one.spec.version} themselves{rate}; unloaded "
        f"{left_by.spec.unload_delay} after the last of them"
    )


def _because(report: tuple[str] | None) -> tuple[str, str]:
    if report is None:
        return "NotCompared", "compared once both are loaded in one pod"
    return ("Incompatible", report[0]) if report[0] else ("SameTensors", "")


def _incompatibility(one: ModelVersion, seen: Observation, baseline: Baseline) -> tuple[str] | None:
    """The differences to the version that has the traffic; None where they cannot be known."""
    leading = baseline.leading
    for pod in seen.asked:
        stable = pod.version(leading) if leading is not None else None
        mine = pod.version(one.spec.version)
        if stable and mine and stable.state == mine.state == "Ready":
            return (differences(stable, mine),)
    return None


def _behind(one: ModelVersion, baseline: Baseline) -> tuple[str, str]:
    """Reason and message of the condition SpecBehind; no message where the live baseline is what
    the spec says.
    """
    live = baseline.shares.get(one.spec.version, 0) / 100
    asked = baseline.claims.get(one.spec.version, 0)
    if live and one.spec.lifecycle == "Inactive" and baseline.problem is None:
        return STILL_SERVES, (
            f"Inactive, but it has {live:g}% of the traffic: it stays loaded and serves on until "
            "other versions ask for that"
        )
    if live == asked:
        return "AsAsked", ""
    return "LiveDiffers", (
        f"live {live:g}%, spec {asked}%: a rollout moved it; the live split holds until "
        "trafficPercent or lifecycle is edited"
    )
