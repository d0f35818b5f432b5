"""Before any weight: may this rollout start, is its canary loaded everywhere, does it fit?"""

from tidegate_contract.acknowledgement import Tensor, VersionState
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint
from tidegate_operator.api.quantity import duration, seconds
from tidegate_operator.rollout import steps
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.observation import Observation, Pod
from tidegate_operator.rollout.state import (
    Finished,
    Gating,
    Pending,
    Run,
    State,
    Stepping,
    Waiting,
)


def obstacle(rollout: CanaryRollout, baseline: Baseline, seen: Observation) -> State | None:
    """What keeps a rollout that has not started from starting, other than its turn."""
    spec = rollout.spec
    ineligible = _ineligible(rollout, seen)
    if ineligible is not None:
        reason, message = ineligible
        return Pending(reason=reason, message=message)
    if not baseline.shares:
        return Pending(reason="NoBaseline", message=f"Nothing to roll out from: {baseline.problem}")
    if baseline.sole == spec.canary_version:
        return Finished(
            phase="Succeeded",
            reason="AlreadyPromoted",
            message=f"Version {spec.canary_version} has all the traffic already; nothing moved",
            run=None,
        )
    if baseline.sole is None or spec.stable_version not in {None, baseline.sole}:
        split = ", ".join(f"{v}: {w / 100:g}%" for v, w in sorted(baseline.shares.items()))
        wanted = f"version {spec.stable_version}" if spec.stable_version else "one version"
        return Waiting(
            reason="AmbiguousBaseline",
            message=f"Starts when {wanted} holds all the traffic; now {split}",
        )
    return None


def start(rollout: CanaryRollout, baseline: Baseline, now: float) -> Gating:
    """The first state of a rollout whose turn it is."""
    assert baseline.sole is not None
    run = Run(
        stable=baseline.sole,
        plan=tuple(steps.resolve(rollout.spec)),
        evidence=Checkpoint(gating_since=now),
    )
    return Gating(run=run, reason="Loading", message=_loading(rollout.spec.canary_version, [], 0))


def advance(rollout: CanaryRollout, state: Gating, seen: Observation) -> State:
    """One look at a rollout that has no weight yet."""
    spec, run = rollout.spec, state.run
    version = spec.canary_version
    trouble = _ineligible(rollout, seen) or _trouble(run.stable, version, seen)
    deadline = run.evidence.gating_since + seconds(spec.gating_deadline)
    if trouble is None:
        report = _differences(rollout, run, seen)
        if report:
            return Finished(
                phase="Failed",
                reason="Incompatible",
                message=f"Version {version} does not fit version {run.stable}: {report}; no "
                "traffic was moved. compatibility: Ignore on its ModelVersion lets it through",
                run=run,
            )
        return enter_step(run, 0, seen.now)
    reason, message = trouble
    if seen.now >= deadline:
        return Finished(
            phase="Failed",
            reason="GatingDeadlineExceeded",
            message=f"Not ready within {duration(seconds(spec.gating_deadline))}; no traffic was "
            f"moved. {message}",
            run=run,
        )
    return Gating(run=run, reason=reason, message=message)


def enter_step(run: Run, step: int, now: float) -> Stepping:
    """Give the canary the weight of a step; its evidence starts anew, what counts for harm over
    the whole rollout is kept.
    """
    old = run.evidence
    evidence = Checkpoint(gating_since=old.gating_since, step=step, step_since=now, harm=old.harm)
    moved = Run(
        stable=run.stable,
        plan=run.plan,
        evidence=evidence,
        metrics=run.metrics,
        verdict=run.verdict,
    )
    return Stepping(
        run=moved,
        reason="AwaitingAcknowledgement",
        message=f"At {moved.percent}% (step {step + 1}/{len(run.plan)}): waiting for the pods to "
        "apply the weight",
    )


def differences(stable: VersionState, canary: VersionState) -> str:
    """How the inputs and outputs of two versions differ, for people; empty where they do not."""
    found = [
        *_tensor_differences("input", stable.inputs, canary.inputs),
        *_tensor_differences("output", stable.outputs, canary.outputs),
    ]
    return "; ".join(found)


def _tensor_differences(what: str, stable: list[Tensor], canary: list[Tensor]) -> list[str]:
    old = {one.name: one for one in stable}
    new = {one.name: one for one in canary}
    found = [f"{what} {name} is missing" for name in old if name not in new]
    found += [f"{what} {name} is new" for name in new if name not in old]
    for name, tensor in new.items():
        if name in old and old[name] != tensor:
            found.append(f"{what} {name} is {_shown(tensor)}, not {_shown(old[name])}")
    return found


def _shown(tensor: Tensor) -> str:
    return f"{tensor.datatype}{tensor.shape}".replace(" ", "")


def _ineligible(rollout: CanaryRollout, seen: Observation) -> tuple[str, str] | None:
    """What the ModelVersions say against this rollout: reason and message."""
    spec = rollout.spec
    for version in (spec.canary_version, spec.stable_version):
        if version is not None and version not in seen.by_version:
            message = f"No ModelVersion declares version {version} of {spec.model}; apply one"
            return "VersionNotDeclared", message
    lifecycle = seen.by_version[spec.canary_version].spec.lifecycle
    if lifecycle in {"Inactive", "Deprecated"}:
        return "VersionNotEligible", (
            f"Version {spec.canary_version} is {lifecycle}; set its lifecycle to Testing or Active "
            "to roll it out"
        )
    return None


def _trouble(stable: int, version: int, seen: Observation) -> tuple[str, str] | None:
    """Why the canary is not ready everywhere, or cannot be compared; None where it can."""
    if not seen.asked:
        return "NoReadyPods", no_ready_pods(seen)
    for pod in seen.asked:
        state = pod.version(version)
        if state is not None and state.state == "Failed":
            return (
                "VersionLoadFailed",
                (
                    f"Pod {pod.name} cannot load version {version}: {state.error}; it tries "
                    "again. Mend the version's files, or delete this rollout"
                ),
            )
    lacking = [pod for pod in seen.asked if not pod.has(version)]
    if lacking:
        return "Loading", _loading(version, lacking, len(seen.asked))
    if not any(pod.has(stable) for pod in seen.asked):
        return "Loading", f"Waiting for version {stable}, which version {version} is compared to"
    return None


def no_ready_pods(seen: Observation) -> str:
    """The sentence about pods that are not there, or not ready."""
    selector = next((one.spec.selector for one in seen.versions), None)
    if not seen.pods:
        return f"No pod matches {selector}; deploy Triton with the sidecar, or mend podSelector"
    return f"None of the {len(seen.pods)} pods of {seen.model} is Ready; goes on when one is"


def _loading(version: int, lacking: list[Pod], total: int) -> str:
    have = f"{total - len(lacking)} of {total} pods have it" if total else "no pod has it yet"
    return f"Loading version {version} before it gets any traffic: {have}"


def _differences(rollout: CanaryRollout, run: Run, seen: Observation) -> str:
    version = rollout.spec.canary_version
    if seen.by_version[version].spec.compatibility == "Ignore":
        return ""
    for pod in seen.asked:
        stable, canary = pod.version(run.stable), pod.version(version)
        if stable is not None and canary is not None and stable.state == "Ready":
            report = differences(stable, canary)
            if report:
                return report
    return ""
