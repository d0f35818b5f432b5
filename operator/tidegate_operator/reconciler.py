"""The loop that looks at models when it is time and does what was decided.

All deciding is in ``rollout.model.decide``, gathering what it rests on in ``observer``, writing in
``writer``; here are the clock, and what to do when a write fails: look again soon. Models never
wait for each other: each look is a task of its own, and only a model's own looks come one after the
other.
"""

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tidegate_operator import telemetry
from tidegate_operator.adapters.cluster import (
    POD,
    Cluster,
    ClusterError,
    ConflictError,
    GoneError,
    Raw,
    UnreachableError,
)
from tidegate_operator.adapters.metrics import Readings
from tidegate_operator.adapters.pods import Pods
from tidegate_operator.adapters.queries import Queries
from tidegate_operator.api import modelversion
from tidegate_operator.api.quantity import epoch
from tidegate_operator.batching import Policies
from tidegate_operator.budget import Budget
from tidegate_operator.cache import Cache, ModelKey
from tidegate_operator.listing import Listing
from tidegate_operator.memory import Memories, Memory, Owning, is_started, owner
from tidegate_operator.observer import Look, Observer, Unread
from tidegate_operator.places import Places
from tidegate_operator.readings import Evidence, moment
from tidegate_operator.rollout import experiment_state
from tidegate_operator.rollout.glance import glance
from tidegate_operator.rollout.model import AnyState, Plan, decide
from tidegate_operator.rollout.observation import Observation, Reading
from tidegate_operator.rollout.state import Gating, Stepping
from tidegate_operator.schedule import Schedule
from tidegate_operator.writer import Writer

_MANY: Final = 500
"""Models with something live from which on what decides nothing is written less often of each: the
more seldom by the root of their number.
"""
_SOON: Final = 0.2
"""Seconds to the next look while pods are being waited for, or after a write failed."""
_PATIENT: Final = 5.0
"""Seconds to the next look where pods have been waited for in vain for long."""
_EACH: Final = 0.00125
"""Seconds more to it for each model whose pods are waited for: twice what a look takes."""
_SELDOM: Final = 30.0
"""Seconds to the next look where nothing is going on."""
_TOGETHER: Final = 0.02
"""Seconds within which looks count as due at once: they then share a reading."""
_FEW: Final = 1000
_AT_ONCE: Final = 0.4
"""What one reading is about at most: so many models, or this part of all."""
_PARALLEL: Final = 16
_FIRST, _STARTED, _LAST = range(3)
"""Whose look comes first: that which may take traffic back, then those at rollouts and tests that
have begun, then all others.
"""
_PROGRESSING: Final = 4
"""Looks that write progress at the same time: those that decide something do not wait for them."""
_PROGRESS_A_SECOND: Final = 50.0
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Looks at models and acts. ``now``: the wall clock, epoch seconds."""

    cache: Cache
    cluster: Cluster
    evidence: Evidence
    pods: Pods
    queries: Queries
    scrape_interval: float
    now: Callable[[], float]
    last_round: float = 0.0
    _schedule: Schedule = field(default_factory=Schedule)
    _to_judge: dict[ModelKey, tuple[Unread, float]] = field(default_factory=dict)
    _later: dict[ModelKey, None] = field(default_factory=dict)
    _settling: set[ModelKey] = field(default_factory=set)
    _live: set[ModelKey] = field(default_factory=set)
    _reading: bool = False
    _judging: int = 0
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _places: Places = field(default_factory=lambda: Places(_PARALLEL))
    _background: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PROGRESSING))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _progress: Budget = field(default_factory=lambda: Budget(_PROGRESS_A_SECOND))
    _memories: Memories = field(init=False)
    _observer: Observer = field(init=False)
    _writer: Writer = field(init=False)
    _policies: Policies = field(init=False)
    _listing: Listing = field(init=False)

    def __post_init__(self) -> None:
        self._memories = Memories(self.cache, self.now)
        self._observer = Observer(
            cache=self.cache,
            evidence=self.evidence,
            pods=self.pods,
            queries=self.queries,
            memories=self._memories,
            scrape_interval=self.scrape_interval,
            now=self.now,
        )
        self._writer = Writer(cache=self.cache, cluster=self.cluster, now=self.now)
        self._policies = Policies(
            cache=self.cache, pods=self.pods, write=self._writer.write_status, now=self.now
        )
        self._listing = Listing(
            cache=self.cache,
            pages=self.cluster.pages,
            wake=lambda key: self._wake(key, self.now()),
        )

    def observe(self, kind: str, raw: Raw, *, deleted: bool) -> None:
        """Take in a watch event and look at the models that it concerns."""
        concerned = self.cache.remove(kind, raw) if deleted else self.cache.put(kind, raw)
        if kind == POD and (deleted or concerned):
            self._observer.forget_pod(raw["metadata"]["uid"])
        for key in concerned:
            if deleted and kind == modelversion.KIND:
                self._writer.note_deleted(key, raw)
            if known := self._memories.known(key):
                known.settling = None
            self._wake(key, self.now())

    def doubt(self) -> None:
        """A watch began anew, or the API server could not be reached: deletions may have gone
        untold.
        """
        self._listing.doubt()

    async def run(self) -> None:
        """List everything, then look at models as they come due, for ever.

        Nothing is decided before everything was listed: a model whose rollout is not known yet
        would look as if nobody owned it.
        """
        await self._listing.begin()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listing.go_on())
                group.create_task(self._policies.run())
                while True:
                    self._woken.clear()
                    for task in (*self._begin(), *self._write_progress()):
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._pause()):
                            await self._woken.wait()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _pause(self) -> float:
        """Seconds to the next thing to do."""
        now = self.now()
        pause = min(self._schedule.next() - now, _SELDOM)
        if self._later and not (self._reading or self._judging):
            pause = min(pause, 1.0 / _PROGRESS_A_SECOND)
        return max(0.0, pause)

    def _wake(self, key: ModelKey, at: float) -> None:
        if self._schedule.wake(key, at):
            self._woken.set()

    async def _round(self) -> None:
        """Begin what is due, and wait for it."""
        await asyncio.gather(*self._begin())
        await asyncio.gather(*self._write_progress())

    def _begin(self) -> Iterator[asyncio.Task[None]]:
        """Begin what is due. A model whose evidence is to be judged waits for a reading; whatever
        else wakes it meanwhile does not.
        """
        now = self.now()
        self.last_round = now
        for key, at in self._schedule.due(now + _TOGETHER):
            unread = None if key in self._to_judge else self._observer.unread(key, now)
            if unread is None:
                yield asyncio.create_task(self._look(key, Look(at)))
            else:
                self._to_judge[key] = (unread, at)
        if self._to_judge and not self._reading:
            yield asyncio.create_task(self._judge())
        if self.evidence.due(now):
            yield asyncio.create_task(self._refresh())

    def _write_progress(self) -> Iterator[asyncio.Task[None]]:
        """Begin looks at which progress is written, too: of many a few at a time, and none while
        evidence is judged.
        """
        now = self.now()
        busy = self._reading or self._judging
        while self._later and not busy and self._progress.take(now):
            key = next(iter(self._later))
            del self._later[key]
            yield asyncio.create_task(self._tell_progress(key))

    async def _tell_progress(self, key: ModelKey) -> None:
        """A look at which progress is written. It waits for its turn among the others of the kind
        before that among its model's looks: none of those waits for it.
        """
        async with self._background:
            await self._look(key, Look(self.now()), progress=True)

    async def _judge(self) -> None:
        """Look at all models that are to be judged; one reading of Prometheus serves many."""
        self._reading = True
        looks = []
        try:
            while self._to_judge:
                due = self._taken()
                asked = self.now()
                readings = await self.evidence.samples(
                    due.keys(),
                    min(unread.since for unread, _ in due.values()),
                    max(unread.interval for unread, _ in due.values()),
                )
                for number, (key, (_, at)) in enumerate(due.items()):
                    reading = readings.of(key) if isinstance(readings, Readings) else readings
                    look = Look(at, reading, asked)
                    looks.append(asyncio.create_task(self._look(key, look)))
                    if number % _PARALLEL == 0:  # whatever else there is to do is not kept waiting
                        await asyncio.sleep(0)
        finally:
            self._reading = False
            self._judging += 1
        try:
            await asyncio.gather(*looks)
        finally:
            self._judging -= 1
            self._woken.set()

    def _taken(self) -> dict[ModelKey, tuple[Unread, float]]:
        """What the next reading is about: of many models that wait, after a restart or a reading
        that failed, never so many that Prometheus could not answer in time for long.
        """
        limit = max(_FEW, int(len(self._memories) * _AT_ONCE))
        taken = dict(itertools.islice(self._to_judge.items(), limit))
        for key in taken:
            del self._to_judge[key]
        return taken

    async def _refresh(self) -> None:
        for key in await self.evidence.refresh():
            self._wake(key, self.now())

    async def _look(self, key: ModelKey, look: Look, *, progress: bool = False) -> None:
        """One look at a model. ``progress``: what is progress only is to be written, too."""
        async with self._memories.of(key).turn:
            try:
                pause = await self._reconcile(key, look, progress=progress)
            except (ConflictError, GoneError):
                pause = _SOON / 2
            except ClusterError as error:
                _log.warning("%s/%s: %s", *key, error)
                if isinstance(error, UnreachableError):
                    self.doubt()
                pause = 5 * _SOON
            except Exception:  # noqa: BLE001 - one model's defect must not stop the others
                _log.exception("%s/%s: a defect of the operator; looked at again in 5s", *key)
                pause = 5.0
        if pause is not None:
            self._wake(key, self.now() + pause)

    async def _reconcile(self, key: ModelKey, look: Look, *, progress: bool) -> float | None:
        """One look; returns the pause to the next one, None where the model is no more."""
        memory = self._memories.of(key)
        look = await self._observer.asked(key, look, memory)
        if not progress and self._glanced(key, look):
            return self._until_next_look(key, self._memories.of(key))
        rank = self._rank(key, look)
        async with contextlib.nullcontext() if progress else self._places.taken(rank):
            with telemetry.RECONCILE.time():
                if await self._swept(key):
                    await self._policies.tell(key)
                    return None
                await self._writer.warn_of_deletions(key)
                await self._writer.warn_of_unfit(key)
                await self._decided(key, look, progress=progress)
                await self._policies.tell(key)
        return self._until_next_look(key, self._memories.of(key))

    def _rank(self, key: ModelKey, look: Look) -> int:
        """Which looks come before this one where many wait."""
        memory = self._memories.of(key)
        if look.reading is not None or memory.rollback_since is not None:
            return _FIRST
        return _STARTED if memory.started is not None else _LAST

    def _glanced(self, key: ModelKey, look: Look) -> bool:
        """Look at what has moved since everything was decided, if that is evidence only."""
        memory = self._memories.of(key)
        if memory.quiet is None:
            return False
        seen = self._observer.observation(key, look, memory, whole=False)
        if memory.quiet != self._observer.still(key, seen):
            return False
        told = key not in self._later and self._writer.progress_due(key, memory, seen.now)
        states = glance(seen, memory.states, detailed=told)
        if states is None:
            return False
        memory.states = states
        self._note(memory, seen, look.due)
        self._note_reading(memory, seen)
        if told:
            self._later[key] = None
            self._woken.set()
        return True

    async def _decided(self, key: ModelKey, look: Look, *, progress: bool) -> None:
        """Decide everything about a model anew, and do it."""
        memory = self._memories.of(key)
        seen = self._observer.observation(key, look, memory)
        plan = decide(seen, memory.states)
        progress = progress or (
            bool(plan.statuses)
            and self._writer.progress_due(key, memory, seen.now)
            and self._progress.take(seen.now)
        )
        self._reserve(key, seen, plan, memory)
        went_live = _went_live(plan, memory)
        self._note(memory, seen, look.due)
        if went_live:
            memory.last_look = seen.now
        memory.ask_pods = plan.ask_pods
        memory.quiet = None
        await self._writer.act(key, seen, plan, memory, progress=progress)
        self._policies.note(key, plan.applied)
        if progress:
            self._later.pop(key, None)
        if any(_only_lacks_before(one) for one in plan.states.values()):
            self.evidence.hurry(key)
        self._note_reading(memory, seen)
        self._note_settling(key, plan, seen, memory)

    def _reserve(self, key: ModelKey, seen: Observation, plan: Plan, memory: Memory) -> None:
        """Hold the pods for who starts, before anybody else decides; let who waits know when they
        are free.
        """
        objects: tuple[Owning, ...] = (*seen.rollouts, *seen.tests)
        begun = [one for one in objects if is_started(plan.states.get(one.metadata.uid))]
        ended = memory.started is not None and not begun
        memory.started = owner(begun[0]) if begun else None
        if ended:
            for other in self.cache.sharing(self.cache.pods(key)) - {key}:
                self._wake(other, self.now())

    def _note(self, memory: Memory, seen: Observation, due: float) -> None:
        """Note that a model was looked at."""
        telemetry.TICK_LAG.observe(max(0.0, self.now() - due))
        memory.seen_at = seen.now
        if seen.reading is not None:
            memory.last_look = seen.now

    def _note_reading(self, memory: Memory, seen: Observation) -> None:
        """Note up to when samples were read, once what they told is remembered."""
        if isinstance(seen.reading, Reading):
            memory.read_at = seen.reading.at

    def _note_settling(self, key: ModelKey, plan: Plan, seen: Observation, memory: Memory) -> None:
        """Note since when pods have been waited for, or that there was nothing to do."""
        if not plan.settling or plan.table is not None:
            memory.settling = None
        if plan.settling:
            memory.settling = memory.settling or seen.now
            self._settling.add(key)
        else:
            self._settling.discard(key)
        urgent = any(write.urgent and not write.passing for write in plan.statuses)
        if not (plan.settling or urgent or plan.table or plan.removals or plan.ask_pods):
            memory.quiet = self._observer.still(key, seen)

    def _note_live(self, key: ModelKey, *, live: bool) -> None:
        """Note how many models there are whose progress is to be written."""
        (self._live.add if live else self._live.discard)(key)
        self._writer.pace = max(1.0, math.sqrt(len(self._live) / _MANY))

    async def _swept(self, key: ModelKey) -> bool:
        """Remove the table of a model that has neither versions nor pods any more."""
        if self.cache.versions(key) or self._memories.owning(key) or self.cache.pods(key):
            return False
        await self._writer.sweep(key)
        self._memories.drop(key)
        self._policies.forget(key)
        self._later.pop(key, None)
        self._settling.discard(key)
        self._note_live(key, live=False)
        return True

    def _until_next_look(self, key: ModelKey, memory: Memory) -> float:
        """Seconds to the next look: soon while pods are waited for, the longer that takes the less
        often; else when its part is next judged, so that models share one reading.
        """
        now = self.now()
        starts = [
            epoch(one.spec.start_time) - now for one in self.cache.tests(key) if one.spec.start_time
        ]
        running = self._memories.live(key, memory)
        self._note_live(key, live=bool(running))
        pauses = [
            _SELDOM,
            *(
                one.interval - (now - moment(key, one.interval)) % one.interval + _TOGETHER / 2
                for one in running
            ),
            *(ahead for ahead in starts if ahead > 0),
        ]
        if memory.settling is not None:
            pauses.append(self._patience(memory, now - memory.settling))
        return min(pauses)

    def _patience(self, memory: Memory, waited: float) -> float:
        """Seconds until pods are asked again: soon, but for those that have been waited for for
        long, and where many models wait at once, so that their looks take half of the time at most;
        never later where traffic is to be taken back.
        """
        if memory.rollback_since is not None:
            return min(max(_SOON, waited / 10), 1.0)
        return max(min(max(_SOON, waited / 10), _PATIENT), len(self._settling) * _EACH)


def _only_lacks_before(state: AnyState) -> bool:
    """Whether it starts once it is known how the model did before."""
    return isinstance(state, Gating | experiment_state.Gating) and state.reason == "NoData"


def _went_live(plan: Plan, memory: Memory) -> bool:
    """Whether a weight is live since this look: its clock runs from here."""
    return any(
        _live_since(state) is not None
        and uid in memory.states
        and _live_since(memory.states[uid]) is None
        for uid, state in plan.states.items()
    )


def _live_since(state: AnyState) -> float | None:
    match state:
        case Stepping(run=run):
            return run.evidence.live_since
        case experiment_state.Running(run=tested):
            return tested.evidence.live_since
        case _:
            return None
