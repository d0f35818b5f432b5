"""Telling BatchPolicies how they fare: at once what it means, and live figures now and then.

Looks at models say on how many pods a policy is applied. How these pods batch just now moves all
the time and decides nothing, so the policies are gone through one after the other, at a pace that
their number does not change, and a status is written only where its figures moved noticeably.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from tidegate_contract.acknowledgement import BatchLive, PodReport
from tidegate_operator.adapters.cluster import ClusterError
from tidegate_operator.adapters.pods import Pods
from tidegate_operator.api.batchpolicy import KIND, BatchPolicy, Live, Status
from tidegate_operator.api.meta import wire
from tidegate_operator.budget import Budget
from tidegate_operator.cache import Cache, ModelKey, PodSeen
from tidegate_operator.rollout import policies
from tidegate_operator.rollout.model import StatusWrite
from tidegate_operator.rollout.policies import Applied

_EVERY: Final = 15.0
"""Seconds between two looks at a policy's live figures, or more where there are many pods; less
where one was applied just now.
"""
_ASKED_A_SECOND: Final = 20.0
"""Pods, by all policies together."""
_AT_ONCE: Final = 8
_NEWS_A_SECOND: Final = 2.0
"""Statuses in a second that are written only because figures moved."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Policies:
    """The policies' statuses. ``now``: the wall clock. ``write``: writes a status and its events;
    raises ClusterError.
    """

    cache: Cache
    pods: Pods
    write: Callable[[StatusWrite], Awaitable[None]]
    now: Callable[[], float]
    _applied: dict[ModelKey, Applied | None] = field(default_factory=dict)
    _anew: asyncio.Event = field(default_factory=asyncio.Event)
    _news: Budget = field(default_factory=lambda: Budget(_NEWS_A_SECOND))

    def note(self, key: ModelKey, applied: Applied | None) -> None:
        """A look found how far a model's policy is applied; None where it could not say."""
        self._applied[key] = applied or self._applied.get(key)

    def forget(self, key: ModelKey) -> None:
        """The model is no more."""
        self._applied[key] = None

    async def tell(self, key: ModelKey) -> None:
        """Write the statuses of the policies that name this model, once all of their models were
        looked at.
        """
        for one in self.cache.policies(key):
            parts = self._parts(one)
            if parts is None:
                continue
            told = policies.tell(one, parts, _live(one), self.now())
            if wire(told) != one.raw_status:
                await self._write(one, told)

    async def run(self) -> None:
        """Follow all policies, for ever."""
        while True:
            self._anew.clear()
            for one in self.cache.batch_policies():
                await asyncio.sleep(await self._followed(one) / _ASKED_A_SECOND)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._anew.wait()

    async def follow(self, one: BatchPolicy) -> int:
        """Ask a policy's pods how they batch and write it down if it is news; says how many were
        asked.

        Raises:
            ClusterError: it could not be written.
        """
        parts = self._parts(one)
        if parts is None:
            return 0
        held = [model for model, part in parts.items() if part.holder == one.metadata.name]
        pods = {model: self._asked((one.metadata.namespace, model)) for model in held}
        reports = await self._reports({pod.uid: pod for some in pods.values() for pod in some})
        live = []
        for model in held:
            told = self._told((one.metadata.namespace, model), pods[model], reports)
            if told:
                live.append(policies.summed(model, one.spec, told))
            elif pods[model]:  # just now, none applies the newest table yet
                live += [row for row in _live(one) if row.model == model]
        await self._write_news(one, parts, live)
        return len(reports)

    async def _write_news(
        self, one: BatchPolicy, parts: dict[str, Applied], live: list[Live]
    ) -> None:
        told = policies.tell(one, parts, live, self.now())
        if policies.moved(one.status, told) and self._news.take(self.now()):
            await self._write(one, told)

    async def _followed(self, one: BatchPolicy) -> int:
        """As ``follow``; what fails is tried again at the next turn."""
        try:
            return await self.follow(one)
        except ClusterError as error:
            _log.info("live figures of %s not written: %s", one.metadata.name, error)
        except Exception:  # noqa: BLE001 - what is only shown must not stop the operator
            _log.exception("%s: a defect of the operator; tried again", one.metadata.name)
        return 0

    def _parts(self, one: BatchPolicy) -> dict[str, Applied] | None:
        """By model, of those that anybody knows of; None until all were looked at."""
        keys = [(one.metadata.namespace, model) for model in one.spec.models]
        if not self._applied.keys() >= set(keys):
            return None
        return {key[1]: part for key in keys if (part := self._applied[key]) is not None}

    def _asked(self, key: ModelKey) -> list[PodSeen]:
        return [
            pod for pod in self.cache.pods(key) if pod.ready and pod.address and not pod.terminating
        ]

    async def _reports(self, pods: dict[str, PodSeen]) -> dict[str, PodReport | None]:
        """By uid, what the pods say."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def ask(pod: PodSeen) -> PodReport | None:
            async with turns:
                return await self.pods.ask(pod.address)

        answers = await asyncio.gather(*map(ask, pods.values()))
        return dict(zip(pods, answers, strict=True))

    def _told(
        self, key: ModelKey, pods: list[PodSeen], reports: dict[str, PodReport | None]
    ) -> list[BatchLive]:
        """How those pods batch a model that apply its table."""
        stored = self.cache.table(key)
        if stored is None or stored.table is None:
            return []
        found = []
        for pod in pods:
            report = reports[pod.uid]
            ack = report.models.get(key[1]) if report and report.pod_uid == pod.uid else None
            if ack is None or ack.live is None or ack.table_uid != stored.uid:
                continue
            if ack.revision >= stored.table.revision:
                found.append(ack.live)
        return found

    async def _write(self, one: BatchPolicy, told: Status) -> None:
        await self.write(
            StatusWrite(
                kind=KIND,
                metadata=one.metadata,
                before=one.raw_status,
                after=wire(told),
                urgent=True,
                events=policies.events(one.status, told),
            )
        )
        if told.phase == "Applied" != one.status.phase:
            self._anew.set()


def _live(one: BatchPolicy) -> list[Live]:
    """What was last known, unless the policy was edited since: that was under other settings."""
    return one.status.live if one.status.observed_generation == one.metadata.generation else []
