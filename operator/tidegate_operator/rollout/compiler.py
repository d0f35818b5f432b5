"""Compiles everything that was decided about a model into its one routing table."""

import math
from dataclasses import dataclass

import msgspec

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_contract.table import (
    Arm,
    Assignment,
    BatchSettings,
    Latch,
    LoadedVersion,
    Owner,
    RoutingTable,
    Share,
)
from tidegate_operator.api import canaryrollout
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.canary import compiled_metrics
from tidegate_operator.rollout.observation import Observation, Pod
from tidegate_operator.rollout.state import (
    Gating,
    Promoting,
    RollingBack,
    Started,
    State,
    Stepping,
)

_AT_ONCE = 0.25
"""Share of the pods that may load a new version at the same time."""


@dataclass(frozen=True, slots=True)
class Decided:
    """The owner of the model and the state it is in."""

    rollout: CanaryRollout
    state: State


def compile_table(
    seen: Observation, baseline: Baseline, owner: Decided | None, policy: BatchPolicy | None
) -> RoutingTable | None:
    """The table that should be in force; None where it is in force already, or where there is
    no baseline to write down.
    """
    if not baseline.shares:
        return None
    before = seen.table or seen.last_table
    started = owner.state if owner and isinstance(owner.state, Started) else None
    if isinstance(started, Promoting):
        assert owner is not None
        baseline = baseline.promoted(owner.rollout.spec.canary_version)
    latch = _latch(owner, before)
    split = _split(baseline, owner, latch)
    table = RoutingTable(
        namespace=seen.namespace,
        model=seen.model,
        revision=0,
        split_revision=0,
        owner=_owner(owner) if started else None,
        latch=latch,
        split=split,
        assignment=_assignment(owner) if started else None,
        versions=_versions(seen, baseline, split, before),
        checks=[b.check for m in compiled_metrics(owner.rollout) for b in m.bounds]
        if started and owner
        else [],
        batch=policy.spec.settings if policy else BatchSettings(),
        baseline=[Share(version=v, weight=w) for v, w in sorted(baseline.shares.items())],
        claims=dict(baseline.claims),
    )
    return _numbered(table, seen, before)


def _numbered(
    table: RoutingTable, seen: Observation, before: RoutingTable | None
) -> RoutingTable | None:
    """The table with its revision: above the last one and above every acknowledged one."""
    highest = max((pod.ack.revision for pod in seen.pods if pod.ack), default=0)
    if before is not None:
        same = msgspec.structs.replace(
            table, revision=before.revision, split_revision=before.split_revision
        )
        in_force = seen.table is not None and not (seen.stored and seen.stored.problem)
        if in_force and not _refused(seen, before) and same == before:
            return None
        highest = max(highest, before.revision)
    revision = highest + 1
    kept = (
        before is not None
        and seen.stored is not None
        and (before.split, before.assignment) == (table.split, table.assignment)
    )
    return msgspec.structs.replace(
        table,
        revision=revision,
        split_revision=before.split_revision if kept and before else revision,
    )


def _refused(seen: Observation, table: RoutingTable) -> bool:
    """Whether a pod applies a lost table of no lower revision, and so refuses this one."""
    assert seen.stored is not None
    for ack in (pod.ack for pod in seen.pods if pod.ack):
        other = ack.refused is not None or ack.table_uid != seen.stored.uid
        if ack.revision > table.revision or (ack.revision == table.revision and other):
            return True
    return False


def _split(baseline: Baseline, owner: Decided | None, latch: Latch | None) -> list[Arm]:
    match owner:
        case Decided(rollout=rollout, state=Stepping(run=run)) if not (
            latch and latch.uid == rollout.metadata.uid
        ):
            weight = run.percent * 100
            return [
                Arm(name=ARM_STABLE, version=run.stable, weight=10_000 - weight),
                Arm(name=ARM_CANARY, version=rollout.spec.canary_version, weight=weight),
            ]
        case _:
            return [
                Arm(name=ARM_STABLE, version=version, weight=weight)
                for version, weight in sorted(baseline.shares.items())
            ]


def _latch(owner: Decided | None, before: RoutingTable | None) -> Latch | None:
    """A rollback's latch is set with it and stays until another rollout takes over."""
    old = before.latch if before else None
    if owner is None:
        return old
    uid = owner.rollout.metadata.uid
    if isinstance(owner.state, RollingBack) and not (old and old.uid == uid):
        return Latch(uid=uid, reason=owner.state.message)
    return old if old and old.uid == uid else None


def _owner(owner: Decided | None) -> Owner | None:
    if owner is None:
        return None
    meta = owner.rollout.metadata
    return Owner(kind=canaryrollout.KIND, name=meta.name, uid=meta.uid)


def _assignment(owner: Decided | None) -> Assignment | None:
    if owner is None or owner.rollout.spec.assignment is None:
        return None
    if not isinstance(owner.state, Gating | Stepping):
        return None
    return Assignment(header=owner.rollout.spec.assignment.header, salt=owner.rollout.metadata.uid)


def _versions(
    seen: Observation, baseline: Baseline, split: list[Arm], before: RoutingTable | None
) -> list[LoadedVersion]:
    needed = {*baseline.shares, *(arm.version for arm in split)}
    declared = {v for v, one in seen.by_version.items() if one.spec.lifecycle != "Inactive"}
    rows = {row.version: row for row in before.versions} if before else {}
    return [
        LoadedVersion(
            version=version,
            pods=None if version in needed else _turns(version, seen.pods, rows.get(version)),
        )
        for version in sorted(needed | declared)
    ]


def _turns(version: int, pods: tuple[Pod, ...], row: LoadedVersion | None) -> list[str] | None:
    """The pods that may load a version now: those that have it, and a few more at a time; none
    further once it failed in one. None (all) once every pod has it, for good.

    A pod that became unready keeps its turn: the version may be what broke it, and passing the
    turn on would break the pods one after the other.
    """
    if row is not None and row.pods is None:
        return None
    pods = tuple(pod for pod in pods if not pod.terminating)
    have = {pod.uid for pod in pods if pod.has(version)}
    if pods and len(have) == len(pods):
        return None
    known = {pod.uid for pod in pods}
    turn = set(row.pods or []) & known if row else set()
    states = [pod.version(version) for pod in pods]
    if not any(state is not None and state.state == "Failed" for state in states):
        room = max(1, math.floor(_AT_ONCE * len(pods))) - len(turn - have)
        waiting = [pod.uid for pod in pods if pod.ready and pod.uid not in turn | have]
        turn |= set(waiting[: max(0, room)])
    return sorted(turn | have)
