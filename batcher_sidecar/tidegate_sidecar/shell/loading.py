"""Keeps one model's versions in this pod's Triton as its routing table wants them.

Triton keeps its versions by one list for each model: every call sends the list whole, so the
calls of a model never overlap. What was found on Triton 2.51:

- A call in which a version fails leaves the versions that were loaded before as they are, and
  drops the other new ones.
- A version that is on the list and not on disk is passed over without a word.
- A version whose files changed is loaded again by the next call, its place kept meanwhile.
  Python writes ``__pycache__`` beside a model's source at its first load: on a repository that
  can be written to, that is such a change. Mount it read-only, or compile the sources before.

A version counts as loaded only after its warm-up (`_warm_up`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tidegate_contract.acknowledgement import VersionState
from tidegate_contract.table import RoutingTable
from tidegate_sidecar.core.loading import Load, Loading, Unload
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.version import VersionInfo
from tidegate_sidecar.shell.repository import ConfigFileError, read_config, versions_on_disk
from tidegate_sidecar.shell.triton import (
    PROBE_TIMEOUT,
    Config,
    Triton,
    TritonError,
    TritonGoneError,
)

POLL: Final = 0.5
"""Seconds between two looks at Triton."""
SEARCH: Final = 10.0
"""Seconds between two searches for versions that the table does not name."""

_UNLOADED: Final = ("", "unloaded")
"""What Triton gives as reason for a version that is not there for no fault of its own."""

_log = logging.getLogger(__name__)


class VersionKeeper:
    """One model in one pod. ``changed`` is called after each change of the serving versions;
    ``clear_of`` awaits a call that Triton is long busy with, and keeps requests out of its way.
    ``memory_short``: why there is no room for one more version, None where there is.
    """

    def __init__(
        self,
        runtime: ModelRuntime,
        triton: Triton,
        *,
        repository: Path | None,
        pod_uid: str,
        changed: Callable[[], None],
        clear_of: Callable[[Coroutine[Any, Any, None]], Awaitable[None]],
        memory_short: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._runtime = runtime
        self._model = runtime.model
        self._triton = triton
        self._repository = repository
        self._changed = changed
        self._clear_of = clear_of
        self._memory_short = memory_short
        self._loading = Loading(pod_uid)
        self._present: set[int] = set()
        self._found: set[int] = set()
        self._searched_at = float("-inf")
        self._config: Config | None = None
        self._wake = asyncio.Event()
        self._lost = False
        self.alive = False
        """Whether Triton answered at the last look."""

    def wake(self) -> None:
        """The table changed: act now."""
        self._wake.set()

    def states(self) -> dict[int, VersionState]:
        """What is acknowledged of the table's versions."""
        if self._runtime.table is None:
            return {}
        return self._loading.states(
            self._runtime.table,
            serving=self._runtime.ready,
            present=self._present,
            memory_short=self._memory_short(),
        )

    def undeclared(self) -> list[int]:
        """The versions in the model repository that the table does not name."""
        table = self._runtime.table
        named = {row.version for row in table.versions} if table else set()
        return sorted(self._found - named)

    async def watch(self) -> None:
        """Notice for ever when Triton goes and comes, and when a version of it is gone."""
        while True:
            await self._look()
            if self.alive:
                await self._search()
            await asyncio.sleep(POLL)

    async def act(self) -> None:
        """Load and unload for ever as the table wants."""
        while True:
            self._wake.clear()
            while self.alive and (table := self._runtime.table):
                action = self._next(table)
                if action is None or not await self._do(action, table):
                    break
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._wake.wait()

    async def _look(self) -> None:
        try:
            live = await self._triton.is_live()
            served = list(self._runtime.ready)
            missing = {v for v in served if not await self._triton.is_ready(self._model, v)}
            if not live:
                self.alive = False
            elif not self.alive:
                await self._regain()
            elif gone := missing & self._runtime.ready.keys():
                # Without those that were unloaded on purpose while Triton was being asked.
                await self._drop(gone)
        except (TimeoutError, TritonError):
            # Slow is not gone: requests that wait for it may still be answered.
            self.alive = False
        except TritonGoneError:
            self._lose()

    async def _search(self) -> None:
        """Look for versions that nobody asked for.

        Triton's index has only those that it was once told to load: the repository itself is looked
        into where it is mounted here.
        """
        now = asyncio.get_running_loop().time()
        if now - self._searched_at < SEARCH:
            return
        self._searched_at = now
        if self._repository:
            self._found = await asyncio.to_thread(versions_on_disk, self._repository, self._model)
            return
        with suppress(TimeoutError, TritonError, TritonGoneError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                self._found = set(await self._triton.states(self._model))

    def _lose(self) -> None:
        if self.alive:
            self._lost = True
            _log.warning("%s: Triton is gone; its versions are loaded once it is back", self._model)
        self.alive = False
        self._forget(list(self._runtime.ready))
        self._present.clear()

    async def _regain(self) -> None:
        await self._refresh()
        if self._lost:
            self._runtime.counters.triton_restarts += 1
        self._lost = False
        self.alive = True
        self._wake.set()

    async def _drop(self, gone: Collection[int]) -> None:
        """Versions are gone though Triton is there; all of them: it restarted between looks."""
        _log.warning("%s: versions %s are gone from Triton", self._model, sorted(gone))
        self._forget(gone)
        if not self._runtime.ready:
            self._runtime.counters.triton_restarts += 1
        await self._refresh()
        self._wake.set()

    def _forget(self, versions: Collection[int]) -> None:
        for version in versions:
            if version in self._runtime.ready:
                self._runtime.version_gone(version)
        if versions:
            self._changed()

    async def _refresh(self) -> None:
        states = await self._triton.states(self._model)
        self._present = {version for version, (ready, _) in states.items() if ready}

    def _next(self, table: RoutingTable) -> Load | Unload | None:
        now = asyncio.get_running_loop().time()
        return self._loading.next(
            table,
            serving=self._runtime.ready,
            present=self._present,
            in_use=lambda version: self._runtime.in_use(version, now),
            memory_short=self._memory_short(),
            now=now,
        )

    async def _do(self, action: Load | Unload, table: RoutingTable) -> bool:
        """Do it; whether it is worth asking at once what is next."""
        match action:
            case Load(versions):
                await self._load(versions, table)
                return True
            case Unload(version):
                return await self._unload(version)

    async def _load(self, versions: Collection[int], table: RoutingTable) -> None:
        _log.info("%s: loading versions %s", self._model, list(versions))
        crashed = False
        try:
            errors = await self._call(versions, table)
            for version in sorted(self._present.intersection(versions)):
                if error := await self._admit(version, table):
                    errors[version] = error
        except TritonGoneError as error:
            self._lose()
            crashed = True
            errors = dict.fromkeys(versions, f"Triton went away: {error}")
        now = asyncio.get_running_loop().time()
        for version, why in errors.items():
            _log.error("%s: version %d is not loaded: %s", self._model, version, why)
            self._loading.failed(table, version, why, now, crashed=crashed)

    async def _call(self, versions: Collection[int], table: RoutingTable) -> dict[int, str]:
        """Have Triton load what it lacks; errors by version."""
        told = ""
        if not self._present.issuperset(versions):
            try:
                await self._send_list(self._kept(table) | set(versions))
            except (TritonError, ConfigFileError) as error:
                told = str(error)
        states = await self._triton.states(self._model)
        self._present = {version for version, (ready, _) in states.items() if ready}
        missing = [version for version in versions if version not in self._present]
        errors = {
            version: reason
            for version in missing
            if (reason := states.get(version, (False, ""))[1]) not in _UNLOADED
        }
        if missing and not errors:
            # No version is to blame by name: the call itself failed, or they are not on disk.
            told = told or "the version is not in the model repository"
            errors = dict.fromkeys(missing, told)
        return errors

    async def _admit(self, version: int, table: RoutingTable) -> str | None:
        """Warm up a version that Triton has and route to it; the error, if it cannot be."""
        try:
            info = await self._triton.describe(self._model, version)
            error = await self._warm_up(info, table)
        except TritonError as failure:
            error = str(failure)
        if error:
            await self._withdraw(version)
            return error
        self._loading.succeeded(version)
        self._runtime.version_ready(info)
        self._changed()
        _log.info("%s: version %d is ready", self._model, version)
        return None

    async def _warm_up(self, info: VersionInfo, table: RoutingTable) -> str | None:
        """Run batches of 1, 2, 4 .. the largest that will be sent; the error, if it is one.

        Zeros need not be a valid input: where one alone is answered with an error, nothing is
        learnt, and the rollout judges the version by real requests. Where one is answered well
        and more together are not, the version cannot do what its configuration promises (it
        is out of memory, say): it counts as not loaded. So does one that gives no answer.
        """
        if info.max_batch_size and not info.batchable:
            return None  # zeros would start a sequence, or a stream of answers
        largest = min(info.max_batch_size, table.batch.max_batch_size or info.max_batch_size)
        for size in batch_sizes(largest):
            try:
                await self._triton.infer_zeros(self._model, info, size)
            except TritonError as error:
                if size <= 1:
                    _log.warning("%s: warm-up skipped, zeros are refused: %s", self._model, error)
                    return None
                return f"warm-up with a batch of {size}: {error}"
            except TimeoutError:
                return f"warm-up with a batch of {size}: no answer"
        return None

    async def _unload(self, version: int) -> bool:
        _log.info("%s: unloading version %d", self._model, version)
        self._forget([version])
        return await self._withdraw(version)

    async def _withdraw(self, version: int) -> bool:
        """Take a version that nothing is routed to from Triton."""
        rest = self._present - {version}
        try:
            if rest:
                await self._send_list(rest)
            else:
                await self._clear_of(self._triton.unload(self._model))
        except (TritonError, ConfigFileError) as error:
            _log.error("%s: version %d is not unloaded: %s", self._model, version, error)
            return False
        except TritonGoneError:
            self._lose()
            return False
        self._present = rest
        return True

    async def _send_list(self, versions: Collection[int]) -> None:
        """Send Triton the whole list of versions that it is to have.

        The configuration beside it stays what it was at the first success: an edit of the file
        would load every serving version again in the middle of a rollout.
        """
        config = await self._find_config() if self._config is None else self._config
        await self._clear_of(self._triton.load(self._model, versions, config))
        self._config = config

    async def _find_config(self) -> Config:
        if self._repository:
            return await asyncio.to_thread(read_config, self._repository, self._model)
        if not self._present:
            _log.info(
                "%s: loading what its config.pbtxt names, to learn the rest of it", self._model
            )
            await self._clear_of(self._triton.load_by_file(self._model))
            await self._refresh()
        return await self._triton.config(self._model, min(self._present))

    def _kept(self, table: RoutingTable) -> set[int]:
        """What Triton has and must not lose by the next call."""
        named = {row.version for row in table.versions}
        return self._present & (named | set(self._runtime.ready))


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4 .. and the largest itself; 0 alone for a model without batches."""
    if largest == 0:
        return [0]
    powers = [1 << power for power in range(largest.bit_length())]
    return [*powers, largest] if powers[-1] != largest else powers
