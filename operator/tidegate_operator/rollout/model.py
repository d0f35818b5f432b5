"""One look at a model: from everything that was seen to everything that is to be done.

The order of the two writes is part of the decision. Going on, the rollout's status comes first
and the table follows from it; going back, the table comes first, latched, so that nothing that
happens in between can give the canary traffic again. Killed between the two, the next look
finishes what was begun.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tidegate_contract.table import RoutingTable
from tidegate_operator.api import abtest, canaryrollout, modelversion
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import Metadata, wire
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.api.quantity import epoch
from tidegate_operator.rollout import (
    canary,
    events,
    experiment_state,
    experiments,
    gate,
    idle,
    ownership,
    story,
    verbs,
    versions,
)
from tidegate_operator.rollout.baseline import Baseline, resolve
from tidegate_operator.rollout.compiler import compile_table
from tidegate_operator.rollout.contribution import Contribution, of_rollout
from tidegate_operator.rollout.events import Event
from tidegate_operator.rollout.gate import Push
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.policies import Applied
from tidegate_operator.rollout.state import (
    AWAITING,
    OVERDUE,
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
    phase_of,
)
from tidegate_operator.rollout.verbs import Removal, Spoken, Verb

AnyState = State | experiment_state.State


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWrite:
    """A status to be written, on the object as it was when it was judged. ``urgent``: more than
    progress has changed. ``passing``: but only what is soon something else again, as many change at
    once: of many it may wait. ``events``: what this change of the status is worth telling, once it
    is written: so nothing is told twice, whoever writes it and however often that fails before.
    """

    kind: str
    metadata: Metadata
    before: dict[str, Any]
    after: dict[str, Any]
    urgent: bool
    passing: bool = False
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done. ``table_first``: the table is written before the statuses.
    ``removals``: annotations that were acted on, after both. ``secrets``: names of Secrets with a
    random key that must be there. ``states``: new states by uid. ``applied``: the
    model's part of its policy's status. ``settling``: pods are being waited for. ``ask_pods``:
    all pods' reports are needed afresh at the next look.
    """

    statuses: list[StatusWrite] = field(default_factory=list)
    table: RoutingTable | None = None
    table_first: bool = False
    removals: list[Removal] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    states: Mapping[str, AnyState] = field(default_factory=dict)
    applied: Applied | None = None
    settling: bool = False
    ask_pods: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """An object's next state. ``heard``: the word that was acted on in this look, ``ignored`` why
    it moved nothing.
    """

    state: State
    heard: Spoken | None = None
    ignored: str = ""


def decide(seen: Observation, remembered: Mapping[str, AnyState]) -> Plan:
    """Decide about one model. ``remembered``: states by uid that are newer than the
    statuses (progress is not written at every look).
    """
    baseline = resolve(seen)
    before = {one.metadata.uid: _latched(one, remembered, seen) for one in seen.rollouts}
    tests = experiments.recalled(seen, remembered)
    contenders = [
        *_contenders(seen, baseline, before),
        *experiments.contenders(seen, baseline, tests),
    ]
    owner = ownership.owner(contenders)
    mismatch = versions.selector_problem(seen.versions)
    if mismatch and not any(one.started for one in contenders if one.uid == owner):
        return _refused(seen, baseline, before, tests, mismatch)
    moved = {
        one.metadata.uid: _next(one, before[one.metadata.uid], owner, baseline, seen)
        for one in seen.rollouts
    }
    tested = experiments.moved(seen, tests, owner, baseline)
    after = {uid: step.state for uid, step in moved.items()}
    part = _contribution(seen, owner, after) or experiments.contribution(seen, owner, tested)
    left = idle.idle(seen, baseline)
    policy = ownership.policy(seen)
    table = compile_table(seen, baseline, part, policy, left.unloaded)
    if part and part.promotes is not None:
        baseline = baseline.promoted(part.promotes)
    live = 0 if table or not seen.table else seen.table.revision
    return Plan(
        statuses=[
            *_rollout_statuses(seen, moved),
            *_test_statuses(seen, tested),
            *_version_statuses(seen, baseline, table or seen.table, left),
        ],
        table=table,
        table_first=part is not None and part.latch is not None,
        removals=_removals(seen),
        secrets=experiments.secrets(seen, tested),
        states={**after, **{uid: step.state for uid, step in tested.items()}},
        applied=Applied(
            holder=policy.metadata.name if policy else None,
            pods=sum(bool(live) and seen.acknowledges(pod, live) for pod in seen.asked),
            total=len(seen.asked),
            revision=in_force.revision if (in_force := table or seen.table) else 0,
        ),
        settling=table is not None
        or _unsettled(seen, after.values())
        or any(step.heard for step in moved.values())
        or any(step.heard for step in tested.values())
        or experiments.unsettled(tested),
        ask_pods=idle.about_to_be(seen, baseline),
    )


def _refused(
    seen: Observation,
    baseline: Baseline,
    before: Mapping[str, State],
    tests: Mapping[str, experiment_state.State],
    mismatch: str,
) -> Plan:
    """Nothing changes while the versions select different pods."""
    refused = Pending(reason="SelectorMismatch", message=_sentence(mismatch))
    after = {
        uid: state if isinstance(state, Finished) else refused for uid, state in before.items()
    }
    tested = experiments.refused(tests, refused.reason, refused.message)
    return Plan(
        statuses=[
            *_rollout_statuses(seen, {uid: _Step(state) for uid, state in after.items()}),
            *_test_statuses(seen, tested),
            *_version_statuses(seen, baseline, seen.table, idle.Idle(idle.asleep(seen, baseline))),
        ],
        states={**after, **{uid: step.state for uid, step in tested.items()}},
    )


def _contenders(
    seen: Observation, baseline: Baseline, states: Mapping[str, State]
) -> list[ownership.Contender]:
    found = []
    for one in seen.rollouts:
        state = states[one.metadata.uid]
        if isinstance(state, Finished):
            continue
        started = isinstance(state, Started)
        ready = not started and not seen.busy and gate.obstacle(one, baseline, seen) is None
        joined = one.status.attempt_since or one.metadata.creation_timestamp
        found.append(
            ownership.Contender(
                uid=one.metadata.uid, since=epoch(joined), started=started, ready=ready
            )
        )
    return found


def _contribution(
    seen: Observation, owner: str | None, after: Mapping[str, State]
) -> Contribution | None:
    for one in seen.rollouts:
        if one.metadata.uid == owner:
            return of_rollout(one, after[owner])
    return None


def _removals(seen: Observation) -> list[Removal]:
    """The annotations that a status already remembers."""
    found = []
    objects: tuple[CanaryRollout | ABTest, ...] = (*seen.rollouts, *seen.tests)
    for one in objects:
        spoken = verbs.spoken(one.metadata, one.status.last_verb)
        if spoken and spoken.text == one.status.last_verb:
            kind = abtest.KIND if isinstance(one, ABTest) else canaryrollout.KIND
            found.append(Removal(kind, one.metadata, spoken.annotation, spoken.value))
    return found


def _unsettled(seen: Observation, states: Iterable[State]) -> bool:
    """Whether pods are being waited for, so that the next look should come soon."""
    states = list(states)
    if any(isinstance(one, Promoting | RollingBack) for one in states):
        return True
    if any(isinstance(one, Gating) and one.reason not in {AWAITING, OVERDUE} for one in states):
        return True
    if any(isinstance(s, Stepping) and s.run.evidence.live_since is None for s in states):
        return True
    revision = seen.table.revision if seen.table else 0
    if any(not seen.acknowledges(pod, revision) for pod in seen.asked):
        return True
    wanted = [row.version for row in seen.table.versions] if seen.table else []
    return any(not pod.has(version) for pod in seen.asked for version in wanted)


def _latched(one: CanaryRollout, remembered: Mapping[str, AnyState], seen: Observation) -> State:
    """A rollout's state; a rollback that only the table knows of is taken up again, and one that
    the status tells of is told in the table's words.
    """
    known = remembered.get(one.metadata.uid)
    state = known if isinstance(known, State) else decode(one.status)
    latch = seen.table.latch if seen.table else None
    if latch and latch.uid == one.metadata.uid and isinstance(state, RollingBack):
        return replace(state, message=latch.reason)
    if latch and latch.uid == one.metadata.uid and isinstance(state, Stepping | Promoting):
        aborted = isinstance(_unheard(one), verbs.Abort)
        cause = latch.cause or ("Aborted" if aborted else "AnalysisFailed")
        return RollingBack(run=state.run, reason=cause, message=latch.reason)
    return state


def _unheard(one: CanaryRollout) -> Verb | None:
    """What a person said and no status remembers yet."""
    spoken = verbs.spoken(one.metadata, one.status.last_verb)
    return None if spoken is None or spoken.text == one.status.last_verb else spoken.verb


def _next(
    one: CanaryRollout, state: State, owner: str | None, baseline: Baseline, seen: Observation
) -> _Step:
    """The next state, with what a person said."""
    spoken = verbs.spoken(one.metadata, one.status.last_verb)
    if spoken is None or spoken.text == one.status.last_verb:
        return _Step(_advanced(one, state, owner, baseline, seen))
    match spoken.verb:
        case verbs.Abort(reason=reason) if not isinstance(
            state, Finished | Promoting | RollingBack
        ):
            return _Step(_aborted(state, reason), spoken)
        case verbs.Abort():
            begun = isinstance(state, RollingBack) and one.status.phase != "RollingBack"
            why = "" if begun else "it is decided already"
        case verbs.Retry() if isinstance(state, Finished) and state.phase != "Succeeded":
            again = Pending(reason="Retried", message="Begins anew, as a person said so")
            return _Step(again, spoken)
        case verbs.Retry():
            why = "only a rollout that was rolled back or failed is retried"
        case verbs.Unknown(why=why):
            pass
        case verbs.Promote(to=to, at=at):
            return _promoted(one, state, owner, baseline, seen, spoken, to, at)
    return _Step(_advanced(one, state, owner, baseline, seen), spoken, why)


def _promoted(
    one: CanaryRollout,
    state: State,
    owner: str | None,
    baseline: Baseline,
    seen: Observation,
    spoken: Spoken,
    to: Push,
    at: int | None,
) -> _Step:
    """A person's word to go on: acted on where it can be, kept where it will be, else ignored."""
    if isinstance(state, Finished | Promoting | RollingBack):
        return _Step(_advanced(one, state, owner, baseline, seen), spoken, "it is decided already")
    if isinstance(state, Pending | Waiting) or one.spec.suspend:
        return _Step(_advanced(one, state, owner, baseline, seen))
    step = state.run.evidence.step + 1
    waiting = phase_of(state) == "WaitingPromotion" or state.reason == OVERDUE
    if to == "step" and (at != step if at is not None else not waiting):
        now = f"it is at step {step}"
        why = now if at is not None else f"it waits for nobody; step@{step} skips this step's time"
        return _Step(_advanced(one, state, owner, baseline, seen), spoken, why)
    moved = (
        gate.advance(one, state, seen, to)
        if isinstance(state, Gating)
        else canary.advance(one, state, seen, to)
    )
    return _Step(moved) if isinstance(moved, Gating) else _Step(moved, spoken)


def _aborted(state: Gating | Stepping | Pending | Waiting, reason: str) -> State:
    why = f"aborted ({reason})"
    if isinstance(state, Stepping):
        return canary.rolling_back(state.run, "Aborted", why)
    begun = state.run if isinstance(state, Gating) else None
    message = f"{_sentence(why)} before it had any traffic; retry it, or delete it"
    return Finished(phase="Failed", reason="Aborted", message=message, run=begun)


def _advanced(
    one: CanaryRollout, state: State, owner: str | None, baseline: Baseline, seen: Observation
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
        case RollingBack() if one.status.phase != "RollingBack":
            return state  # known by the table's latch only: the status says it before its end
        case Promoting() | RollingBack():
            return canary.settle(one, state, seen)


def _unstarted(
    one: CanaryRollout, owner: str | None, baseline: Baseline, seen: Observation
) -> State:
    obstacle = gate.obstacle(one, baseline, seen)
    if obstacle is not None:
        return obstacle
    if owner == one.metadata.uid:
        return gate.start(one, baseline, seen.now)
    return Waiting(reason="WaitingForOwner", message=ownership.named(seen, owner))


def _rollout_statuses(seen: Observation, moved: Mapping[str, _Step]) -> list[StatusWrite]:
    writes = []
    for one in seen.rollouts:
        step = moved[one.metadata.uid]
        spoken = verbs.spoken(one.metadata, one.status.last_verb)
        last = step.heard.text if step.heard else one.status.last_verb if spoken else None
        told = wire(story.tell(one, step.state, seen, last))
        happened = events.of_rollout(decode(one.status), step.state)
        if step.heard and step.ignored:
            happened = [*happened, Event("Warning", "VerbIgnored", _ignored(step))]
        writes.append(_write(canaryrollout.KIND, one, told, happened))
    return [write for write in writes if write.after != write.before]


def _test_statuses(seen: Observation, moved: Mapping[str, experiments.Step]) -> list[StatusWrite]:
    writes = []
    for one in seen.tests:
        after, happened = experiments.told(one, moved[one.metadata.uid], seen)
        writes.append(_write(abtest.KIND, one, after, happened))
    return [write for write in writes if write.after != write.before]


def _ignored(step: _Step) -> str:
    assert step.heard is not None
    return f"{step.heard.text} changes nothing: {step.ignored}"


def _version_statuses(
    seen: Observation,
    baseline: Baseline,
    table: RoutingTable | None,
    left: idle.Idle,
) -> list[StatusWrite]:
    writes = []
    for one in seen.versions:
        told = versions.tell(one, seen, baseline, table, left)
        writes.append(
            _write(modelversion.KIND, one, wire(told), events.of_version(one.status, told))
        )
    return [write for write in writes if write.after != write.before]


def _write(
    kind: str,
    one: CanaryRollout | ABTest | ModelVersion,
    after: dict[str, Any],
    happened: list[Event],
) -> StatusWrite:
    before = one.raw_status
    return StatusWrite(
        kind=kind,
        metadata=one.metadata,
        before=before,
        after=after,
        urgent=story.meaning(before) != story.meaning(after),
        passing=_PASSING.get(kind, _never)(before, after),
        events=happened,
    )


def _never(_before: dict[str, Any], _after: dict[str, Any]) -> bool:
    """A test's status says at once what it means."""
    return False


_PASSING: Final = {canaryrollout.KIND: story.passing, modelversion.KIND: versions.passing}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
