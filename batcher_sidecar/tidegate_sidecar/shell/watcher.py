"""Follows one model's routing table: at the API server, in its own copy, in a mounted file.

The watch asks for one object by name, the only form of list and watch that a role with
resourceNames allows. Without the API server the pod goes on with the table that it has; the
deletion of a table is no table to apply and is ignored.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, ApiException

from tidegate_contract import names
from tidegate_contract.acknowledgement import Acknowledgement, VersionState
from tidegate_contract.table import RoutingTable, TableError
from tidegate_sidecar.core.adoption import Adoption, Shown

WATCH_SECONDS: Final = 30
"""A watch ends by itself after so long and goes on where it was: what a firewall has silently
cut off is noticed that soon, for one small request of each pod."""
ANSWER_SECONDS: Final = 10.0
"""How long an answer, or the end of a watch, may be overdue."""
BOOT_PATIENCE: Final = 10.0
"""Seconds before a pod that cannot reach the API server calls its own copy good enough."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
FILE_SECONDS: Final = 5.0
"""Between two looks at the mounted file; the kubelet itself takes a minute or more."""

_log = logging.getLogger(__name__)


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str = ""
    resource_version: str = ""


class _ConfigMap(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}

    def shown(self) -> Shown:
        return Shown(
            text=self.data.get(names.TABLE_KEY, ""),
            digest=self.data.get(names.DIGEST_KEY, "").strip(),
            uid=self.metadata.uid,
        )


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[_ConfigMap]


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Event(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


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

    def acknowledge(self, versions: dict[int, VersionState]) -> Acknowledgement:
        """What is acknowledged of the model."""
        table, applied = self._adoption.table, self._adoption.applied
        return Acknowledgement(
            table_uid=applied.uid if applied else None,
            revision=table.revision if table else 0,
            digest=applied.digest if applied else "",
            refused=self._adoption.refused,
            versions=versions,
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
                tasks.create_task(self._follow(self._api))
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

    async def _follow(self, api: ApiClient) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                version = await self._list(api)
                self.current = True
                while True:
                    version = await self._watch(api, version)
                    pause = FIRST_PAUSE
            except (ApiException, aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
                self._say(f"the API server cannot be followed: {_reason(error)}")
            # Pods that lost the same API server must not come back to it at the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _list(self, api: ApiClient) -> str:
        """Offer the table as it is now; returns the version to watch from."""
        async with asyncio.timeout(ANSWER_SECONDS):
            response = await self._get(api)
            found = msgspec.json.decode(await response.read(), type=_List)
        for item in found.items:
            self._offer(item.shown())
        return found.metadata.resource_version

    async def _watch(self, api: ApiClient, version: str) -> str:
        """Offer each new table until the watch ends; returns the version to go on from."""
        async with asyncio.timeout(WATCH_SECONDS + ANSWER_SECONDS):
            response = await self._get(
                api,
                watch="true",
                resourceVersion=version,
                timeoutSeconds=str(WATCH_SECONDS),
                allowWatchBookmarks="true",
            )
            try:
                async for line in response.content:
                    version = self._handle(msgspec.json.decode(line, type=_Event))
            finally:
                response.close()
        return version

    def _handle(self, event: _Event) -> str:
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise ApiException(status=status.code, reason=status.message)
        found = msgspec.json.decode(event.object, type=_ConfigMap)
        if event.type in ("ADDED", "MODIFIED"):
            self._offer(found.shown())
        elif event.type == "DELETED":
            _log.warning("%s: its table was deleted; the one applied stays", self._model)
        return found.metadata.resource_version

    async def _get(self, api: ApiClient, **query: str) -> aiohttp.ClientResponse:
        """Ask for the ConfigMap by name.

        With the client's transport and credentials, but not through its typed calls: their models
        cost 25 MiB in every pod.
        """
        request = await api.param_serialize(
            "GET",
            f"/api/v1/namespaces/{self._namespace}/configmaps",
            query_params=[("fieldSelector", f"metadata.name={self._name}"), *query.items()],
            auth_settings=["BearerToken"],
        )
        answer = await api.call_api(*request)
        response: aiohttp.ClientResponse = answer.response
        if response.status != HTTPStatus.OK:
            raise ApiException(status=response.status, reason=_message(await response.read()))
        return response

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


def _message(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Status).message
    except msgspec.DecodeError:
        return body.decode(errors="replace")


def _reason(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return str(error) or type(error).__name__
