"""Before any weight: may this rollout start, is its canary loaded everywhere, does it fit?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

import msgspec

from tidegate_contract.acknowledgement import Tensor, VersionState
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint, Spec
from tidegate_operator.api.quantity import duration, epoch, seconds
from tidegate_operator.evidence import ratio
from tidegate_operator.evidence.histogram import quantile
from tidegate_operator.rollout import steps
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.observation import Before, Observation, Pod
from tidegate_operator.rollout.state import (
    AWAITING,
    OVERDUE,
    Finished,
    Gating,
    Pending,
    Promoting,
    Run,
    State,
    Stepping,
    Waiting,
)

Push = Literal["step", "full"]
"""A person's word: go on to the next step, or to the end."""

FAST_RETURN: Final = "FastReturn"
"""Reason of a promotion without steps, to a version that was stable a while ago."""
_READY: Final = frozenset({"NoData", "StableUnhealthy"})
"""Reasons to wait for something other than the canary, which is ready."""


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
    if spec.suspend:
        return Waiting(
            reason="Suspended", message="Suspended by spec.suspend; starts when it is false"
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


def advance(
    rollout: CanaryRollout, state: Gating, seen: Observation, push: Push | None = None
) -> State:
    """One look at a rollout that has no weight yet. ``push``: a person's word."""
    spec = rollout.spec
    if spec.suspend:
        return Waiting(
            reason="Suspended", message="Suspended by spec.suspend; starts anew when it is false"
        )
    run = replace(_resumed(state, seen.now), plan=tuple(steps.resolve(spec)))
    obstructed = _ineligible(rollout, seen) or trouble(run.stable, spec.canary_version, seen)
    if obstructed is None:
        found = _misfit(rollout, run, seen) or _open(rollout, run, seen, push)
    else:
        found = _obstructed(rollout, state, run, seen.now, obstructed)
    if isinstance(found, Finished):
        return found
    if push is None and (late := _overdue(rollout, state, run, seen.now)):
        return late
    if _still_awaits(state, found):
        return replace(state, message=_awaited(state.run, push))
    if state.reason == OVERDUE and push and isinstance(found, Gating):
        return state  # the word is heard once there is something to go on with
    return found


def _misfit(rollout: CanaryRollout, run: Run, seen: Observation) -> Finished | None:
    """The end of a rollout whose canary takes or gives other tensors than stable."""
    version = rollout.spec.canary_version
    different = report(run.stable, version, seen)
    if not different:
        return None
    return Finished(
        phase="Failed",
        reason="Incompatible",
        message=f"Version {version} does not fit version {run.stable}: {different}; no "
        "traffic was moved; compatibility: Ignore on its ModelVersion lets it through",
        run=run,
    )


def _obstructed(
    rollout: CanaryRollout, state: Gating, run: Run, now: float, why: tuple[str, str]
) -> Gating | Finished:
    """The canary is not ready everywhere. Where it was until now, and something else was waited
    for, it has the whole ``gatingDeadline`` once more.
    """
    if state.reason in _READY:
        run = _counted(run, now)
    reason, message = why
    deadline = seconds(rollout.spec.gating_deadline)
    if now < run.evidence.gating_since + deadline:
        return Gating(run=run, reason=reason, message=message)
    return Finished(
        phase="Failed",
        reason="GatingDeadlineExceeded",
        message=f"Not ready within {duration(deadline)}, no traffic was moved: {message}",
        run=run,
    )


def _overdue(
    rollout: CanaryRollout, state: Gating, run: Run, now: float
) -> Finished | Gating | None:
    """What is done about a rollout that used up its time before it had any weight."""
    deadline = seconds(rollout.spec.progress_deadline)
    counted = _counted(run, now)
    if counted.evidence.progressed < deadline:
        return None
    spent = f"begun within progressDeadline ({duration(deadline)})"
    if rollout.spec.on_deadline == "Rollback":
        missing = state.message.partition("; ")[0]
        message = (
            f"Not {spent}, no traffic was moved: {missing}; retry this rollout or apply another"
        )
        return Finished(phase="Failed", reason=OVERDUE, message=message, run=run)
    if state.reason == OVERDUE:
        return state
    message = f"Holding before any traffic: not {spent}; promote, abort or set a longer one"
    return Gating(run=counted, reason=OVERDUE, message=message)


def _open(rollout: CanaryRollout, run: Run, seen: Observation, push: Push | None) -> State:
    """The canary is ready: what else must be known, or said, before it gets weight."""
    spec = rollout.spec
    if seen.table and seen.table.latch and seen.table.latch.uid == rollout.metadata.uid:
        return Gating(run=run, reason="Retrying", message="Lifting the latch of its last attempt")
    if push == "full" and not spec.shadow_only:
        return promoting(rollout, run, "Promoted", "a person said so")
    if not spec.shadow_only and (until := _was_stable(rollout, seen)):
        why = f"it was stable until {until}, which is within rollbackWindow"
        return promoting(rollout, run, FAST_RETURN, why)
    if seen.before is None:
        return Gating(
            run=run,
            reason="NoData",
            message="Ready; starts once Prometheus tells how stable does without it",
        )
    pinned = _pinned(spec, run.stable, seen.before)
    if unwell := _stable_unwell(spec, run.stable, pinned, seen.before):
        return Gating(run=run, reason="StableUnhealthy", message=unwell)
    run = _counted(run, seen.now)
    restarts = None if seen.before.restarts else 0
    known = msgspec.structs.replace(run.evidence, pinned=pinned, restarts=restarts)
    run = replace(run, evidence=known)
    if run.plan[0].gate == "Manual" and push is None:
        return Gating(run=run, reason=AWAITING, message=_awaited(run, push))
    return enter_step(run, 0, seen.now)


def _awaited(run: Run, push: Push | None) -> str:
    """What is waited for at the gate of the first step."""
    word = f"waits for a promotion to {run.plan[0].percent}%"
    return f"Ready; {word if push is None else 'promoted once Prometheus tells how stable does'}"


def _still_awaits(state: Gating, opened: State) -> bool:
    """Whether a person is still waited for to say the same: then its time is not counted anew. So
    it is while how stable does is asked for anew: who waits must hear the word that comes then.
    """
    return (
        isinstance(opened, Gating)
        and state.reason == AWAITING
        and opened.reason in {AWAITING, "NoData"}
        and opened.run.plan == state.run.plan
    )


def _resumed(state: Gating, now: float) -> Run:
    """The run with the time in the gate counted anew where a person was waited for until now."""
    if state.reason not in {AWAITING, OVERDUE}:
        return state.run
    evidence = msgspec.structs.replace(state.run.evidence, gating_since=now)
    return replace(state.run, evidence=evidence)


def _counted(run: Run, now: float) -> Run:
    """The run with its time in the gate counted towards the progress deadline."""
    old = run.evidence
    progressed = old.progressed + now - old.gating_since
    evidence = msgspec.structs.replace(old, progressed=progressed, gating_since=now)
    return replace(run, evidence=evidence)


def promoting(rollout: CanaryRollout, run: Run, reason: str, why: str) -> Promoting:
    """The decision to give the canary everything."""
    return Promoting(
        run=run,
        reason=reason,
        message=f"Promoting version {rollout.spec.canary_version}: {why}; waiting for the pods to "
        "apply it",
    )


def _was_stable(rollout: CanaryRollout, seen: Observation) -> str | None:
    """When the canary's version lost the traffic, if that was within the window in which going
    back needs no steps. Where it lost it by such a return, going there again is no way back.
    """
    window = seconds(rollout.spec.rollback_window)
    for other in seen.rollouts:
        status = other.status
        moved = status.phase == "Succeeded" and status.reason == "Promoted"
        if not moved or status.finished is None or other.metadata.uid == rollout.metadata.uid:
            continue
        recent = seen.now - epoch(status.finished.time) <= window
        if recent and status.stable_version == rollout.spec.canary_version:
            return status.finished.time
    return None


def _pinned(spec: Spec, stable: int, before: Before) -> dict[str, float]:
    """By latency metric, stable's quantile in seconds before the rollout, where it is known."""
    found = {}
    for metric in spec.metrics:
        if metric.latency is not None:
            value = quantile(before.latency.get(stable, ()), metric.latency.quantile)
            if value is not None:
                found[metric.name] = value
    return found


def _stable_unwell(
    spec: Spec, stable: int, pinned: Mapping[str, float], before: Before
) -> str | None:
    """Why stable itself breaks what the canary would be rolled back for."""
    for metric in spec.metrics:
        if metric.dry_run:
            continue
        if metric.error_rate is not None and metric.error_rate.rollback is not None:
            found = before.errors.get(stable, 0.0)
            if found > metric.error_rate.rollback:
                return (
                    f"Ready, but stable itself fails {found:.2%} of its requests, beyond rollback "
                    f"of {metric.name}; starts when it does not"
                )
        if metric.latency is not None and metric.latency.rollback is not None:
            took = pinned.get(metric.name, 0.0)
            if took > seconds(metric.latency.rollback):
                return (
                    f"Ready, but stable itself takes {duration(took)}, beyond rollback of "
                    f"{metric.name}; starts when it does not"
                )
    return None


def enter_step(run: Run, step: int, now: float) -> Stepping:
    """Give the canary the weight of a step; its evidence starts anew, what counts for harm over
    the whole rollout is kept.
    """
    old = run.evidence
    evidence = msgspec.structs.replace(
        old,
        step=step,
        step_since=now,
        live_since=None,
        elapsed=0.0,
        judged=None,
        passed=False,
        cursors={},
        warming={},
        watched={},
        ratios={id_: ratio.new_step(one) for id_, one in old.ratios.items()},
    )
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


def trouble(stable: int, version: int, seen: Observation) -> tuple[str, str] | None:
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
                    "again: mend the version's files, or delete this rollout"
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
    selector = next((one.selector for one in seen.versions), None)
    if not seen.pods:
        return f"No pod matches {selector}; deploy Triton with the sidecar, or mend podSelector"
    return f"None of the {len(seen.pods)} pods of {seen.model} is Ready; goes on when one is"


def _loading(version: int, lacking: list[Pod], total: int) -> str:
    have = f"{total - len(lacking)} of {total} pods have it" if total else "no pod has it yet"
    return f"Loading version {version} before it gets any traffic: {have}"


def report(stable: int, version: int, seen: Observation) -> str:
    """How a version's inputs and outputs differ from stable's; empty where they do not, or where
    its ModelVersion says that it does not matter.
    """
    if seen.by_version[version].spec.compatibility == "Ignore":
        return ""
    for pod in seen.asked:
        old, new = pod.version(stable), pod.version(version)
        if old is not None and new is not None and old.state == "Ready":
            found = differences(old, new)
            if found:
                return found
    return ""
