"""The tests of one model in one look: who may start, what each becomes, what that is worth telling.

The counterpart for tests of what ``model`` does for rollouts; the two share one queue.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.meta import wire
from tidegate_operator.api.quantity import epoch
from tidegate_operator.rollout import experiment, experiment_story, verbs
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.contribution import Contribution
from tidegate_operator.rollout.events import Event
from tidegate_operator.rollout.experiment_state import (
    Finished,
    Gating,
    Pending,
    Running,
    Settling,
    State,
    Waiting,
    decode,
    live,
    owns,
)
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.ownership import Contender, named
from tidegate_operator.rollout.verbs import Spoken


@dataclass(frozen=True, slots=True)
class Step:
    """A test's next state. ``heard``: the word that was acted on in this look, ``ignored`` why it
    moved nothing.
    """

    state: State
    heard: Spoken | None = None
    ignored: str = ""


def recalled(seen: Observation, remembered: Mapping[str, object]) -> dict[str, State]:
    """By uid, the tests' states; an end that only the table knows of is taken up again."""
    states: dict[str, State] = {}
    latch = seen.table.latch if seen.table else None
    for one in seen.tests:
        uid = one.metadata.uid
        known = remembered.get(uid)
        state = known if isinstance(known, State) else decode(one.status)
        states[uid] = experiment.latched(state, latch) if latch and latch.uid == uid else state
    return states


def contenders(
    seen: Observation, baseline: Baseline, states: Mapping[str, State]
) -> list[Contender]:
    """The tests that have the traffic, or want it."""
    found = []
    for one in seen.tests:
        state = states[one.metadata.uid]
        started = owns(state)
        if isinstance(state, Finished) and not started:
            continue
        ready = not started and not seen.busy and experiment.obstacle(one, baseline, seen) is None
        since = epoch(one.metadata.creation_timestamp)
        found.append(Contender(uid=one.metadata.uid, since=since, started=started, ready=ready))
    return found


def moved(
    seen: Observation, states: Mapping[str, State], owner: str | None, baseline: Baseline
) -> dict[str, Step]:
    """By uid, what becomes of each test."""
    return {
        one.metadata.uid: _next(one, states[one.metadata.uid], owner, baseline, seen)
        for one in seen.tests
    }


def refused(states: Mapping[str, State], reason: str, message: str) -> dict[str, Step]:
    """By uid, all that are not finished set aside."""
    aside = Pending(reason=reason, message=message)
    return {
        uid: Step(state if isinstance(state, Finished) else aside) for uid, state in states.items()
    }


def contribution(
    seen: Observation, owner: str | None, after: Mapping[str, Step]
) -> Contribution | None:
    """The owner's part of the table, if a test is the owner."""
    for one in seen.tests:
        if one.metadata.uid == owner:
            return experiment.contribution(one, after[owner].state)
    return None


def secrets(seen: Observation, after: Mapping[str, Step]) -> list[str]:
    """Names of the Secrets that the tests' feedback needs."""
    found = (experiment.secret(one, after[one.metadata.uid].state) for one in seen.tests)
    return sorted({name for name in found if name is not None})


def unsettled(after: Mapping[str, Step]) -> bool:
    """Whether pods are being waited for, so that the next look should come soon."""
    states = [one.state for one in after.values()]
    return any(
        isinstance(one, Gating | Settling) or (isinstance(one, Running) and live(one) is None)
        for one in states
    )


def told(one: ABTest, step: Step, seen: Observation) -> tuple[dict[str, Any], list[Event]]:
    """A test's status as it is to be written, and what its change is worth telling."""
    spoken = verbs.spoken(one.metadata, one.status.last_verb)
    last = step.heard.text if step.heard else one.status.last_verb if spoken else None
    status = wire(experiment_story.tell(one, step.state, seen, last))
    happened = _happened(decode(one.status), step.state)
    if step.heard and step.ignored:
        message = f"{step.heard.text} changes nothing: {step.ignored}"
        happened = [*happened, Event("Warning", "VerbIgnored", message)]
    return status, happened


def _next(
    one: ABTest, state: State, owner: str | None, baseline: Baseline, seen: Observation
) -> Step:
    """The next state, with what a person said."""
    spoken = verbs.spoken(one.metadata, one.status.last_verb)
    if spoken is None or spoken.text == one.status.last_verb:
        return Step(_advanced(one, state, owner, baseline, seen))
    if not isinstance(spoken.verb, verbs.Abort):
        why = "a test is only ever aborted; create another one"
        return Step(_advanced(one, state, owner, baseline, seen), spoken, why)
    ended = experiment.abort(one, state, spoken.verb.reason)
    if ended is state:
        after = _advanced(one, state, owner, baseline, seen)
        return Step(after, spoken, "it is decided already")
    return Step(ended, spoken)


def _advanced(
    one: ABTest, state: State, owner: str | None, baseline: Baseline, seen: Observation
) -> State:
    if not isinstance(state, Pending | Waiting):
        return experiment.advance(one, state, seen)
    obstacle = experiment.obstacle(one, baseline, seen)
    if obstacle is not None:
        return obstacle
    if owner == one.metadata.uid:
        return experiment.start(one, seen.now)
    return Waiting(reason="WaitingForOwner", message=named(seen, owner))


def _happened(old: State, new: State) -> list[Event]:  # noqa: C901 - a table of transitions
    """What the step from one state to the next is worth telling."""
    match old, new:
        case (Waiting(reason=r), Waiting(reason=s)) if r == s:
            return []
        case _, Waiting(reason="WaitingForOwner", message=message):
            return [Event("Normal", "WaitingForOwner", message)]
        case Gating(reason=r), Gating(reason="VersionLoadFailed", message=m) if (
            r != "VersionLoadFailed"
        ):
            return [Event("Warning", "VersionLoadFailed", m)]
        case Gating(), Running(message=message):
            return [Event("Normal", "TestStarted", message)]
        case Running(hold=a), Running(hold=b, message=message) if a != b:
            word = {None: "RolloutResumed", "Suspended": "RolloutPaused"}.get(b, "RolloutHeld")
            return [Event("Warning" if word == "RolloutHeld" else "Normal", word, message)]
        case Settling() | Finished(), Finished():
            return []
        case _, Finished(phase="Failed", reason="Incompatible", message=message):
            return [Event("Warning", "Incompatible", message)]
        case _, Finished(phase="Finished", message=message):
            return [Event("Normal", "TestFinished", message)]
        case _, Finished(message=message) | Settling(stopped=True, message=message):
            return [Event("Warning", "TestFinished", message)]
        case Gating() | Running(), Settling(message=message):
            return [Event("Normal", "TestFinished", message)]
        case _:
            return []
