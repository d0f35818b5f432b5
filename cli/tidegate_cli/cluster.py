"""The API server, as far as the command needs it, by the user's own kubeconfig."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import urllib3
from kubernetes import client, config
from typing_extensions import override

from tidegate_cli.errors import ClusterError, ForbiddenError, NotFoundError
from tidegate_contract import names

Raw = dict[str, Any]

MODEL_VERSION: Final = "ModelVersion"
ROLLOUT: Final = "CanaryRollout"
TEST: Final = "ABTest"
POLICY: Final = "BatchPolicy"
POD: Final = "Pod"
CONFIG_MAP: Final = "ConfigMap"
SECRET: Final = "Secret"  # noqa: S105 - the kind's name

_CORE: Final = {POD: "pods", CONFIG_MAP: "configmaps", SECRET: "secrets"}
_OWN: Final = {
    MODEL_VERSION: "modelversions",
    ROLLOUT: "canaryrollouts",
    TEST: "abtests",
    POLICY: "batchpolicies",
}
_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT: Final = 10.0
_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"


class Cluster(Protocol):
    """The command's port to the API server. Every method raises ``ClusterError``."""

    namespace: str
    """The namespace of the kubeconfig's context."""

    def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Raw]:
        """All objects of a kind in a namespace, or everywhere (None).

        Raises:
            NotFoundError: the cluster does not know the kind.
        """

    def get(self, kind: str, namespace: str, name: str) -> Raw:
        """One object.

        Raises:
            NotFoundError: there is none.
        """

    def patch(self, kind: str, namespace: str, name: str, body: Raw) -> Raw:
        """Apply a JSON merge patch (RFC 7396) and return the object; unknown fields are refused.

        Raises:
            NotFoundError: there is none.
        """

    def through_pod(
        self,
        namespace: str,
        pod: str,
        path: str,
        headers: Mapping[str, str],
        port: int = names.PORT_ADMIN,
    ) -> bytes:
        """What a port of a pod, the sidecar's admin port, answers to a GET of the API server.

        Raises:
            NotFoundError: there is no such pod, or no such page.
        """


class KubernetesCluster(Cluster):
    """The port on a real API server."""

    def __init__(self, settings: client.Configuration, namespace: str) -> None:
        self.namespace = namespace
        self._api = client.ApiClient(settings)

    @override
    def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Raw]:
        query = {"labelSelector": selector} if selector else {}
        answer: Raw = json.loads(self._request("GET", _path(kind, namespace), query=query))
        return [{**one, "kind": kind} for one in answer["items"]]

    @override
    def get(self, kind: str, namespace: str, name: str) -> Raw:
        found: Raw = json.loads(self._request("GET", _path(kind, namespace, name)))
        return found

    @override
    def patch(self, kind: str, namespace: str, name: str, body: Raw) -> Raw:
        path, query = _path(kind, namespace, name), {"fieldValidation": "Strict"}
        patched: Raw = json.loads(self._request("PATCH", path, body=body, query=query))
        return patched

    @override
    def through_pod(
        self,
        namespace: str,
        pod: str,
        path: str,
        headers: Mapping[str, str],
        port: int = names.PORT_ADMIN,
    ) -> bytes:
        proxied = f"{_path(POD, namespace, pod)}:{port}/proxy{path}"
        return self._request("GET", proxied, headers=headers)

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Raw | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request. Raises our errors only."""
        sent = {"Accept": _JSON, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = _MERGE_PATCH
        try:
            prepared = self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=sent,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._api.call_api(*prepared, _request_timeout=_TIMEOUT)
            content: bytes = response.read()
        except client.ApiException as error:
            raise _translated(int(error.status), str(error.body)) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ClusterError(
                f"the API server {self._api.configuration.host} cannot be reached: "
                f"{_innermost(error)}. Check the context (kubectl config current-context) and the "
                "network"
            ) from error
        if not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's success
            raise _translated(response.status, content.decode(errors="replace"))
        return content


def connect(kubeconfig: str | None, context: str | None) -> KubernetesCluster:
    """The cluster of the kubeconfig's context, else the one around this pod.

    Raises:
        ClusterError: neither is there.
    """
    settings = client.Configuration()
    settings.retries = 0  # a person waits: say at once what is wrong
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and not (
        kubeconfig or context or os.environ.get("KUBECONFIG")
    )
    try:
        if inside and _ACCOUNT_NAMESPACE.exists():
            config.load_incluster_config(client_configuration=settings)
            return KubernetesCluster(settings, _ACCOUNT_NAMESPACE.read_text().strip())
        config.load_kube_config(kubeconfig, context, settings, persist_config=False)
        contexts, active = config.list_kube_config_contexts(kubeconfig)
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            f"no cluster to talk to: {str(error).rstrip('. ')}. Set KUBECONFIG, or choose another "
            "--context"
        ) from error
    chosen = next((one for one in contexts if one["name"] == context), active)
    return KubernetesCluster(settings, chosen["context"].get("namespace") or "default")


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    where = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    own = f"/{quote(name, safe='')}" if name else ""
    if kind in _CORE:
        return f"/api/v1{where}/{_CORE[kind]}{own}"
    return f"/apis/{names.GROUP}/{names.API_VERSION}{where}/{_OWN[kind]}{own}"


def _translated(status: int, body: str) -> ClusterError | NotFoundError:
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = " ".join(body.split())[:300]
    match status:
        case 401:
            return ClusterError(f"the API server does not accept your credentials: {message}")
        case 403:
            return ForbiddenError(f"{message}. docs/cli.md lists what each command needs")
        case 404:
            return NotFoundError(message)
        case _:
            return ClusterError(f"the API server answered {status}: {message}")


def _innermost(error: BaseException) -> str:
    """The operating system's own words, which urllib3 wraps up to three times."""
    reason = getattr(error, "reason", None)
    return _innermost(reason) if isinstance(reason, BaseException) else str(error)
