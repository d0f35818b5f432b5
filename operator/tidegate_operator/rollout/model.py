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
from tidegate_operator.api.modelversion import ModelVersion, Status
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
    Started,
    State,
    Stepping,
    Waiting,
    decode,
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object, once."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWrite:
    """A status to be written, on the object as it was when it was judged. ``urgent``: more than
    progress has changed. ``events``: what this change of the status is worth telling, once it is
    written: so nothing is told twice, whoever writes it and however often that fails before.
    """

    kind: str
    metadata: Metadata
    before: dict[str, Any]
    after: dict[str, Any]
    urgent: bool
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. ``table_first``: the table is written before the statuses.
    ``states``: the rollouts' new states by uid. ``applied``: the model's part of its policy's
    status. ``settling``: pods are being waited for.
    """

    statuses: list[StatusWrite] = field(default_factory=list)
    table: RoutingTable | None = None
    table_first: bool = False
    states: Mapping[str, State] = field(default_factory=dict)
    applied: Applied | None = None
    settling: bool = False


def decide(seen: Observation, remembered: Mapping[str, State]) -> Plan:
    """Decide about one model. ``remembered``: states by rollout uid that are newer than the
    statuses (progress is not written at every look).
    """
    baseline = resolve(seen)
    before = {one.metadata.uid: _latched(one, remembered, seen) for one in seen.rollouts}
    owner = ownership.owner(seen, baseline, before)
    mismatch = versions.selector_problem(seen.versions)
    if mismatch and not (owner and isinstance(before[owner.metadata.uid], Started)):
        refused = Pending(reason="SelectorMismatch", message=_sentence(mismatch))
        after: dict[str, State] = {
            uid: state if isinstance(state, Finished) else refused for uid, state in before.items()
        }
        return Plan(
            statuses=[
                *_rollout_statuses(seen, after),
                *_version_statuses(seen, baseline, seen.table),
            ],
            states=after,
        )
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
        events = _happened(decode(one.status), after[one.metadata.uid])
        writes.append(_write(canaryrollout.KIND, one, told, events))
    return [write for write in writes if write.after != write.before]


def _version_statuses(
    seen: Observation, baseline: Baseline, table: RoutingTable | None
) -> list[StatusWrite]:
    writes = []
    for one in seen.versions:
        told = versions.tell(one, seen, baseline, table)
        writes.append(_write(modelversion.KIND, one, wire(told), _changed(one.status, told)))
    return [write for write in writes if write.after != write.before]


def _write(
    kind: str, one: CanaryRollout | ModelVersion, after: dict[str, Any], events: list[Event]
) -> StatusWrite:
    before = one.raw_status
    return StatusWrite(
        kind=kind,
        metadata=one.metadata,
        before=before,
        after=after,
        urgent=story.meaning(before) != story.meaning(after),
        events=events,
    )


def _changed(old: Status, new: Status) -> list[Event]:
    """What the change of a ModelVersion's status is worth telling."""
    events = []
    if new.phase != old.phase and new.phase == "Ready" and old.phase != "Degraded":
        events.append(Event("Normal", "VersionLoaded", new.message))
    failing = versions.LOAD_FAILED in {one.reason for one in new.conditions}
    if failing and versions.LOAD_FAILED not in {one.reason for one in old.conditions}:
        events.append(Event("Warning", "VersionLoadFailed", new.message))
    wrong = {one.type for one in old.conditions if one.status == "False"}
    return events + [
        Event("Warning", "InvalidSpec", one.message)
        for one in new.conditions
        if one.type in {"TrafficSplitValid", "SelectorMatches"} - wrong and one.status == "False"
    ]


def _happened(old: State, new: State) -> list[Event]:  # noqa: C901 - a table of transitions
    """What the step from one state of a rollout to the next is worth telling."""
    match old, new:
        case (Waiting(reason=r), Waiting(reason=s)) if r == s:
            return []
        case _, Waiting(reason="WaitingForOwner", message=message):
            return [Event("Normal", "WaitingForOwner", message)]
        case Gating(reason=r), Gating(reason="VersionLoadFailed", message=m) if (
            r != "VersionLoadFailed"
        ):
            return [Event("Warning", "VersionLoadFailed", m)]
        case Gating(), Finished(reason=reason, message=message):
            word = "Incompatible" if reason == "Incompatible" else "VersionLoadFailed"
            return [Event("Warning", word, message)]
        case Gating(), Stepping(run=run):
            return [
                Event("Normal", "VersionLoaded", "The canary is loaded on every ready pod"),
                _weight(0, run.percent),
            ]
        case Stepping(run=a), Stepping(run=b) if a.evidence.step != b.evidence.step:
            return [_completed(old), _weight(a.percent, b.percent)]
        case Stepping(run=a), Promoting():
            return [_completed(old), _weight(a.percent, 100)]
        case Stepping(hold=a), Stepping(hold=b, message=message) if a != b:
            if b is None:
                return [Event("Normal", "RolloutResumed", message)]
            return [Event("Warning", "RolloutHeld", message)]
        case Stepping() | Promoting(), (
            RollingBack(message=message) | Finished(phase="RolledBack", message=message)
        ):
            return [Event("Warning", "RolledBack", message)]
        case Promoting(), Finished(message=message):
            return [Event("Normal", "Promoted", message)]
        case _:
            return []


def _weight(old: int, new: int) -> Event:
    message = f"The canary's share goes from {old}% to {new}%"
    return Event("Normal", "TrafficWeightUpdated", message)


def _completed(state: Stepping) -> Event:
    run = state.run
    step = f"{run.evidence.step + 1}/{len(run.plan)}"
    return Event("Normal", "StepCompleted", f"Step {step} passed at {run.percent}%")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
