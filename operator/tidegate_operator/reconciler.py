"""The loop that looks at models when it is time and does what was decided.

All deciding is in ``rollout.model.decide``; here are the clock, the order of writes, and what to
do when one of them fails: look again soon. Progress between two statuses is kept in memory only,
and rebuilt from the last checkpoint and Prometheus after a restart.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from tidegate_contract import names
from tidegate_contract.acknowledgement import PodReport
from tidegate_operator import telemetry
from tidegate_operator.adapters.cluster import (
    CONFIG_MAP,
    POD,
    Cluster,
    ClusterError,
    ConflictError,
    GoneError,
    Raw,
)
from tidegate_operator.adapters.metrics import Metrics, Readings
from tidegate_operator.adapters.pods import Pods
from tidegate_operator.api import batchpolicy, canaryrollout, modelversion
from tidegate_operator.api.meta import wire
from tidegate_operator.api.quantity import seconds
from tidegate_operator.cache import KINDS, Cache, ModelKey, PodSeen
from tidegate_operator.rollout import policies
from tidegate_operator.rollout.model import Event, Plan, StatusWrite, decide
from tidegate_operator.rollout.observation import Observation, Pod, StoredTable, Unreadable
from tidegate_operator.rollout.state import RollingBack, State, Stepping, decode

_SOON: Final = 0.2
"""Seconds to the next look while pods are being waited for, or after a write failed."""
_SELDOM: Final = 30.0
"""Seconds to the next look where nothing is going on."""
_RETRY: Final = 1.0
_CHECKPOINT: Final = 60.0
_PARALLEL: Final = 16
_SPAN_LIMIT: Final = 3600.0
_RELIST: Final = (10.0, 300.0)
"""Seconds from the start to the second list, and between lists after it."""

API: Final = f"{names.GROUP}/{names.API_VERSION}"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Memory:
    """What is known of a model beyond its objects. ``statuses``: by rollout uid, the status that
    its state goes with.
    """

    states: dict[str, State] = field(default_factory=dict)
    statuses: dict[str, Raw] = field(default_factory=dict)
    last_look: float | None = None
    checkpointed: float = 0.0
    rollback_since: float | None = None


@dataclass(slots=True, kw_only=True)
class Reconciler:
    """Looks at models and acts. ``now``: the wall clock, epoch seconds."""

    cache: Cache
    cluster: Cluster
    metrics: Metrics
    pods: Pods
    scrape_interval: float
    now: Callable[[], float]
    last_round: float = 0.0
    _due: dict[ModelKey, float] = field(default_factory=dict)
    _memory: dict[ModelKey, _Memory] = field(default_factory=dict)
    _reports: dict[str, PodReport] = field(default_factory=dict)
    _applied: dict[ModelKey, policies.Applied | None] = field(default_factory=dict)
    _deleted: dict[ModelKey, list[Raw]] = field(default_factory=dict)
    _unfit: dict[str, str] = field(default_factory=dict)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def observe(self, kind: str, raw: Raw, *, deleted: bool) -> None:
        """Take in a watch event and look at the models that it concerns."""
        old = self.cache.raw(kind, raw["metadata"]["namespace"], raw["metadata"]["name"])
        concerned = self.cache.concerned(kind, old or raw)
        if deleted:
            self.cache.remove(kind, raw)
        elif not self.cache.put(kind, raw):
            return
        if kind == POD:
            self._reports.pop(raw["metadata"]["uid"], None)
        for key in concerned | self.cache.concerned(kind, raw):
            if deleted and kind == modelversion.KIND:
                self._deleted.setdefault(key, []).append(raw)
            self._wake(key, self.now())

    async def run(self) -> None:
        """List everything, then look at models as they come due, for ever.

        Nothing is decided before everything was listed: a model whose rollout is not known yet
        would look as if nobody owned it.
        """
        while not await self._list():  # noqa: ASYNC110 - nothing tells when it will answer
            await asyncio.sleep(_RETRY)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relist())
            while True:
                self._woken.clear()
                await self._round()
                pause = min(self._due.values(), default=self.now() + _SELDOM) - self.now()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, min(pause, _SELDOM))):
                        await self._woken.wait()

    async def _list(self) -> bool:
        """Make the cache what the API server has; says whether it could be listed."""
        try:
            for kind in KINDS:
                listed = await self.cluster.list(kind)
                self.cache.replace(kind, listed.items, listed.revision)
        except ClusterError as error:
            _log.warning("cannot list, going on with what is known: %s", error)
            return False
        for key in self.cache.models():
            self._wake(key, self.now())
        return True

    async def _relist(self) -> None:
        """Notice what no watch event told: what was deleted while a watch was broken."""
        pause, later = _RELIST
        while True:
            await asyncio.sleep(pause)
            pause = later
            await self._list()

    def _wake(self, key: ModelKey, at: float) -> None:
        if at < self._due.get(key, math.inf):
            self._due[key] = at
            self._woken.set()

    async def _round(self) -> None:
        """Look at every model that is due; one reading of Prometheus serves them all."""
        now = self.now()
        self.last_round = now
        due = [key for key, at in self._due.items() if at <= now]
        if not due:
            return
        telemetry.TICK_LAG.set(max(now - self._due.pop(key) for key in due))
        judged = {key: span for key in due if (span := self._span(key, now)) is not None}
        readings: Readings | Unreadable | None = None
        if judged:
            readings = await self.metrics.read(min(max(judged.values()), _SPAN_LIMIT))
            outcome = "error" if isinstance(readings, Unreadable) else "ok"
            telemetry.QUERIES.labels(outcome).inc()
        limit = asyncio.Semaphore(_PARALLEL)

        async def one(key: ModelKey) -> None:
            async with limit:
                await self._look(key, readings if key in judged else None)

        await asyncio.gather(*(one(key) for key in due))

    def _span(self, key: ModelKey, now: float) -> float | None:
        """How far back the evidence of a model must be read now; None where none is due: that is
        once in each interval, whatever else wakes a model.
        """
        memory = self._recalled(key)
        for rollout in self.cache.rollouts(key):
            state = memory.states.get(rollout.metadata.uid) or decode(rollout.status)
            if not isinstance(state, Stepping) or state.run.evidence.live_since is None:
                continue
            interval = seconds(rollout.spec.analysis.interval)
            if memory.last_look is None or now // interval > memory.last_look // interval:
                evidence = state.run.evidence
                pods = {pod.name for pod in self.cache.pods(key)}
                cursors = [at for pod, at in evidence.cursors.items() if pod in pods]
                oldest = min(cursors, default=evidence.live_since)
                assert oldest is not None
                return max(0.0, now - oldest) + 3 * self.scrape_interval + 2.0
        return None

    def _recalled(self, key: ModelKey) -> _Memory:
        """What is known of a model. Progress that goes with another status than the one that is
        there is dropped: somebody else has written it, and has counted the time until now. A
        decision to go back is never dropped.
        """
        memory = self._memory.setdefault(key, _Memory())
        for one in self.cache.rollouts(key):
            uid = one.metadata.uid
            known = memory.states.get(uid)
            if known is None or isinstance(known, RollingBack):
                continue
            if memory.statuses.get(uid) != one.raw_status:
                del memory.states[uid]
                memory.last_look = self.now()
        return memory

    async def _look(self, key: ModelKey, readings: Readings | Unreadable | None) -> None:
        with telemetry.RECONCILE.time():
            try:
                pause = await self._reconcile(key, readings)
            except (ConflictError, GoneError):
                pause = _SOON / 2
            except ClusterError as error:
                _log.warning("%s/%s: %s", *key, error)
                pause = 5 * _SOON
            except Exception:  # noqa: BLE001 - one model's defect must not stop the others
                _log.exception("%s/%s: a defect of the operator; looked at again in 5s", *key)
                pause = 5.0
        if pause is not None:
            self._wake(key, self.now() + pause)

    async def _reconcile(
        self, key: ModelKey, readings: Readings | Unreadable | None
    ) -> float | None:
        """One look; returns the pause to the next one, None where the model is no more."""
        if await self._swept(key):
            await self._tell_policies(key)
            return None
        memory = self._recalled(key)
        await self._warn_of_deletions(key)
        await self._warn_of_unfit(key)
        seen = await self._observation(key, memory, readings)
        plan = decide(seen, memory.states)
        if readings is not None or _went_live(plan, memory):
            memory.last_look = seen.now
        await self._act(key, seen, plan, memory)
        self._applied[key] = plan.applied or self._applied.get(key)
        await self._tell_policies(key)
        if plan.settling:
            return _SOON
        return self._until_next_look(plan, seen)

    async def _swept(self, key: ModelKey) -> bool:
        """Remove the table of a model that has neither versions nor pods any more."""
        if self.cache.versions(key) or self.cache.rollouts(key) or self.cache.pods(key):
            return False
        stored = self.cache.table(key)
        if stored is not None:
            name = names.routing_table_name(key[1])
            await self.cluster.delete_table(key[0], name, stored.uid)
        self.cache.forget_table(key)
        self._memory.pop(key, None)
        self._deleted.pop(key, None)
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
        for kind, raw, problem in self.cache.unfit(key):
            meta = raw["metadata"]
            if self._unfit.get(meta["uid"]) != problem:
                self._unfit[meta["uid"]] = problem
                message = f"Counts for nothing, as it is not understood: {problem}"
                await self._post(
                    _reference(kind, API, meta), Event("Warning", "InvalidSpec", message)
                )

    async def _observation(
        self, key: ModelKey, memory: _Memory, readings: Readings | Unreadable | None
    ) -> Observation:
        pods = self.cache.pods(key)
        stored = self.cache.table(key)
        await self._ask(key, pods, stored)
        reading = readings.of(key) if isinstance(readings, Readings) else readings
        return Observation(
            now=self.now(),
            namespace=key[0],
            model=key[1],
            versions=self.cache.versions(key),
            rollouts=self.cache.rollouts(key),
            policies=tuple(one for one in self.cache.policies(key[0]) if key[1] in one.spec.models),
            stored=stored,
            last_table=self.cache.last_table(key),
            pods=tuple(self._pod(one, key[1]) for one in sorted(pods, key=lambda p: p.name)),
            reading=reading,
            last_look=memory.last_look,
            scrape_interval=self.scrape_interval,
        )

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
        self, key: ModelKey, pods: Iterable[PodSeen], stored: StoredTable | None
    ) -> None:
        """Ask the pods that lag behind the table or lack a version that it wants."""
        lagging = [pod for pod in pods if pod.address and self._lags(pod, key[1], stored)]
        for pod, report in zip(
            lagging,
            await asyncio.gather(*(self.pods.ask(pod.address) for pod in lagging)),
            strict=True,
        ):
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

    async def _act(self, key: ModelKey, seen: Observation, plan: Plan, memory: _Memory) -> None:
        """Do what was decided, in the order that was decided.

        What goes on is remembered once its status is written, so that memory is never ahead of
        it; a decision to go back is remembered at once, so that no failing write can undo it.
        """
        back = {u: s for u, s in plan.states.items() if isinstance(s, RollingBack)}
        memory.states |= back
        if back and memory.rollback_since is None:
            memory.rollback_since = seen.now
        if plan.table_first:
            await self._write_table(key, seen, plan)
        checkpoint = self._checkpoint_due(plan, memory, seen.now)
        rollouts = [w for w in plan.statuses if w.kind == canaryrollout.KIND]
        written = {one.metadata.uid: one.raw_status for one in seen.rollouts}
        for write in rollouts:
            if write.urgent or checkpoint:
                uid = write.metadata.uid
                written[uid] = await self._write_status(write)
                memory.states[uid], memory.statuses[uid] = plan.states[uid], written[uid]
        memory.states, memory.statuses = dict(plan.states), written
        if checkpoint and rollouts:
            memory.checkpointed = seen.now
        if not plan.table_first:
            await self._write_table(key, seen, plan)
        self._count_rollback(plan, memory, seen.now)
        for write in plan.statuses:
            if write.kind != canaryrollout.KIND and write.urgent:
                await self._write_status(write)

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
            await self._refresh(CONFIG_MAP, key[0], names.routing_table_name(key[1]))
            raise
        self.cache.put(CONFIG_MAP, raw)
        problem = stored.problem if stored else "it was deleted" if seen.last_table else None
        if problem:
            reference = _reference(CONFIG_MAP, "v1", raw["metadata"])
            await self._post(reference, Event("Warning", "TableRepaired", f"Rewritten: {problem}"))

    async def _refresh(self, kind: str, namespace: str, name: str) -> None:
        """Read what a write has met: no watch tells of a table that lost its label, and a watch
        that hangs tells of nothing.
        """
        try:
            self.cache.put(kind, await self.cluster.get(kind, namespace, name))
        except GoneError:
            if known := self.cache.raw(kind, namespace, name):
                self.cache.remove(kind, known)

    async def _write_status(self, write: StatusWrite) -> Raw:
        """Write a status and tell what it says anew; returns it as the API server has it."""
        meta = write.metadata
        try:
            raw = await self.cluster.write_status(write.kind, meta, write.before, write.after)
        except (ConflictError, GoneError):
            await self._refresh(write.kind, meta.namespace, meta.name)
            raise
        self.cache.put(write.kind, raw)
        for event in write.events:
            await self._post(_reference(write.kind, API, wire(meta)), event)
        status: Raw = raw["status"]
        return status

    def _checkpoint_due(self, plan: Plan, memory: _Memory, now: float) -> bool:
        """Progress is written every minute; while a step's clock runs, ten times in a step shorter
        than ten minutes.
        """
        pause = _CHECKPOINT
        for state in plan.states.values():
            if isinstance(state, Stepping) and state.clock_since is not None:
                length = state.run.plan[state.run.evidence.step].duration
                pause = min(pause, seconds(length) / 10 if length else pause)
        return now - memory.checkpointed >= pause

    async def _tell_policies(self, key: ModelKey) -> None:
        """Write the statuses of the policies that name this model, once all of their models were
        looked at.
        """
        for one in self.cache.policies(key[0]):
            models = [(key[0], model) for model in one.spec.models]
            if key not in models or not self._applied.keys() >= set(models):
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

    def _until_next_look(self, plan: Plan, seen: Observation) -> float:
        """Looks fall on multiples of the interval, so that models share one reading."""
        for one in seen.rollouts:
            if isinstance(plan.states.get(one.metadata.uid), Stepping):
                interval = seconds(one.spec.analysis.interval)
                return interval - seen.now % interval
        return _SELDOM

    def _count_rollback(self, plan: Plan, memory: _Memory, now: float) -> None:
        rolling = any(isinstance(state, RollingBack) for state in plan.states.values())
        if memory.rollback_since is not None and not rolling:
            telemetry.ROLLBACK.observe(now - memory.rollback_since)
            memory.rollback_since = None


def _went_live(plan: Plan, memory: _Memory) -> bool:
    for uid, state in plan.states.items():
        old = memory.states.get(uid)
        if not isinstance(state, Stepping) or state.run.evidence.live_since is None:
            continue
        if isinstance(old, Stepping) and old.run.evidence.live_since is None:
            return True
    return False


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
