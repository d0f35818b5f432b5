"""Writing what was decided, in the order that was decided, and telling of it."""

import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tidegate_contract import names
from tidegate_operator import telemetry
from tidegate_operator.adapters.cluster import (
    CONFIG_MAP,
    Cluster,
    ClusterError,
    ConflictError,
    GoneError,
    Raw,
)
from tidegate_operator.api import abtest, canaryrollout, modelversion
from tidegate_operator.api.meta import wire
from tidegate_operator.api.quantity import seconds
from tidegate_operator.budget import Budget
from tidegate_operator.cache import Cache, ModelKey, mark
from tidegate_operator.memory import Memory, Owning, goes_back, interval
from tidegate_operator.rollout import experiment_state
from tidegate_operator.rollout.events import Event
from tidegate_operator.rollout.model import Plan, StatusWrite
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.state import Stepping

_CHECKPOINT: Final = 60.0
_TEST_PROGRESS: Final = 15.0
"""Seconds between two statuses of a test that only moved on: people watch its figures."""
_NEWS_A_SECOND: Final = 2.0
"""Statuses of versions in a second that are written only because their metrics moved."""
_PASSING: Final = (5.0, 10.0)
"""Statuses in a second, and at once, whose change may be another one a moment later. A few are
written as they come; of many, as where thousands start or Prometheus is slow, decisions come first:
they wait for later looks.
"""
_LEFT: Final = 0.5
"""The part of these that is left for them by what is written only because figures moved."""

API: Final = f"{names.GROUP}/{names.API_VERSION}"
_OWNERS: Final = frozenset({canaryrollout.KIND, abtest.KIND})
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Writer:
    """Writes to the API server; what it answers with is in the cache at once. ``now``: the wall
    clock. ``pace``: of all that is written though it decides nothing, as many times as much in a
    second, and of each object as many times more seldom, as where there are few.
    """

    cache: Cache
    cluster: Cluster
    now: Callable[[], float]
    pace: float = 1.0
    _deleted: dict[ModelKey, list[Raw]] = field(default_factory=dict)
    _unfit: dict[str, str] = field(default_factory=dict)
    _news: Budget = field(default_factory=lambda: Budget(_NEWS_A_SECOND))
    _passing: Budget = field(default_factory=lambda: Budget(*_PASSING))

    async def act(
        self, key: ModelKey, seen: Observation, plan: Plan, memory: Memory, *, progress: bool
    ) -> None:
        """Do what was decided, in the order that was decided.

        What goes on is remembered once its status is written, so that memory is never ahead of
        it; a decision to go back is remembered at once, so that no failing write can undo it.
        """
        back = {uid: state for uid, state in plan.states.items() if goes_back(state)}
        memory.states |= back
        if back and memory.rollback_since is None:
            memory.rollback_since = seen.now
        if plan.table_first:
            await self._write_table(key, seen, plan)
        await self._write_owners(seen, plan, memory, progress=progress)
        if not plan.table_first:
            await self._write_table(key, seen, plan)
        self._count_rollback(plan, memory, seen.now)
        await self._write_versions(plan, memory, seen.now, progress=progress)
        for name in plan.secrets:
            await self.cluster.ensure_secret(key[0], name, key[1])
        for one in plan.removals:
            raw = await self.cluster.remove_annotation(
                one.kind, one.metadata, one.annotation, one.value
            )
            if raw is not None:
                self.cache.put(one.kind, raw)

    async def sweep(self, key: ModelKey) -> None:
        """Remove the table of a model that is no more."""
        stored = self.cache.table(key)
        if stored is not None:
            name = names.routing_table_name(key[1])
            await self.cluster.delete_table(key[0], name, stored.uid)
        self.cache.forget_table(key)
        self._deleted.pop(key, None)

    async def _write_owners(
        self, seen: Observation, plan: Plan, memory: Memory, *, progress: bool
    ) -> None:
        """The statuses of rollouts and tests: at once where their meaning changed."""
        mine = [write for write in plan.statuses if write.kind in _OWNERS]
        objects: tuple[Owning, ...] = (*seen.rollouts, *seen.tests)
        written = {one.metadata.uid: mark(one.status_json) for one in objects}
        for write in mine:
            if progress or self._at_once(write, seen.now):
                uid = write.metadata.uid
                await self.write_status(write)
                written[uid] = self.cache.status_mark(write.kind, write.metadata)
                memory.states[uid], memory.statuses[uid] = plan.states[uid], written[uid]
        memory.states, memory.statuses = dict(plan.states), written
        memory.intervals = {one.metadata.uid: interval(one) for one in objects}
        if progress:
            memory.checkpointed = seen.now

    async def _write_versions(
        self, plan: Plan, memory: Memory, now: float, *, progress: bool
    ) -> None:
        """The versions' statuses: at once where their meaning changed, with the progress of what
        has begun at the latest; what only moved once a minute, and of many models less often.
        """
        others = [write for write in plan.statuses if write.kind not in _OWNERS]
        news = now - memory.told >= _CHECKPOINT
        for write in others:
            waited = write.urgent and progress and memory.started is not None
            if waited or self._at_once(write, now) or (news and self._affords_news(now)):
                await self.write_status(write)
                memory.told = now

    def _at_once(self, write: StatusWrite, now: float) -> bool:
        """Whether a status is written whatever else there is to do."""
        return write.urgent and (not write.passing or self._passing.take(now, pace=self.pace))

    def _affords_news(self, now: float) -> bool:
        """Whether there is room for a status that says nothing new but its figures."""
        return self._news.take(now) and self._passing.take(now, pace=self.pace, leave=_LEFT)

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

    async def write_status(self, write: StatusWrite) -> None:
        """Write a status and tell what it says anew.

        Raises:
            ClusterError: it is not written; where it was judged as something else than what is
                there, that is in the cache now.
        """
        meta = write.metadata
        try:
            raw = await self.cluster.write_status(write.kind, meta, write.before, write.after)
        except (ConflictError, GoneError):
            await self._refresh_object(write.kind, meta.namespace, meta.name)
            raise
        self.cache.put(write.kind, raw)
        for event in write.events:
            await self._post(_reference(write.kind, API, wire(meta)), event)

    def progress_due(self, key: ModelKey, memory: Memory, now: float) -> bool:
        """Whether it is time to write progress: every minute, and ten times in a step shorter than
        ten minutes; less often where there are many. Models take different moments of it.
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
        return now - memory.checkpointed >= pause * self.pace

    def note_deleted(self, key: ModelKey, raw: Raw) -> None:
        """A version was deleted; ``raw``: as it was last."""
        self._deleted.setdefault(key, []).append(raw)

    async def warn_of_deletions(self, key: ModelKey) -> None:
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

    async def warn_of_unfit(self, key: ModelKey) -> None:
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

    def _count_rollback(self, plan: Plan, memory: Memory, now: float) -> None:
        rolling = any(goes_back(state) for state in plan.states.values())
        if memory.rollback_since is not None and not rolling:
            telemetry.ROLLBACK.observe(now - memory.rollback_since)
            memory.rollback_since = None

    async def _post(self, involved: Raw, event: Event) -> None:
        """An event that cannot be posted is lost: it tells, it decides nothing."""
        told = event.type, event.reason, event.message
        _log.info("%s %s: %s %s: %s", involved["kind"], involved["name"], *told)
        try:
            await self.cluster.post_event(involved, *told)
        except ClusterError as error:
            _log.warning("event %s not posted: %s", event.reason, error)


def _reference(kind: str, version: str, metadata: Raw) -> Raw:
    return {
        "apiVersion": version,
        "kind": kind,
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "uid": metadata["uid"],
    }
