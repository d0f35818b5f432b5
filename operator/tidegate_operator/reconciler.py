"""The loop that looks at models when it is time and does what was decided.

All deciding is in ``rollout.model.decide``; here are the clock, the order of writes, and what to
do when one of them fails: look again soon. Progress between two statuses is kept in memory only,
and rebuilt from the last checkpoint and Prometheus after a restart. Models never wait for each
other: each look is a task of its own, and only a model's own looks come one after the other.
"""

import asyncio
import contextlib
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tidegate_contract import names
from tidegate_contract.acknowledgement import PodReport
from tidegate_contract.table import Owner
from tidegate_operator import questions, telemetry
from tidegate_operator.adapters.cluster import (
    CONFIG_MAP,
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
from tidegate_operator.api import abtest, batchpolicy, canaryrollout, modelversion
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import wire
from tidegate_operator.api.quantity import epoch, seconds
from tidegate_operator.cache import KINDS, Cache, ModelKey, PodSeen, identity
from tidegate_operator.evidence.experiment import Question
from tidegate_operator.evidence.queries import Answer
from tidegate_operator.questions import Questions
from tidegate_operator.readings import Evidence
from tidegate_operator.rollout import experiment_look, experiment_state, policies
from tidegate_operator.rollout.events import Event
from tidegate_operator.rollout.glance import glance
from tidegate_operator.rollout.model import AnyState, Plan, StatusWrite, decide
from tidegate_operator.rollout.observation import (
    Observation,
    Pod,
    Reading,
    StoredTable,
    Unreadable,
)
from tidegate_operator.rollout.state import Gating, RollingBack, Started, Stepping, decode

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
_RETRY: Final = 1.0
_CHECKPOINT: Final = 60.0
_TEST_PROGRESS: Final = 15.0
"""Seconds between two statuses of a test that only moved on: people watch its figures."""
_PARALLEL: Final = 16
_PROGRESSING: Final = 4
"""Looks that write progress at the same time: those that decide something do not wait for them."""
_PROGRESS_A_SECOND: Final = 50.0
_NEWS_A_SECOND: Final = 2.0
"""Statuses of versions in a second that are written only because their metrics moved."""
_RELIST: Final = 300.0
"""Seconds between lists while watches go on undisturbed."""
_RELIST_SOON: Final = 10.0
"""Seconds from when a watch began anew to a list: the other watches are back by then, too."""

API: Final = f"{names.GROUP}/{names.API_VERSION}"
_OWNERS: Final = frozenset({canaryrollout.KIND, abtest.KIND})
_AT_REST: Final = {"", "Pending", "Waiting"} | canaryrollout.FINISHED | abtest.FINISHED
"""Phases without any traffic to take back."""
_log = logging.getLogger(__name__)

Owning = CanaryRollout | ABTest


class _Live(NamedTuple):
    """A rollout or a test whose counters are read. ``cursors``: by pod, what is counted already."""

    interval: float
    since: float
    cursors: list[dict[str, float]]


@dataclass(slots=True)
class _Memory:
    """What is known of a model beyond its objects.

    ``statuses``: by uid, the status that a state goes with. ``intervals``: by uid, seconds between
    looks. ``last_look``: when evidence was last judged. ``read_at``: Prometheus' time of the last
    samples. ``seen_at``: of the last look at all. ``settling``: since when pods have been waited
    for. ``quiet``: what was there at a look that had nothing to write but progress.
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
class _Budget:
    """So many in a second, a second's worth at once."""

    a_second: float
    _left: float = 0.0
    _at: float = 0.0

    def take(self, now: float) -> bool:
        """Take one, if there is one left."""
        grown = self._left + (now - self._at) * self.a_second
        self._left, self._at = min(grown, self.a_second), now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


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
    _due: dict[ModelKey, float] = field(default_factory=dict)
    _to_judge: dict[ModelKey, tuple[float, float]] = field(default_factory=dict)
    _later: dict[ModelKey, None] = field(default_factory=dict)
    _settling: set[ModelKey] = field(default_factory=set)
    _reading: bool = False
    _judging: int = 0
    _memory: dict[ModelKey, _Memory] = field(default_factory=dict)
    _reports: dict[str, PodReport] = field(default_factory=dict)
    _applied: dict[ModelKey, policies.Applied | None] = field(default_factory=dict)
    _deleted: dict[ModelKey, list[Raw]] = field(default_factory=dict)
    _unfit: dict[str, str] = field(default_factory=dict)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _doubtful: asyncio.Event = field(default_factory=asyncio.Event)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PARALLEL))
    _background: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PROGRESSING))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _progress: _Budget = field(default_factory=lambda: _Budget(_PROGRESS_A_SECOND))
    _news: _Budget = field(default_factory=lambda: _Budget(_NEWS_A_SECOND))

    def observe(self, kind: str, raw: Raw, *, deleted: bool) -> None:
        """Take in a watch event and look at the models that it concerns."""
        concerned = self.cache.remove(kind, raw) if deleted else self.cache.put(kind, raw)
        if kind == POD and (deleted or concerned):
            self._reports.pop(raw["metadata"]["uid"], None)
        for key in concerned:
            if deleted and kind == modelversion.KIND:
                self._deleted.setdefault(key, []).append(raw)
            if known := self._memory.get(key):
                known.settling = None
            self._wake(key, self.now())

    def doubt(self) -> None:
        """A watch began anew, or the API server could not be reached: deletions may have gone
        untold.
        """
        self._doubtful.set()

    async def run(self) -> None:
        """List everything, then look at models as they come due, for ever.

        Nothing is decided before everything was listed: a model whose rollout is not known yet
        would look as if nobody owned it.
        """
        while not await self._list():  # noqa: ASYNC110 - nothing tells when it will answer
            await asyncio.sleep(_RETRY)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._relist())
                while True:
                    self._woken.clear()
                    self._tasks |= {*self._begin(), *self._write_progress()}
                    self._tasks = {task for task in self._tasks if not task.done()}
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._pause()):
                            await self._woken.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _pause(self) -> float:
        """Seconds to the next thing to do."""
        now = self.now()
        pause = min(min(self._due.values(), default=math.inf) - now, _SELDOM)
        if self._later and not (self._reading or self._judging):
            pause = min(pause, 1.0 / _PROGRESS_A_SECOND)
        return max(0.0, pause)

    async def _list(self) -> bool:
        """Make the cache what the API server has; says whether it could be listed."""
        concerned: set[ModelKey] = set()
        try:
            for kind in KINDS:
                there: set[tuple[str, str, str]] = set()
                revision = 0
                async for page in self.cluster.pages(kind):
                    revision = page.revision
                    for raw in page.items:
                        there.add(identity(raw))
                        concerned |= self.cache.put(kind, raw)
                concerned |= self.cache.retain(kind, there, revision)
        except ClusterError as error:
            _log.warning("cannot list, going on with what is known: %s", error)
            return False
        finally:
            for key in concerned:
                self._wake(key, self.now())
        return True

    async def _relist(self) -> None:
        """Notice what no watch event told: what was deleted while a watch was broken."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RELIST):
                    await self._doubtful.wait()
                    await asyncio.sleep(_RELIST_SOON)
            self._doubtful.clear()
            if not await self._list():
                self.doubt()

    def _wake(self, key: ModelKey, at: float) -> None:
        if at < self._due.get(key, math.inf):
            self._due[key] = at
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
        for key in [key for key, at in self._due.items() if at <= now + _TOGETHER]:
            at = self._due.pop(key)
            since = None if key in self._to_judge else self._unread_since(key, now)
            if since is None:
                yield asyncio.create_task(self._look(key, at))
            else:
                self._to_judge[key] = (since, at)
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
            await self._look(key, self.now(), progress=True)

    async def _judge(self) -> None:
        """Look at all models that are to be judged; one reading of Prometheus serves them all."""
        self._reading = True
        looks = []
        try:
            while self._to_judge:
                due, self._to_judge = self._to_judge, {}
                asked = self.now()
                readings = await self.evidence.samples(min(since for since, _ in due.values()))
                for number, (key, (_, at)) in enumerate(due.items()):
                    reading = readings.of(key) if isinstance(readings, Readings) else readings
                    looks.append(asyncio.create_task(self._look(key, at, reading, asked)))
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

    async def _refresh(self) -> None:
        for key in await self.evidence.refresh():
            self._wake(key, self.now())

    def _unread_since(self, key: ModelKey, now: float) -> float | None:
        """From when on (on Prometheus' clock) samples are needed for judging a model now; None
        where it is not judged now: that is once in each interval, whatever else wakes it.
        """
        memory = self._recalled(key)
        last = memory.last_look
        live = [
            one
            for one in self._live(key, memory)
            if last is None or now // one.interval > last // one.interval
        ]
        if not live:
            return None
        pods = [pod.name for pod in self.cache.pods(key)]
        return min(self._since(one, pods, memory.read_at) for one in live)

    def _since(self, live: _Live, pods: list[str], read_at: float | None) -> float:
        """When the oldest sample that is still needed was taken. A pod that had no new ones when
        they were last read is waited for for a while only: reading everybody's samples from its
        last one on would cost more than it is worth.
        """
        begin = live.since + self.evidence.skew - 3 * self.scrape_interval
        marks = [known.get(pod, begin) for known in live.cursors for pod in pods]
        patience = live.interval + 4 * self.scrape_interval
        limit = -math.inf if read_at is None else read_at - patience
        return max(min(marks, default=begin), limit)

    def _live(self, key: ModelKey, memory: _Memory) -> list[_Live]:
        known = self.cache.statuses(key)
        if not known.keys() <= memory.states.keys() & memory.intervals.keys():
            for one in self._owning(key):
                memory.states.setdefault(one.metadata.uid, _decoded(one))
                memory.statuses.setdefault(one.metadata.uid, one.status_json)
                memory.intervals[one.metadata.uid] = _interval(one)
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
            found.append(_Live(memory.intervals[uid], since, cursors))
        return found

    def _running(self, test: ABTest, memory: _Memory) -> experiment_state.Running | None:
        """A test's state, if its evidence is being gathered."""
        known = memory.states.get(test.metadata.uid)
        if not isinstance(known, experiment_state.State):
            known = experiment_state.decode(test.status)
        return experiment_state.live(known)

    def _owning(self, key: ModelKey) -> tuple[Owning, ...]:
        return (*self.cache.rollouts(key), *self.cache.tests(key))

    def _recalled(self, key: ModelKey) -> _Memory:
        """What is known of a model. Progress that goes with another status than the one that is
        there is dropped: somebody else has written it, and has counted the time until now. A
        decision to go back is dropped only where it was carried out.
        """
        memory = self._memory.get(key)
        if memory is None:
            memory = self._memory[key] = _Memory()
        for uid, (phase, status) in self.cache.statuses(key).items():
            known = memory.states.get(uid)
            if known is None or (_goes_back(known) and phase not in _AT_REST):
                continue
            if memory.statuses.get(uid) != status:
                del memory.states[uid]
                memory.last_look = self.now()
        return memory

    async def _look(
        self,
        key: ModelKey,
        due: float,
        reading: Reading | Unreadable | None = None,
        asked: float = 0.0,
        *,
        progress: bool = False,
    ) -> None:
        """One look at a model that was due then. ``asked``: when its reading was asked for.
        ``progress``: what is progress only is to be written, too.
        """
        async with self._recalled(key).turn:
            try:
                pause = await self._reconcile(key, due, reading, asked, progress=progress)
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

    async def _reconcile(
        self,
        key: ModelKey,
        due: float,
        reading: Reading | Unreadable | None,
        asked: float,
        *,
        progress: bool,
    ) -> float | None:
        """One look; returns the pause to the next one, None where the model is no more."""
        memory = self._recalled(key)
        pods = self.cache.pods(key)
        await self._ask(key, pods, memory, judging=reading is not None)
        answers = await self._answers(key, memory) if reading is not None else {}
        if not progress and self._glanced(key, due, reading, asked, answers):
            return self._until_next_look(key, self._recalled(key))
        async with contextlib.nullcontext() if progress else self._slots:
            with telemetry.RECONCILE.time():
                if await self._swept(key):
                    await self._tell_policies(key)
                    return None
                await self._warn_of_deletions(key)
                await self._warn_of_unfit(key)
                await self._decided(key, due, reading, asked, answers, progress=progress)
                await self._tell_policies(key)
        return self._until_next_look(key, self._recalled(key))

    def _glanced(
        self,
        key: ModelKey,
        due: float,
        reading: Reading | Unreadable | None,
        asked: float,
        answers: dict[questions.Asked, Answer],
    ) -> bool:
        """Look at what has moved since everything was decided, if that is evidence only."""
        memory = self._recalled(key)
        if memory.quiet is None:
            return False
        seen = self._observation(key, memory, reading, asked, answers, whole=False)
        if memory.quiet != self._still(key, seen):
            return False
        told = self._progress_due(key, memory, seen.now)
        states = glance(seen, memory.states, detailed=told)
        if states is None:
            return False
        memory.states = states
        self._note(memory, seen, due)
        if told:
            self._later[key] = None
            self._woken.set()
        return True

    async def _decided(
        self,
        key: ModelKey,
        due: float,
        reading: Reading | Unreadable | None,
        asked: float,
        answers: dict[questions.Asked, Answer],
        *,
        progress: bool,
    ) -> None:
        """Decide everything about a model anew, and do it."""
        memory = self._recalled(key)
        seen = self._observation(key, memory, reading, asked, answers)
        progress = progress or (
            self._progress_due(key, memory, seen.now) and self._progress.take(seen.now)
        )
        plan = decide(seen, memory.states)
        self._reserve(key, seen, plan, memory)
        went_live = _went_live(plan, memory)
        self._note(memory, seen, due)
        if went_live:
            memory.last_look = seen.now
        memory.ask_pods = plan.ask_pods
        memory.quiet = None
        await self._act(key, seen, plan, memory, progress=progress)
        if progress:
            self._later.pop(key, None)
        self._applied[key] = plan.applied or self._applied.get(key)
        self._note_settling(key, plan, seen, memory)

    def _note(self, memory: _Memory, seen: Observation, due: float) -> None:
        """Note that a model was looked at."""
        telemetry.TICK_LAG.observe(max(0.0, self.now() - due))
        memory.seen_at = seen.now
        if seen.reading is not None:
            memory.last_look = seen.now

    def _note_reading(self, memory: _Memory, seen: Observation) -> None:
        """Note up to when samples were read, once what they told is remembered."""
        if isinstance(seen.reading, Reading):
            memory.read_at = seen.reading.at

    def _note_settling(self, key: ModelKey, plan: Plan, seen: Observation, memory: _Memory) -> None:
        """Note since when pods have been waited for, or that there was nothing to do."""
        if not plan.settling or plan.table is not None:
            memory.settling = None
        if plan.settling:
            memory.settling = memory.settling or seen.now
            self._settling.add(key)
        else:
            self._settling.discard(key)
        urgent = any(write.urgent for write in plan.statuses)
        if not (plan.settling or urgent or plan.table or plan.removals or plan.ask_pods):
            memory.quiet = self._still(key, seen)

    def _still(self, key: ModelKey, seen: Observation) -> tuple[object, ...]:
        """All that a decision rests on but evidence and time."""
        return self.cache.revisions(key), seen.pods, seen.busy

    async def _swept(self, key: ModelKey) -> bool:
        """Remove the table of a model that has neither versions nor pods any more."""
        if self.cache.versions(key) or self._owning(key) or self.cache.pods(key):
            return False
        stored = self.cache.table(key)
        if stored is not None:
            name = names.routing_table_name(key[1])
            await self.cluster.delete_table(key[0], name, stored.uid)
        self.cache.forget_table(key)
        if (memory := self._memory.pop(key, None)) and memory.questions:
            memory.questions.close()
        self._deleted.pop(key, None)
        self._later.pop(key, None)
        self._settling.discard(key)
        self._applied[key] = None
        return True

    async def _warn_of_deletions(self, key: ModelKey) -> None:
        """Say of a deleted version that still has traffic that it keeps it."""
        stored = self.cache.table(key)
        split = stored.table.split if stored and stored.table else []
        for raw in self._deleted.pop(key, []):
            version = raw["spec"]["version"]
            weight = sum(arm.weight for arm in split if arm.version == version)
            if weight and version not in {one.spec.version for one in self.cache.versions(key)}:
                await self._post(
                    _reference(modelversion.KIND, API, raw["metadata"]),
                    Event(
                        "Warning",
                        "InvalidSpec",
                        f"Deleted, but version {version} has {weight / 100:g}% of {key[1]}: it "
                        "stays loaded and serves on until trafficPercent of other Active versions "
                        "adds up to 100",
                    ),
                )

    async def _warn_of_unfit(self, key: ModelKey) -> None:
        """Say of an object that is not understood (a newer operator's, say) that it is left out."""
        for misfit in self.cache.unfit(key):
            uid, problem = misfit.metadata["uid"], misfit.problem
            if self._unfit.get(uid) != problem:
                self._unfit[uid] = problem
                message = f"Counts for nothing, as it is not understood: {problem}"
                await self._post(
                    _reference(misfit.kind, API, misfit.metadata),
                    Event("Warning", "InvalidSpec", message),
                )

    def _observation(
        self,
        key: ModelKey,
        memory: _Memory,
        reading: Reading | Unreadable | None,
        asked: float,
        answers: dict[questions.Asked, Answer],
        *,
        whole: bool = True,
    ) -> Observation:
        """All that is known now; unless ``whole``, all that evidence is judged by. What rests on a
        reading is seen as of when that was asked for, unless the model was looked at since: time
        must not go back.
        """
        pods = self.cache.pods(key)
        return Observation(
            now=max(asked, memory.seen_at) if reading is not None else self.now(),
            namespace=key[0],
            model=key[1],
            versions=self.cache.versions(key) if whole else (),
            rollouts=self.cache.rollouts(key),
            tests=self.cache.tests(key),
            policies=self.cache.policies(key) if whole else (),
            stored=self.cache.table(key),
            last_table=self.cache.last_table(key),
            pods=tuple(self._pod(one, key[1]) for one in sorted(pods, key=lambda p: p.name)),
            reading=reading,
            live=self.evidence.live(key),
            before=self.evidence.before(key) if self._gating(key, memory) else None,
            answers=answers,
            busy=self._busy(key, pods, memory),
            last_look=memory.last_look,
            scrape_interval=self.scrape_interval,
        )

    def _gating(self, key: ModelKey, memory: _Memory) -> bool:
        """Whether a rollout or a test is about to start."""
        for one in self._owning(key):
            known = memory.states.get(one.metadata.uid)
            phase = one.status.phase
            if isinstance(known, Gating | experiment_state.Gating):
                return True
            if known is None and phase in {"Gating", "WaitingPromotion"}:
                return True
        return False

    def _busy(self, key: ModelKey, pods: tuple[PodSeen, ...], memory: _Memory) -> Owner | None:
        """Who rolls out another model in these pods; asked only where somebody wants to start."""
        if memory.started is not None or not self._owning(key):
            return None
        for other in sorted(self.cache.sharing(pods) - {key}):
            known = self._memory.get(other)
            found = known.started if known and known.seen_at else self._started(other)
            if found is not None:
                return found
        return None

    def _started(self, key: ModelKey) -> Owner | None:
        """Who rolls out a model, by what its objects say of themselves."""
        for one in self._owning(key):
            if _is_started(_decoded(one)):
                return _owner(one)
        return None

    def _reserve(self, key: ModelKey, seen: Observation, plan: Plan, memory: _Memory) -> None:
        """Hold the pods for who starts, before anybody else decides; let who waits know when they
        are free.
        """
        objects: tuple[Owning, ...] = (*seen.rollouts, *seen.tests)
        begun = [one for one in objects if _is_started(plan.states.get(one.metadata.uid))]
        ended = memory.started is not None and not begun
        memory.started = _owner(begun[0]) if begun else None
        if ended:
            for other in self.cache.sharing(self.cache.pods(key)) - {key}:
                self._wake(other, self.now())

    def _pod(self, one: PodSeen, model: str) -> Pod:
        report = self._reports.get(one.uid)
        return Pod(
            name=one.name,
            uid=one.uid,
            ready=one.ready,
            terminating=one.terminating,
            ready_since=one.ready_since,
            ack=report.models.get(model) if report else None,
        )

    async def _ask(
        self, key: ModelKey, pods: Iterable[PodSeen], memory: _Memory, *, judging: bool
    ) -> None:
        """Ask the pods that lag behind the table or lack a version that it wants; all of them where
        what else they tell is needed.
        """
        stored = self.cache.table(key)
        everybody = memory.ask_pods or (
            judging and any(self._running(test, memory) for test in self.cache.tests(key))
        )
        asked = [
            pod for pod in pods if pod.address and (everybody or self._lags(pod, key[1], stored))
        ]
        if not asked:
            return
        reports = await asyncio.gather(*(self.pods.ask(pod.address) for pod in asked))
        for pod, report in zip(asked, reports, strict=True):
            if report is not None and report.pod_uid == pod.uid:
                self._reports[pod.uid] = report

    def _lags(self, pod: PodSeen, model: str, stored: StoredTable | None) -> bool:
        report = self._reports.get(pod.uid)
        ack = report.models.get(model) if report else None
        if ack is None or stored is None or stored.table is None:
            return True
        if (ack.table_uid, ack.revision) != (stored.uid, stored.table.revision) or ack.refused:
            return True
        wanted = {row.version for row in stored.table.versions}
        ready = {v for v, state in ack.versions.items() if state.state == "Ready"}
        return ready != wanted

    async def _answers(self, key: ModelKey, memory: _Memory) -> dict[questions.Asked, Answer]:
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

    async def _act(
        self, key: ModelKey, seen: Observation, plan: Plan, memory: _Memory, *, progress: bool
    ) -> None:
        """Do what was decided, in the order that was decided.

        What goes on is remembered once its status is written, so that memory is never ahead of
        it; a decision to go back is remembered at once, so that no failing write can undo it.
        """
        back = {uid: state for uid, state in plan.states.items() if _goes_back(state)}
        memory.states |= back
        if back and memory.rollback_since is None:
            memory.rollback_since = seen.now
        if plan.table_first:
            await self._write_table(key, seen, plan)
        await self._write_owners(seen, plan, memory, progress=progress)
        if not plan.table_first:
            await self._write_table(key, seen, plan)
        self._count_rollback(plan, memory, seen.now)
        await self._write_versions(plan, memory, seen.now)
        for name in plan.secrets:
            await self.cluster.ensure_secret(key[0], name, key[1])
        for one in plan.removals:
            raw = await self.cluster.remove_annotation(
                one.kind, one.metadata, one.annotation, one.value
            )
            if raw is not None:
                self.cache.put(one.kind, raw)

    async def _write_owners(
        self, seen: Observation, plan: Plan, memory: _Memory, *, progress: bool
    ) -> None:
        """The statuses of rollouts and tests: at once where their meaning changed."""
        mine = [write for write in plan.statuses if write.kind in _OWNERS]
        objects: tuple[Owning, ...] = (*seen.rollouts, *seen.tests)
        written = {one.metadata.uid: one.status_json for one in objects}
        for write in mine:
            if write.urgent or progress:
                uid = write.metadata.uid
                await self._write_status(write)
                written[uid] = self.cache.status_json(write.kind, write.metadata)
                memory.states[uid], memory.statuses[uid] = plan.states[uid], written[uid]
        memory.states, memory.statuses = dict(plan.states), written
        memory.intervals = {one.metadata.uid: _interval(one) for one in objects}
        if progress:
            memory.checkpointed = seen.now

    async def _write_versions(self, plan: Plan, memory: _Memory, now: float) -> None:
        """The versions' statuses: at once where their meaning changed; what only moved once a
        minute, and of many models less often.
        """
        others = [write for write in plan.statuses if write.kind not in _OWNERS]
        news = any(not write.urgent for write in others) and now - memory.told >= _CHECKPOINT
        for write in others:
            if write.urgent or (news and self._news.take(now)):
                await self._write_status(write)
                memory.told = now

    async def _write_table(self, key: ModelKey, seen: Observation, plan: Plan) -> None:
        if plan.table is None:
            return
        stored = seen.stored
        try:
            raw = await self.cluster.write_table(
                plan.table,
                stored.uid if stored else None,
                stored.resource_version if stored else None,
            )
        except ConflictError:
            await self._refresh_object(CONFIG_MAP, key[0], names.routing_table_name(key[1]))
            raise
        self.cache.put(CONFIG_MAP, raw)
        problem = stored.problem if stored else "it was deleted" if seen.last_table else None
        if problem:
            reference = _reference(CONFIG_MAP, "v1", raw["metadata"])
            await self._post(reference, Event("Warning", "TableRepaired", f"Rewritten: {problem}"))

    async def _refresh_object(self, kind: str, namespace: str, name: str) -> None:
        """Read what a write has met: no watch tells of a table that lost its label, and a watch
        that hangs tells of nothing.
        """
        try:
            self.cache.put(kind, await self.cluster.get(kind, namespace, name))
        except GoneError:
            self.cache.forget(kind, namespace, name)

    async def _write_status(self, write: StatusWrite) -> None:
        """Write a status and tell what it says anew."""
        meta = write.metadata
        try:
            raw = await self.cluster.write_status(write.kind, meta, write.before, write.after)
        except (ConflictError, GoneError):
            await self._refresh_object(write.kind, meta.namespace, meta.name)
            raise
        self.cache.put(write.kind, raw)
        for event in write.events:
            await self._post(_reference(write.kind, API, wire(meta)), event)

    def _progress_due(self, key: ModelKey, memory: _Memory, now: float) -> bool:
        """Whether it is time to write progress: every minute, and ten times in a step shorter than
        ten minutes. Models take different moments of it.
        """
        pause = _CHECKPOINT
        for state in memory.states.values():
            if isinstance(state, Stepping) and state.clock_since is not None:
                length = state.run.plan[state.run.evidence.step].duration
                pause = min(pause, seconds(length) / 10 if length else pause)
            elif isinstance(state, experiment_state.Running):
                pause = min(pause, _TEST_PROGRESS)
        if memory.checkpointed is None:
            memory.checkpointed = now - pause * zlib.crc32("/".join(key).encode()) / 2**32
        return now - memory.checkpointed >= pause

    async def _tell_policies(self, key: ModelKey) -> None:
        """Write the statuses of the policies that name this model, once all of their models were
        looked at.
        """
        for one in self.cache.policies(key):
            models = [(key[0], model) for model in one.spec.models]
            if not self._applied.keys() >= set(models):
                continue
            parts = {k[1]: part for k in models if (part := self._applied[k]) is not None}
            told = policies.tell(one, parts, self.now())
            after = wire(told)
            if after != one.raw_status:
                await self._write_status(
                    StatusWrite(
                        kind=batchpolicy.KIND,
                        metadata=one.metadata,
                        before=one.raw_status,
                        after=after,
                        urgent=True,
                        events=_policy_events(one.status, told),
                    )
                )

    async def _post(self, involved: Raw, event: Event) -> None:
        """An event that cannot be posted is lost: it tells, it decides nothing."""
        told = event.type, event.reason, event.message
        _log.info("%s %s: %s %s: %s", involved["kind"], involved["name"], *told)
        try:
            await self.cluster.post_event(involved, *told)
        except ClusterError as error:
            _log.warning("event %s not posted: %s", event.reason, error)

    def _until_next_look(self, key: ModelKey, memory: _Memory) -> float:
        """Seconds to the next look: soon while pods are waited for, the longer that takes the less
        often; else the next multiple of the interval, so that models share one reading.
        """
        now = self.now()
        starts = [
            epoch(one.spec.start_time) - now for one in self.cache.tests(key) if one.spec.start_time
        ]
        pauses = [
            _SELDOM,
            *(
                live.interval - now % live.interval + _TOGETHER / 2
                for live in self._live(key, memory)
            ),
            *(ahead for ahead in starts if ahead > 0),
        ]
        if memory.settling is not None:
            pauses.append(self._patience(memory, now - memory.settling))
        return min(pauses)

    def _patience(self, memory: _Memory, waited: float) -> float:
        """Seconds until pods are asked again: soon, but for those that have been waited for for
        long, and where many models wait at once; never later where traffic is to be taken back.
        """
        if memory.rollback_since is not None:
            return min(max(_SOON, waited / 10), 1.0)
        crowd = len(self._settling) * _EACH
        return min(max(_SOON, waited / 10, crowd), _PATIENT)

    def _count_rollback(self, plan: Plan, memory: _Memory, now: float) -> None:
        rolling = any(_goes_back(state) for state in plan.states.values())
        if memory.rollback_since is not None and not rolling:
            telemetry.ROLLBACK.observe(now - memory.rollback_since)
            memory.rollback_since = None


def _decoded(one: Owning) -> AnyState:
    if isinstance(one, ABTest):
        return experiment_state.decode(one.status)
    return decode(one.status)


def _interval(one: Owning) -> float:
    """Seconds between looks at its evidence."""
    if isinstance(one, ABTest):
        return experiment_look.INTERVAL
    return seconds(one.spec.analysis.interval)


def _goes_back(state: AnyState | None) -> bool:
    """Whether it is decided for good that a canary, or a treatment, gets no traffic any more."""
    if isinstance(state, experiment_state.Settling):
        return state.stopped
    return isinstance(state, RollingBack)


def _is_started(state: AnyState | None) -> bool:
    return isinstance(state, Started | experiment_state.Started)


def _owner(one: Owning) -> Owner:
    kind = abtest.KIND if isinstance(one, ABTest) else canaryrollout.KIND
    return Owner(kind=kind, name=one.metadata.name, uid=one.metadata.uid)


def _went_live(plan: Plan, memory: _Memory) -> bool:
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


def _policy_events(old: batchpolicy.Status, new: batchpolicy.Status) -> list[Event]:
    reason = {"Applied": "PolicyApplied", "Waiting": "WaitingForOwner"}.get(new.phase)
    if reason is None or (new.phase, new.message) == (old.phase, old.message):
        return []
    return [Event("Normal", reason, new.message)]


def _reference(kind: str, version: str, metadata: Raw) -> Raw:
    return {
        "apiVersion": version,
        "kind": kind,
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "uid": metadata["uid"],
    }
