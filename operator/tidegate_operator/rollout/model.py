"""One look at a model: from everything that was seen to everything that is to be done.

The order of the two writes is part of the decision. Going on, the rollout's status comes first
and the table follows from it; going back, the table comes first, latched, so that nothing that
happens in between can give the canary traffic again. Killed between the two, the next look
finishes what was begun.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tidegate_contract.table import RoutingTable
from tidegate_operator.api import canaryrollout, modelversion
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import Metadata, wire
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.rollout import canary, gate, ownership, story, versions
from tidegate_operator.rollout.baseline import Baseline, resolve
from tidegate_operator.rollout.compiler import Decided, compile_table
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.policies import Applied
from tidegate_operator.rollout.state import (
    Finished,
    Gating,
    Pending,
    Promoting,
    RollingBack,
    State,
    Stepping,
    Waiting,
    decode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWrite:
    """A status to be written, on the object as it was when it was judged. ``urgent``: more than
    progress has changed.
    """

    kind: str
    metadata: Metadata
    before: dict[str, Any]
    after: dict[str, Any]
    urgent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to an object, once."""

    kind: str
    metadata: Metadata
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. ``table_first``: the table is written before the statuses.
    ``states``: the rollouts' new states by uid. ``applied``: the model's part of its policy's
    status. ``running``: a rollout waits for evidence.
    """

    statuses: list[StatusWrite] = field(default_factory=list)
    table: RoutingTable | None = None
    table_first: bool = False
    events: list[Event] = field(default_factory=list)
    states: Mapping[str, State] = field(default_factory=dict)
    applied: Applied | None = None
    settling: bool = False


def decide(seen: Observation, remembered: Mapping[str, State]) -> Plan:
    """Decide about one model. ``remembered``: states by rollout uid that are newer than the
    statuses (progress is not written at every look).
    """
    baseline = resolve(seen)
    before = {one.metadata.uid: _latched(one, remembered, seen) for one in seen.rollouts}
    if versions.selector_problem(seen.versions):
        return Plan(statuses=_version_statuses(seen, baseline, seen.table), states=before)
    owner = ownership.owner(seen, baseline, before)
    after = {
        one.metadata.uid: _next(one, before[one.metadata.uid], owner, baseline, seen)
        for one in seen.rollouts
    }
    decided = Decided(owner, after[owner.metadata.uid]) if owner else None
    policy = ownership.policy(seen)
    table = compile_table(seen, baseline, decided, policy)
    in_force = table or seen.table
    if decided and isinstance(decided.state, Promoting):
        baseline = baseline.promoted(decided.rollout.spec.canary_version)
    live = 0 if table or not seen.table else seen.table.revision
    return Plan(
        statuses=[
            *_rollout_statuses(seen, after),
            *_version_statuses(seen, baseline, in_force),
        ],
        table=table,
        table_first=decided is not None and isinstance(decided.state, RollingBack),
        events=_events(seen, before, after),
        states=after,
        applied=Applied(
            holder=policy.metadata.name if policy else None,
            pods=sum(bool(live) and seen.acknowledges(pod, live) for pod in seen.asked),
            total=len(seen.asked),
        ),
        settling=table is not None or _unsettled(seen, after.values()),
    )


def _unsettled(seen: Observation, states: Iterable[State]) -> bool:
    """Whether pods are being waited for, so that the next look should come soon."""
    if any(isinstance(one, Gating | Promoting | RollingBack) for one in states):
        return True
    if any(isinstance(s, Stepping) and s.run.evidence.live_since is None for s in states):
        return True
    revision = seen.table.revision if seen.table else 0
    if any(not seen.acknowledges(pod, revision) for pod in seen.asked):
        return True
    wanted = [row.version for row in seen.table.versions] if seen.table else []
    return any(not pod.has(version) for pod in seen.asked for version in wanted)


def _latched(one: CanaryRollout, remembered: Mapping[str, State], seen: Observation) -> State:
    """A rollout's state; a rollback that only the table knows of is taken up again."""
    state = remembered.get(one.metadata.uid) or decode(one.status)
    latch = seen.table.latch if seen.table else None
    if latch and latch.uid == one.metadata.uid and isinstance(state, Stepping | Promoting):
        return RollingBack(run=state.run, reason="AnalysisFailed", message=latch.reason)
    return state


def _next(
    one: CanaryRollout,
    state: State,
    owner: CanaryRollout | None,
    baseline: Baseline,
    seen: Observation,
) -> State:
    match state:
        case Finished():
            return state
        case Pending() | Waiting():
            return _unstarted(one, owner, baseline, seen)
        case Gating():
            return gate.advance(one, state, seen)
        case Stepping():
            return canary.advance(one, state, seen)
        case Promoting() | RollingBack():
            return canary.settle(one, state, seen)


def _unstarted(
    one: CanaryRollout, owner: CanaryRollout | None, baseline: Baseline, seen: Observation
) -> State:
    obstacle = gate.obstacle(one, baseline, seen)
    if obstacle is not None:
        return obstacle
    if owner is None or owner.metadata.uid == one.metadata.uid:
        return gate.start(one, baseline, seen.now)
    return Waiting(
        reason="WaitingForOwner",
        message=f"CanaryRollout {owner.metadata.name} owns the traffic of {seen.model}; starts "
        "when it is finished or deleted",
    )


def _rollout_statuses(seen: Observation, after: Mapping[str, State]) -> list[StatusWrite]:
    writes = []
    for one in seen.rollouts:
        told = wire(story.tell(one, after[one.metadata.uid], seen.now))
        writes.append(_write(canaryrollout.KIND, one, told))
    return [write for write in writes if write.after != write.before]


def _version_statuses(
    seen: Observation, baseline: Baseline, table: RoutingTable | None
) -> list[StatusWrite]:
    writes = []
    for one in seen.versions:
        told = versions.tell(one, seen, baseline, table)
        writes.append(_write(modelversion.KIND, one, wire(told)))
    return [write for write in writes if write.after != write.before]


def _write(kind: str, one: CanaryRollout | ModelVersion, after: dict[str, Any]) -> StatusWrite:
    before = one.raw_status
    return StatusWrite(
        kind=kind,
        metadata=one.metadata,
        before=before,
        after=after,
        urgent=story.meaning(before) != story.meaning(after),
    )


def _events(
    seen: Observation, before: Mapping[str, State], after: Mapping[str, State]
) -> list[Event]:
    events = []
    for one in seen.rollouts:
        uid = one.metadata.uid
        for type_, reason, message in _happened(before[uid], after[uid]):
            events.append(
                Event(
                    kind=canaryrollout.KIND,
                    metadata=one.metadata,
                    type=type_,
                    reason=reason,
                    message=message,
                )
            )
    return events


Happening = tuple[Literal["Normal", "Warning"], str, str]


def _happened(old: State, new: State) -> list[Happening]:  # noqa: C901 - a table of transitions
    """What the step from one state to the next is worth telling."""
    match old, new:
        case (Waiting(reason=r), Waiting(reason=s)) if r == s:
            return []
        case _, Waiting(reason="WaitingForOwner", message=message):
            return [("Normal", "WaitingForOwner", message)]
        case Gating(reason=r), Gating(reason="VersionLoadFailed", message=m) if (
            r != "VersionLoadFailed"
        ):
            return [("Warning", "VersionLoadFailed", m)]
        case Gating(), Finished(reason=reason, message=message):
            word = "Incompatible" if reason == "Incompatible" else "VersionLoadFailed"
            return [("Warning", word, message)]
        case Gating(), Stepping(run=run):
            return [
                ("Normal", "VersionLoaded", "The canary is loaded on every ready pod"),
                _weight(0, run.percent),
            ]
        case Stepping(run=a), Stepping(run=b) if a.evidence.step != b.evidence.step:
            return [_completed(old), _weight(a.percent, b.percent)]
        case Stepping(run=a), Promoting():
            return [_completed(old), _weight(a.percent, 100)]
        case Stepping(hold=a), Stepping(hold=b, message=message) if a != b:
            if b is None:
                return [("Normal", "RolloutResumed", message)]
            return [("Warning", "RolloutHeld", message)]
        case Stepping(), RollingBack(message=message):
            return [("Warning", "RolledBack", message)]
        case Promoting(), Finished(message=message):
            return [("Normal", "Promoted", message)]
        case _:
            return []


def _weight(old: int, new: int) -> Happening:
    return "Normal", "TrafficWeightUpdated", f"The canary's share goes from {old}% to {new}%"


def _completed(state: Stepping) -> Happening:
    run = state.run
    step = f"{run.evidence.step + 1}/{len(run.plan)}"
    return "Normal", "StepCompleted", f"Step {step} passed at {run.percent}%"
