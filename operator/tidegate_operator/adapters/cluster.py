"""What the operator writes to the API server and lists from it, and our own errors for it."""

import contextlib
import json
import math
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any, Final, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from kubernetes.aio import client, config
from typing_extensions import override

from tidegate_contract import names, table
from tidegate_operator.api import abtest, batchpolicy, canaryrollout, modelversion
from tidegate_operator.api.meta import Metadata
from tidegate_operator.api.quantity import timestamp

Raw = dict[str, Any]

PLURALS: Final = {
    modelversion.KIND: modelversion.PLURAL,
    canaryrollout.KIND: canaryrollout.PLURAL,
    abtest.KIND: abtest.PLURAL,
    batchpolicy.KIND: batchpolicy.PLURAL,
}
POD: Final = "Pod"
CONFIG_MAP: Final = "ConfigMap"
CRD_SCHEMA_ANNOTATION: Final = f"{names.GROUP}/crd-schema"
_TIMEOUT: Final = 10.0
_CONNECTIONS: Final = 16
"""At once; each takes a quarter of a megabyte."""
_PAGE: Final = 100
"""Objects that are listed at once: as objects of Python they take a hundred KB each."""
_KEY_BYTES: Final = 32
_SECRET_KNOWN: Final = 300.0
"""Seconds for which a Secret that was seen is taken to be there."""


class ClusterError(Exception):
    """The API server could not be reached, or refused; the message has its words."""


class UnreachableError(ClusterError):
    """Nothing that is an API server answered."""


class ConflictError(ClusterError):
    """The object is not any more what it was judged as."""


class GoneError(ClusterError):
    """The object is not there any more."""


class InvalidError(ClusterError):
    """What was sent does not fit the object; of a JSON patch: a test of it failed."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A part of all objects of a kind. ``revision``: the resourceVersion at which that was so."""

    items: list[Raw]
    revision: int


class Cluster(Protocol):
    """The operator's port to the API server."""

    def pages(self, kind: str) -> AsyncIterator[Listed]:
        """All objects of a kind that the operator may see, page by page.

        Raises:
            ClusterError: it could not be listed.
        """

    async def write_status(self, kind: str, meta: Metadata, before: Raw, after: Raw) -> Raw:
        """Write a status onto the object as it was judged; returns the object.

        Raises:
            ConflictError: it was changed since. GoneError: it was deleted.
        """

    async def write_table(
        self, content: table.RoutingTable, uid: str | None, resource_version: str | None
    ) -> Raw:
        """Write a routing table over the one that was judged, or create it; returns the ConfigMap.

        Raises:
            ConflictError: it was changed, deleted, created or re-created since.
        """

    async def get(self, kind: str, namespace: str, name: str) -> Raw:
        """One object; a routing table also where it lost the label that it is listed by.

        Raises:
            GoneError: there is none.
        """

    async def delete_table(self, namespace: str, name: str, uid: str) -> None:
        """Delete a routing table that nobody needs; one that is gone is fine."""

    async def remove_annotation(
        self, kind: str, meta: Metadata, key: str, value: str
    ) -> Raw | None:
        """Remove an annotation if it still has this value; returns the object, None where it has
        another one, or is gone.
        """

    async def ensure_secret(self, namespace: str, name: str, model: str) -> None:
        """Create a Secret with a random ``key`` unless there is one; that one stays as it is."""

    async def post_event(self, involved: Raw, type_: str, reason: str, message: str) -> None:
        """Tell something that happened to an object, where ``kubectl describe`` shows it."""


class KubernetesCluster(Cluster):
    """The port on a real API server. ``namespaces``: empty for all of them."""

    def __init__(
        self, api: client.ApiClient, namespaces: tuple[str, ...], now: Callable[[], float]
    ) -> None:
        self._api = api
        self._namespaces = namespaces
        self._now = now
        self._secrets: dict[tuple[str, str], float] = {}

    async def crd_schemas(self) -> dict[str, str]:
        """By CRD name, the schema number that its annotation gives; "" where it has none."""
        found = {}
        for plural in PLURALS.values():
            name = f"{plural}.{names.GROUP}"
            path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            crd = await self._request("GET", path)
            found[name] = crd["metadata"].get("annotations", {}).get(CRD_SCHEMA_ANNOTATION, "")
        return found

    @override
    async def pages(self, kind: str) -> AsyncIterator[Listed]:
        revision = math.inf
        for namespace in self._namespaces or (None,):
            query = {"limit": str(_PAGE)}
            if kind == CONFIG_MAP:
                query["labelSelector"] = names.LABEL_MODEL
            while True:
                answer = await self._request("GET", _path(kind, namespace), query=query)
                meta = answer["metadata"]
                revision = min(revision, int(meta["resourceVersion"]))
                yield Listed(answer["items"], int(revision))
                if not meta.get("continue"):
                    break
                query["continue"] = meta["continue"]

    @override
    async def write_status(self, kind: str, meta: Metadata, before: Raw, after: Raw) -> Raw:
        patch = {
            "metadata": {"resourceVersion": meta.resource_version, "uid": meta.uid},
            "status": merge_patch(before, after),
        }
        path = f"{_path(kind, meta.namespace)}/{meta.name}/status"
        return await self._request("PATCH", path, patch, "application/merge-patch+json")

    @override
    async def write_table(
        self, content: table.RoutingTable, uid: str | None, resource_version: str | None
    ) -> Raw:
        text, digest = table.encode(content)
        body: Raw = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": names.routing_table_name(content.model),
                "namespace": content.namespace,
                "labels": {
                    names.LABEL_MODEL: content.model,
                    "app.kubernetes.io/managed-by": "tidegate",
                },
                "annotations": {names.ANNOTATION_RELOADER_IGNORE: "true"},
            },
            "data": {names.TABLE_KEY: text, names.DIGEST_KEY: digest},
        }
        path = _path(CONFIG_MAP, content.namespace)
        query = {"fieldManager": names.FIELD_MANAGER}
        if uid is None:
            return await self._request("POST", path, body, query=query)
        # uid and resourceVersion both: a forced apply with the version alone would create the
        # object anew where somebody deleted it, and undo what came in between.
        body["metadata"] |= {"uid": uid, "resourceVersion": resource_version}
        return await self._request(
            "PATCH",
            f"{path}/{body['metadata']['name']}",
            body,
            "application/apply-patch+yaml",
            query={**query, "force": "true"},
        )

    @override
    async def get(self, kind: str, namespace: str, name: str) -> Raw:
        return await self._request("GET", f"{_path(kind, namespace)}/{name}")

    @override
    async def delete_table(self, namespace: str, name: str, uid: str) -> None:
        path = f"{_path(CONFIG_MAP, namespace)}/{name}"
        with contextlib.suppress(GoneError):
            await self._request("DELETE", path, {"preconditions": {"uid": uid}})

    @override
    async def remove_annotation(
        self, kind: str, meta: Metadata, key: str, value: str
    ) -> Raw | None:
        pointer = "/metadata/annotations/" + key.replace("~", "~0").replace("/", "~1")
        patch = [
            {"op": "test", "path": pointer, "value": value},
            {"op": "test", "path": "/metadata/uid", "value": meta.uid},
            {"op": "remove", "path": pointer},
        ]
        path = f"{_path(kind, meta.namespace)}/{meta.name}"
        try:
            return await self._request("PATCH", path, patch, "application/json-patch+json")
        except (GoneError, InvalidError):
            return None

    @override
    async def ensure_secret(self, namespace: str, name: str, model: str) -> None:
        now = self._now()
        if now - self._secrets.get((namespace, name), 0.0) < _SECRET_KNOWN:
            return
        body = {
            "metadata": {
                "name": name,
                "labels": {names.LABEL_MODEL: model, "app.kubernetes.io/managed-by": "tidegate"},
            },
            "data": {"key": b64encode(token_bytes(_KEY_BYTES)).decode()},
        }
        with contextlib.suppress(ConflictError):
            await self._request("POST", f"/api/v1/namespaces/{namespace}/secrets", body)
        self._secrets[namespace, name] = now

    @override
    async def post_event(self, involved: Raw, type_: str, reason: str, message: str) -> None:
        now = timestamp(self._now())
        namespace = involved["namespace"]
        body = {
            "metadata": {"generateName": f"{involved['name']}.", "namespace": namespace},
            "involvedObject": involved,
            "type": type_,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "tidegate"},
            "firstTimestamp": now[:19] + "Z",
            "lastTimestamp": now[:19] + "Z",
            "count": 1,
        }
        await self._request("POST", f"/api/v1/namespaces/{namespace}/events", body)

    async def _request(
        self,
        method: str,
        path: str,
        body: Raw | list[Raw] | None = None,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Raw:
        """One request. Raises our errors only."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            prepared = await self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._api.call_api(*prepared, _request_timeout=_TIMEOUT)
            content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"the API server cannot be reached: {error!r}") from error
        except client.ApiException as error:
            raise _translated(error.status, str(error.body)) from error
        if not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's success
            raise _translated(response.status, content.decode(errors="replace"))
        try:
            answer: Raw = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise UnreachableError(f"what answers there is no API server: {error}") from error
        return answer


@contextlib.asynccontextmanager
async def connect(
    namespaces: tuple[str, ...], now: Callable[[], float]
) -> AsyncIterator[KubernetesCluster]:
    """A cluster by the pod's service account where there is one, else by the kubeconfig.

    Raises:
        ClusterError: neither is there.
    """
    # Its own way of trusting the environment also looks for a .netrc, anew for each request.
    settings = client.Configuration(
        connection_pool_maxsize=_CONNECTIONS, client_session_kwargs={"trust_env": False}
    )
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(client_configuration=settings)
    except config.ConfigException as error:
        raise ClusterError(
            f"no cluster to talk to: {error}; run in a pod with a service account, or set "
            "KUBECONFIG"
        ) from error
    server = urlsplit(settings.host)
    if settings.proxy is None and not proxy_bypass(server.hostname or ""):
        settings.proxy = getproxies().get(server.scheme)
    async with client.ApiClient(settings) as api:
        yield KubernetesCluster(api, namespaces, now)


def merge_patch(before: Raw, after: Raw) -> Raw:
    """The JSON merge patch (RFC 7396) that turns one object into the other."""
    patch: Raw = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            if old != value:
                patch[key] = merge_patch(old, value)
        elif old != value or key not in before:
            patch[key] = value
    return patch


def _path(kind: str, namespace: str | None) -> str:
    where = f"/namespaces/{namespace}" if namespace else ""
    match kind:
        case "Pod":
            return f"/api/v1{where}/pods"
        case "ConfigMap":
            return f"/api/v1{where}/configmaps"
        case _:
            return f"/apis/{names.GROUP}/{names.API_VERSION}{where}/{PLURALS[kind]}"


def _translated(status: int | None, body: str) -> ClusterError:
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:300]
    match status:
        case 404:
            return GoneError(message)
        case 409:
            return ConflictError(message)
        case 422:
            return InvalidError(f"the API server answered {status}: {message}")
        case _:
            return ClusterError(f"the API server answered {status}: {message}")
