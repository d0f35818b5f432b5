"""What the owner of a model's traffic wants of the routing table, whatever kind of object it is."""

from dataclasses import dataclass, field

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_contract.table import (
    WHOLE,
    Arm,
    Assignment,
    Check,
    Experiment,
    Latch,
    Mirror,
    Owner,
)
from tidegate_operator.api import canaryrollout
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.evidence.checks import counted
from tidegate_operator.rollout.look import compiled_metrics
from tidegate_operator.rollout.state import Gating, Promoting, RollingBack, Started, State, Stepping


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """The owner's part of the table. ``split`` None: the baseline's. ``promotes``: the version that
    becomes the baseline. ``latch``: set by a rollback; ``unlatch``: its own old latch is lifted.
    """

    owner: Owner | None
    uid: str
    split: list[Arm] | None = None
    assignment: Assignment | None = None
    mirror: Mirror | None = None
    checks: list[Check] = field(default_factory=list)
    experiment: Experiment | None = None
    promotes: int | None = None
    latch: Latch | None = None
    unlatch: bool = False


def of_rollout(rollout: CanaryRollout, state: State) -> Contribution:
    """A rollout's part. Without weight it is the baseline's split; the checks are there from the
    beginning, so that every series exists before the first weight.
    """
    meta, spec = rollout.metadata, rollout.spec
    if not isinstance(state, Started):
        return Contribution(owner=None, uid=meta.uid)
    owner = Owner(kind=canaryrollout.KIND, name=meta.name, uid=meta.uid)
    checks = counted(compiled_metrics(rollout, state.run.evidence))
    assignment = None
    if spec.assignment is not None:
        assignment = Assignment(header=spec.assignment.header, salt=meta.uid)
    match state:
        case Gating():
            return Contribution(
                owner=owner, uid=meta.uid, assignment=assignment, checks=checks, unlatch=True
            )
        case Stepping(run=run):
            weight = run.percent * 100
            split = [Arm(name=ARM_STABLE, version=run.stable, weight=WHOLE - weight)]
            if weight or not spec.shadow_only:
                split.append(Arm(name=ARM_CANARY, version=spec.canary_version, weight=weight))
            mirror = None
            if spec.mirror_percent:
                mirror = Mirror(version=spec.canary_version, weight=spec.mirror_percent * 100)
            return Contribution(
                owner=owner,
                uid=meta.uid,
                split=split,
                assignment=assignment,
                mirror=mirror,
                checks=checks,
            )
        case Promoting():
            return Contribution(
                owner=owner, uid=meta.uid, checks=checks, promotes=spec.canary_version
            )
        case RollingBack(reason=reason, message=message):
            latch = Latch(uid=meta.uid, reason=message, cause=reason)
            return Contribution(owner=owner, uid=meta.uid, checks=checks, latch=latch)
