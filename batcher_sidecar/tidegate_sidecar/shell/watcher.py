"""Follows one model's routing table: at the API server, in its own copy, in a mounted file.

Without the API server the pod goes on with the table that it has; the deletion of a table is no
table to apply and is ignored.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from kubernetes.aio.client import ApiClient

from tidegate_contract import names
from tidegate_contract.acknowledgement import Acknowledgement, BatchLive, UserSample, VersionState
from tidegate_contract.table import RoutingTable, TableError
from tidegate_sidecar.core.adoption import Adoption, Shown
from tidegate_sidecar.shell.follower import Followed, Follower

BOOT_PATIENCE: Final = 10.0
"""Seconds before a pod that cannot reach the API server calls its own copy good enough."""
FILE_SECONDS: Final = 5.0
"""Between two looks at the mounted file; the kubelet itself takes a minute or more."""

_log = logging.getLogger(__name__)


class TableWatcher:
    """One model's table in one pod. ``apply`` is called with each table to apply."""

    def __init__(
        self,
        namespace: str,
        model: str,
        apply: Callable[[RoutingTable], None],
        *,
        api: ApiClient | None,
        state_directory: Path | None = None,
        table_directory: Path | None = None,
    ) -> None:
        self._namespace = namespace
        self._model = model
        self._name = names.routing_table_name(model)
        self._apply = apply
        self._api = api
        self._copy = state_directory / f"{self._name}.json" if state_directory else None
        self._mounted = table_directory / self._name if table_directory else None
        self._adoption = Adoption(namespace, model)
        self._said: str | None = None
        self.current = False
        """Whether the table applied is, as far as can be known, the one in force."""

    def acknowledge(
        self,
        versions: dict[int, VersionState],
        *,
        undeclared: Sequence[int] = (),
        direct_at: Mapping[int, float] = MappingProxyType({}),
        users: UserSample | None = None,
        live: BatchLive | None = None,
    ) -> Acknowledgement:
        """What is acknowledged of the model."""
        table, applied = self._adoption.table, self._adoption.applied
        return Acknowledgement(
            table_uid=applied.uid if applied else None,
            revision=table.revision if table else 0,
            digest=applied.digest if applied else "",
            refused=self._adoption.refused,
            versions=versions,
            undeclared=list(undeclared),
            direct_at=dict(direct_at),
            users=users,
            live=live,
        )

    def boot(self) -> None:
        """Apply the higher of the pod's own copy and the mounted file, if there is any."""
        if self._copy and (kept := self._read_copy(self._copy)):
            self._recall(kept, "the copy of the last table applied")
        self._look_at_file()

    async def run(self) -> None:
        """Follow the table for ever."""
        async with asyncio.TaskGroup() as tasks:
            if self._mounted:
                tasks.create_task(self._poll_file())
            if self._api:
                tasks.create_task(self._lose_patience())
                tasks.create_task(self._follower(self._api).run())
            else:
                self.current = True

    # The mounted file and the copy

    async def _poll_file(self) -> None:
        while True:
            await asyncio.sleep(FILE_SECONDS)
            self._look_at_file()

    def _look_at_file(self) -> None:
        if not self._mounted or not (shown := _read_mounted(self._mounted)):
            return
        if self._api:
            self._recall(shown, f"the table mounted at {self._mounted}")
        else:
            self._offer(shown)

    def _recall(self, shown: Shown, what: str) -> None:
        try:
            table = self._adoption.recall(shown)
        except TableError as error:
            self._say(f"{what} is passed over: {error}")
            return
        if table:
            self._adopted(table)

    @staticmethod
    def _read_copy(path: Path) -> Shown | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Shown)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("%s is passed over: %s", path, error)
            return None

    def _write_copy(self) -> None:
        if not self._copy:
            return
        beside = self._copy.with_suffix(".new")
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(msgspec.json.encode(self._adoption.applied))
            beside.replace(self._copy)
        except OSError as error:
            self._say(f"the table applied cannot be kept for a restart: {error}")

    # The API server

    async def _lose_patience(self) -> None:
        await asyncio.sleep(BOOT_PATIENCE)
        self.current = True

    def _follower(self, api: ApiClient) -> Follower:
        return Follower(
            api,
            self._namespace,
            "configmaps",
            self._name,
            found=lambda found: self._offer(_shown(found)),
            listed=self._listed,
            deleted=lambda: _log.warning(
                "%s: its table was deleted; the one applied stays", self._model
            ),
            failed=self._say,
        )

    def _listed(self) -> None:
        self.current = True

    # Both

    def _offer(self, shown: Shown) -> None:
        table = self._adoption.offer(shown)
        if refused := self._adoption.refused:
            self._say(f"a table is refused, the last good one stays: {refused}")
        else:
            self._said = None
        if table:
            self._adopted(table)

    def _adopted(self, table: RoutingTable) -> None:
        self._apply(table)
        _log.info("%s: revision %d is applied", self._model, table.revision)
        self._write_copy()

    def _say(self, text: str) -> None:
        """Log what lasts once, not at every look."""
        if text != self._said:
            _log.warning("%s: %s", self._model, text)
        self._said = text


def _shown(found: Followed) -> Shown:
    return Shown(
        text=found.data.get(names.TABLE_KEY, ""),
        digest=found.data.get(names.DIGEST_KEY, "").strip(),
        uid=found.metadata.uid,
    )


def _read_mounted(folder: Path) -> Shown | None:
    """The table in a mounted ConfigMap.

    The kubelet swaps all of its files at once by a link: both are read behind the link as it is
    now, else they could be of two tables.
    """
    link = folder / "..data"
    place = link.resolve() if link.exists() else folder
    try:
        text = (place / names.TABLE_KEY).read_text()
        digest = (place / names.DIGEST_KEY).read_text()
    except OSError:  # optional: there is no such ConfigMap, or it has just been swapped
        return None
    return Shown(text=text, digest=digest.strip())
