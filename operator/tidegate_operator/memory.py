"""What is known of models beyond their objects: progress between two statuses, kept here only.

It is rebuilt from the last checkpoint and Prometheus after a restart.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tidegate_contract.table import Owner
from tidegate_operator.api import abtest, canaryrollout
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.quantity import seconds
from tidegate_operator.cache import Cache, ModelKey, mark
from tidegate_operator.questions import Questions
from tidegate_operator.rollout import experiment_look, experiment_state
from tidegate_operator.rollout.model import AnyState
from tidegate_operator.rollout.state import RollingBack, Started, Stepping, decode

_AT_REST: Final = {"", "Pending", "Waiting"} | canaryrollout.FINISHED | abtest.FINISHED
"""Phases without any traffic to take back."""

Owning = CanaryRollout | ABTest


class Live(NamedTuple):
    """A rollout or a test whose counters are read. ``cursors``: by pod, what is counted already."""

    interval: float
    since: float
    cursors: list[dict[str, float]]


@dataclass(slots=True)
class Memory:
    """What is known of a model beyond its objects.

    ``statuses``: by uid, the mark of the status that a state goes with. ``intervals``: by uid,
    seconds between looks. ``last_look``: when evidence was last judged. ``read_at``: Prometheus'
    time of the last samples. ``seen_at``: of the last look at all. ``settling``: since when pods
    have been waited for. ``quiet``: what was there at a look that had nothing to write but
    progress.
    """

    states: dict[str, AnyState] = field(default_factory=dict)
    statuses: dict[str, bytes] = field(default_factory=dict)
    intervals: dict[str, float] = field(default_factory=dict)
    last_look: float | None = None
    read_at: float | None = None
    seen_at: float = 0.0
    settling: float | None = None
    checkpointed: float | None = None
    quiet: tuple[object, ...] | None = None
    told: float = 0.0
    rollback_since: float | None = None
    ask_pods: bool = False
    started: Owner | None = None
    questions: Questions | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Memories:
    """Of each model one. ``now``: the wall clock."""

    cache: Cache
    now: Callable[[], float]
    _known: dict[ModelKey, Memory] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: ModelKey) -> Memory:
        """What is known of a model. Progress that goes with another status than the one that is
        there is dropped: somebody else has written it, and has counted the time until now. A
        decision to go back is dropped only where it was carried out.
        """
        memory = self._known.get(key)
        if memory is None:
            memory = self._known[key] = Memory()
        for uid, (phase, status) in self.cache.statuses(key).items():
            known = memory.states.get(uid)
            if known is None or (goes_back(known) and phase not in _AT_REST):
                continue
            if memory.statuses.get(uid) != status:
                del memory.states[uid]
                memory.last_look = self.now()
        return memory

    def known(self, key: ModelKey) -> Memory | None:
        """The same, where the model was ever looked at."""
        return self._known.get(key)

    def drop(self, key: ModelKey) -> None:
        """The model is no more."""
        memory = self._known.pop(key, None)
        if memory is not None and memory.questions is not None:
            memory.questions.close()

    def owning(self, key: ModelKey) -> tuple[Owning, ...]:
        """The model's rollouts and tests."""
        return (*self.cache.rollouts(key), *self.cache.tests(key))

    def live(self, key: ModelKey, memory: Memory) -> list[Live]:
        """Those of them whose counters are read."""
        known = self.cache.statuses(key)
        if not known.keys() <= memory.states.keys() & memory.intervals.keys():
            for one in self.owning(key):
                memory.states.setdefault(one.metadata.uid, decoded(one))
                memory.statuses.setdefault(one.metadata.uid, mark(one.status_json))
                memory.intervals[one.metadata.uid] = interval(one)
        found = []
        for uid in known:
            match memory.states[uid]:
                case Stepping(run=run) if run.evidence.live_since is not None:
                    cursors, since = [run.evidence.cursors], run.evidence.live_since
                case experiment_state.Running(run=tested) if tested.evidence.live_since is not None:
                    cursors = [tested.evidence.cursors, tested.evidence.heard]
                    since = tested.evidence.live_since
                case _:
                    continue
            found.append(Live(memory.intervals[uid], since, cursors))
        return found


def decoded(one: Owning) -> AnyState:
    """The state that its status tells of."""
    if isinstance(one, ABTest):
        return experiment_state.decode(one.status)
    return decode(one.status)


def interval(one: Owning) -> float:
    """Seconds between looks at its evidence."""
    if isinstance(one, ABTest):
        return experiment_look.INTERVAL
    return seconds(one.spec.analysis.interval)


def goes_back(state: AnyState | None) -> bool:
    """Whether it is decided for good that a canary, or a treatment, gets no traffic any more."""
    if isinstance(state, experiment_state.Settling):
        return state.stopped
    return isinstance(state, RollingBack)


def is_started(state: AnyState | None) -> bool:
    """Whether it has, or had, the model's traffic in its hands."""
    return isinstance(state, Started | experiment_state.Started)


def owner(one: Owning) -> Owner:
    """What a table says of who owns it."""
    kind = abtest.KIND if isinstance(one, ABTest) else canaryrollout.KIND
    return Owner(kind=kind, name=one.metadata.name, uid=one.metadata.uid)
