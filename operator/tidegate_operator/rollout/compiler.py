"""Compiles everything that was decided about a model into its one routing table."""

import math
from collections.abc import Collection

import msgspec

from tidegate_contract.names import ARM_STABLE
from tidegate_contract.table import (
    Arm,
    BatchSettings,
    Latch,
    LoadedVersion,
    RoutingTable,
    Share,
)
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.contribution import Contribution
from tidegate_operator.rollout.observation import Observation, Pod

_AT_ONCE = 0.25
"""Share of the pods that may load a new version at the same time."""


def compile_table(
    seen: Observation,
    baseline: Baseline,
    owner: Contribution | None,
    policy: BatchPolicy | None,
    idle: Collection[int] = (),
) -> RoutingTable | None:
    """The table that should be in force; None where it is in force already, or where there is
    no baseline to write down. ``idle``: versions that nobody needs loaded any more.
    """
    if not baseline.shares:
        return None
    before = seen.table or seen.last_table
    mine = owner or Contribution(owner=None, uid="")
    if mine.promotes is not None:
        baseline = baseline.promoted(mine.promotes)
    latch = _latch(mine, before)
    barred = latch is not None and latch.uid == mine.uid
    split = _split(baseline, None if barred else mine.split)
    mirror = None if barred else mine.mirror
    needed = {*baseline.shares, *(arm.version for arm in split)}
    if mirror is not None:
        needed.add(mirror.version)
    table = RoutingTable(
        namespace=seen.namespace,
        model=seen.model,
        revision=0,
        split_revision=0,
        owner=mine.owner,
        latch=latch,
        split=split,
        assignment=None if barred else mine.assignment,
        mirror=mirror,
        versions=_versions(seen, needed, before, idle),
        checks=mine.checks,
        experiment=None if barred else mine.experiment,
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
        and (before.split, before.assignment, before.mirror)
        == (table.split, table.assignment, table.mirror)
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


def _split(baseline: Baseline, wanted: list[Arm] | None) -> list[Arm]:
    if wanted is not None:
        return wanted
    return [
        Arm(name=ARM_STABLE, version=version, weight=weight)
        for version, weight in sorted(baseline.shares.items())
    ]


def _latch(owner: Contribution, before: RoutingTable | None) -> Latch | None:
    """A rollback's latch is set with it and stays until it is retried or another takes over."""
    old = before.latch if before else None
    if not owner.uid:
        return old
    if old is None or old.uid != owner.uid:
        return owner.latch
    return None if owner.unlatch else old


def _versions(
    seen: Observation,
    needed: Collection[int],
    before: RoutingTable | None,
    idle: Collection[int],
) -> list[LoadedVersion]:
    declared = {v for v, one in seen.by_version.items() if one.spec.lifecycle != "Inactive"}
    rows = {row.version: row for row in before.versions} if before else {}
    return [
        LoadedVersion(
            version=version,
            pods=None if version in needed else _turns(version, seen.pods, rows.get(version)),
        )
        for version in sorted({*needed, *(declared - set(idle))})
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
