"""Follows one object of the API server, by name, for as long as it is asked to.

The watch asks for one object by name, the only form of list and watch that a role with
resourceNames allows. Whatever breaks it, it is taken up again.
"""

import asyncio
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Literal

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, ApiException

WATCH_SECONDS: Final = 30
"""A watch ends by itself after so long and goes on where it was: what a firewall has silently
cut off is noticed that soon, for one small request of each pod."""
ANSWER_SECONDS: Final = 10.0
"""How long an answer, or the end of a watch, may be overdue."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0


class Metadata(msgspec.Struct, rename="camel"):
    """What every object and list has, as far as it matters here."""

    uid: str = ""
    resource_version: str = ""


class Followed(msgspec.Struct):
    """A ConfigMap or a Secret."""

    metadata: Metadata
    data: dict[str, str] = {}


class _List(msgspec.Struct):
    metadata: Metadata
    items: list[Followed]


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Event(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class Follower:
    """Follows one object. ``resource``: ``configmaps`` or ``secrets``.

    ``found`` is called with the object as it is and at each change, ``deleted`` when it goes.
    ``listed`` is called each time that the API server has said how things are, ``failed`` with
    one sentence each time that it could not be asked.
    """

    def __init__(
        self,
        api: ApiClient,
        namespace: str,
        resource: str,
        name: str,
        *,
        found: Callable[[Followed], None],
        failed: Callable[[str], None],
        deleted: Callable[[], None] = lambda: None,
        listed: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/{resource}"
        self._name = name
        self._found = found
        self._failed = failed
        self._deleted = deleted
        self._listed = listed

    async def run(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Follow it; ends, at the end of a watch, once it is not wanted any more."""
        pause = FIRST_PAUSE
        while wanted():
            try:
                version = await self._list()
                self._listed()
                while wanted():
                    version = await self._watch(version)
                    pause = FIRST_PAUSE
            except (ApiException, aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
                self._failed(f"the API server cannot be followed: {_reason(error)}")
                # Pods that lost the same API server must not come back to it at the same moment.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _list(self) -> str:
        """Tell the object as it is now; returns the version to watch from."""
        async with asyncio.timeout(ANSWER_SECONDS):
            response = await self._get()
            found = msgspec.json.decode(await response.read(), type=_List)
        for item in found.items:
            self._found(item)
        return found.metadata.resource_version

    async def _watch(self, version: str) -> str:
        """Tell each change until the watch ends; returns the version to go on from."""
        async with asyncio.timeout(WATCH_SECONDS + ANSWER_SECONDS):
            response = await self._get(
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
        found = msgspec.json.decode(event.object, type=Followed)
        if event.type in ("ADDED", "MODIFIED"):
            self._found(found)
        elif event.type == "DELETED":
            self._deleted()
        return found.metadata.resource_version

    async def _get(self, **query: str) -> aiohttp.ClientResponse:
        """Ask for the object by name.

        With the client's transport and credentials, but not through its typed calls: their models
        cost 25 MiB in every pod.
        """
        request = await self._api.param_serialize(
            "GET",
            self._path,
            query_params=[("fieldSelector", f"metadata.name={self._name}"), *query.items()],
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(*request)
        response: aiohttp.ClientResponse = answer.response
        if response.status != HTTPStatus.OK:
            raise ApiException(status=response.status, reason=_message(await response.read()))
        return response


def _message(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Status).message
    except msgspec.DecodeError:
        return body.decode(errors="replace")


def _reason(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    return str(error) or type(error).__name__
