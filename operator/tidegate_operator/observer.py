"""Gathering all that a decision about a model rests on: objects, pods, evidence, answers."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from tidegate_contract.acknowledgement import Acknowledgement
from tidegate_contract.table import Owner
from tidegate_operator import questions
from tidegate_operator.adapters.pods import Pods
from tidegate_operator.adapters.queries import Queries
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.cache import Cache, ModelKey, PodSeen
from tidegate_operator.evidence.experiment import Question
from tidegate_operator.evidence.queries import Answer
from tidegate_operator.memory import Live, Memories, Memory, decoded, is_started, owner
from tidegate_operator.questions import Questions
from tidegate_operator.readings import Evidence, moment
from tidegate_operator.rollout import experiment_state
from tidegate_operator.rollout.observation import (
    Observation,
    Pod,
    Reading,
    StoredTable,
    Unreadable,
)
from tidegate_operator.rollout.state import Gating, Stepping, decode

_JSON: Final = msgspec.json.Encoder()
_ACKNOWLEDGEMENT: Final = msgspec.json.Decoder(Acknowledgement)


class Look(NamedTuple):
    """Why a model is looked at. ``reading``: its evidence, where that is to be judged; ``asked``:
    when it was asked for.
    """

    due: float
    reading: Reading | Unreadable | None = None
    asked: float = 0.0
    answers: Mapping[questions.Asked, Answer] = {}


class Unread(NamedTuple):
    """What a model needs to be judged: samples since a time on Prometheus' clock. ``interval``:
    seconds between its readings.
    """

    since: float
    interval: float


@dataclass(slots=True, kw_only=True)
class Observer:
    """Sees models. ``now``: the wall clock, epoch seconds."""

    cache: Cache
    evidence: Evidence
    pods: Pods
    queries: Queries
    memories: Memories
    scrape_interval: float
    now: Callable[[], float]
    _told: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """By a pod's uid, then by model, acknowledgements as JSON: as objects they take several times
    as much memory.
    """

    def forget_pod(self, uid: str) -> None:
        """What a pod told does not count any more: it changed, or is gone."""
        self._told.pop(uid, None)

    def unread(self, key: ModelKey, now: float) -> Unread | None:
        """What is needed for judging a model now; None where it is not judged now: that is once in
        each interval, whatever else wakes it.
        """
        memory = self.memories.of(key)
        last = memory.last_look
        live = [
            one
            for one in self.memories.live(key, memory)
            if last is None
            or (now - (begun := moment(key, one.interval))) // one.interval
            > (last - begun) // one.interval
        ]
        if not live:
            return None
        pods = [pod.name for pod in self.cache.pods(key)]
        return Unread(
            min(self._since(one, pods, memory.read_at) for one in live),
            min(one.interval for one in live),
        )

    def _since(self, live: Live, pods: list[str], read_at: float | None) -> float:
        """When the oldest sample that is still needed was taken. A pod that had no new ones when
        they were last read is waited for for a while only: reading everybody's samples from its
        last one on would cost more than it is worth.
        """
        begin = live.since + self.evidence.skew - 3 * self.scrape_interval
        marks = [known.get(pod, begin) for known in live.cursors for pod in pods]
        patience = live.interval + 4 * self.scrape_interval
        limit = -math.inf if read_at is None else read_at - patience
        return max(min(marks, default=begin), limit)

    async def asked(self, key: ModelKey, look: Look, memory: Memory) -> Look:
        """Ask the pods, and users' queries where evidence is to be judged: the look with their
        answers.
        """
        await self._ask(key, memory, judging=look.reading is not None)
        if look.reading is None:
            return look
        return look._replace(answers=await self._answers(key, memory))

    async def _ask(self, key: ModelKey, memory: Memory, *, judging: bool) -> None:
        """Ask the pods that lag behind the table or lack a version that it wants; all of them where
        what else they tell is needed.
        """
        stored = self.cache.table(key)
        everybody = memory.ask_pods or (
            judging and any(self._running(test, memory) for test in self.cache.tests(key))
        )
        asked = [
            pod
            for pod in self.cache.pods(key)
            if pod.address and (everybody or self._lags(pod, key[1], stored))
        ]
        if not asked:
            return
        reports = await asyncio.gather(*(self.pods.ask(pod.address) for pod in asked))
        for pod, report in zip(asked, reports, strict=True):
            if report is not None and report.pod_uid == pod.uid:
                acks = report.models.items()
                self._told[pod.uid] = {model: _JSON.encode(ack) for model, ack in acks}

    def _lags(self, pod: PodSeen, model: str, stored: StoredTable | None) -> bool:
        ack = self._ack(pod, model)
        if ack is None or stored is None or stored.table is None:
            return True
        if (ack.table_uid, ack.revision) != (stored.uid, stored.table.revision) or ack.refused:
            return True
        wanted = {row.version for row in stored.table.versions}
        ready = {v for v, state in ack.versions.items() if state.state == "Ready"}
        return ready != wanted

    async def _answers(self, key: ModelKey, memory: Memory) -> dict[questions.Asked, Answer]:
        """To the queries of the model's objects that are being judged."""
        wanted: dict[questions.Asked, Question] = {}
        for rollout in self.cache.rollouts(key):
            state = memory.states.get(rollout.metadata.uid) or decode(rollout.status)
            if isinstance(state, Stepping):
                wanted |= questions.of_rollout(rollout, state.run.stable)
        for test in self.cache.tests(key):
            if self._running(test, memory):
                wanted |= questions.of_test(test)
        if memory.questions is None:
            if not wanted:
                return {}
            memory.questions = Questions(key[0], self.queries)
        return await memory.questions.ask(wanted)

    def _running(self, test: ABTest, memory: Memory) -> experiment_state.Running | None:
        """A test's state, if its evidence is being gathered."""
        known = memory.states.get(test.metadata.uid)
        if not isinstance(known, experiment_state.State):
            known = experiment_state.decode(test.status)
        return experiment_state.live(known)

    def observation(
        self, key: ModelKey, look: Look, memory: Memory, *, whole: bool = True
    ) -> Observation:
        """All that is known now; unless ``whole``, all that evidence is judged by. What rests on a
        reading is seen as of when that was asked for, unless the model was looked at since: time
        must not go back.
        """
        pods = self.cache.pods(key)
        return Observation(
            now=max(look.asked, memory.seen_at) if look.reading is not None else self.now(),
            namespace=key[0],
            model=key[1],
            versions=self.cache.versions(key) if whole else (),
            rollouts=self.cache.rollouts(key),
            tests=self.cache.tests(key),
            policies=self.cache.policies(key) if whole else (),
            stored=self.cache.table(key),
            last_table=self.cache.last_table(key),
            pods=tuple(self._pod(one, key[1]) for one in sorted(pods, key=lambda p: p.name)),
            reading=look.reading,
            live=self.evidence.live(key),
            before=self.evidence.before(key) if self._gating(key, memory) else None,
            answers=look.answers,
            busy=self._busy(key, pods, memory),
            last_look=memory.last_look,
            scrape_interval=self.scrape_interval,
        )

    def still(self, key: ModelKey, seen: Observation) -> tuple[object, ...]:
        """All that a decision rests on but evidence and time."""
        return self.cache.revisions(key), _JSON.encode(seen.pods), seen.busy

    def _ack(self, one: PodSeen, model: str) -> Acknowledgement | None:
        """What a pod told of a model; None where it has not."""
        told = self._told.get(one.uid, {}).get(model)
        return None if told is None else _ACKNOWLEDGEMENT.decode(told)

    def _pod(self, one: PodSeen, model: str) -> Pod:
        return Pod(
            name=one.name,
            uid=one.uid,
            ready=one.ready,
            terminating=one.terminating,
            ready_since=one.ready_since,
            ack=self._ack(one, model),
        )

    def _gating(self, key: ModelKey, memory: Memory) -> bool:
        """Whether a rollout or a test is about to start."""
        for one in self.memories.owning(key):
            known = memory.states.get(one.metadata.uid)
            phase = one.status.phase
            if isinstance(known, Gating | experiment_state.Gating):
                return True
            if known is None and phase in {"Gating", "WaitingPromotion"}:
                return True
        return False

    def _busy(self, key: ModelKey, pods: tuple[PodSeen, ...], memory: Memory) -> Owner | None:
        """Who rolls out another model in these pods; asked only where somebody wants to start."""
        if memory.started is not None or not self.memories.owning(key):
            return None
        for other in sorted(self.cache.sharing(pods) - {key}):
            known = self.memories.known(other)
            found = known.started if known and known.seen_at else self._started(other)
            if found is not None:
                return found
        return None

    def _started(self, key: ModelKey) -> Owner | None:
        """Who rolls out a model, by what its objects say of themselves."""
        for one in self.memories.owning(key):
            if is_started(decoded(one)):
                return owner(one)
        return None
