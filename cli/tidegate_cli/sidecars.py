"""Sidecars' admin ports: reached through the API server, which a person can reach, or directly."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
import urllib3

from tidegate_cli.cluster import POD, Cluster, Raw
from tidegate_cli.errors import CommandError, NoSidecarError, reason
from tidegate_contract.names import LABEL_MODEL, PORT_ADMIN

_AT_ONCE: Final = 8
_TIMEOUT: Final = urllib3.Timeout(total=5.0)
_OPERATORS: Final = {
    "In": "{key} in ({values})",
    "NotIn": "{key} notin ({values})",
    "Exists": "{key}",
    "DoesNotExist": "!{key}",
}

T = TypeVar("T")


class Pod(msgspec.Struct, frozen=True):
    """A pod that may have a sidecar. ``address``: empty before it has one."""

    namespace: str
    name: str
    address: str


Ask = Callable[[Pod], bytes]
"""Asks one pod; raises ``CommandError`` where it does not give what was asked."""


def serving(cluster: Cluster, namespace: str, model: str, selector: Raw | None) -> list[Pod]:
    """The running pods that serve a model. ``selector``: its versions' podSelector.

    Raises:
        NoSidecarError: there is none.
        ClusterError: the API server cannot be reached, or refuses.
    """
    chosen = label_selector(selector or {"matchLabels": {LABEL_MODEL: model}})
    found = [
        Pod(namespace, raw["metadata"]["name"], raw.get("status", {}).get("podIP", ""))
        for raw in cluster.list(POD, namespace, chosen)
        if raw.get("status", {}).get("phase") == "Running"
    ]
    if not found:
        raise NoSidecarError(
            f"no running pod in namespace {namespace} has the labels {chosen}, by which {model} is "
            "served: set them on the pods, or podSelector on the ModelVersions"
        )
    return sorted(found, key=lambda one: one.name)


def label_selector(selector: Raw) -> str:
    """A selector of an object as the API server's query takes it."""
    parts = [f"{key}={value}" for key, value in sorted(selector.get("matchLabels", {}).items())]
    for one in selector.get("matchExpressions", []):
        values = ",".join(one.get("values", []))
        parts.append(_OPERATORS[one["operator"]].format(key=one["key"], values=values))
    return ",".join(parts)


def through(cluster: Cluster, path: str, headers: Mapping[str, str]) -> Ask:
    """Asks through the API server, which sees the header of its own authentication only."""
    return lambda pod: cluster.through_pod(pod.namespace, pod.name, path, headers)


def direct(path: str, headers: Mapping[str, str]) -> Ask:
    """Asks the pods' own addresses: from a pod, or a machine with a way to them."""
    pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)

    def ask(pod: Pod) -> bytes:
        if not pod.address:
            raise NoSidecarError("has no address yet")
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        return get(pool, f"http://{host}:{PORT_ADMIN}{path}", headers)

    return ask


def get(pool: urllib3.PoolManager, url: str, headers: Mapping[str, str]) -> bytes:
    """What a sidecar, or what is beside it, answers.

    Raises:
        NoSidecarError: it does not, or with something else than success.
    """
    try:
        response = pool.request("GET", url, headers=dict(headers))
    except urllib3.exceptions.HTTPError as error:
        raise NoSidecarError(f"{reason(error)} ({url})") from error
    if response.status != 200:  # noqa: PLR2004 - HTTP's success
        words = " ".join(response.data.decode(errors="replace").split())[:200]
        raise NoSidecarError(f"answered {response.status}: {words}")
    return response.data


def ask_all(
    pods: Sequence[Pod], ask: Ask, decode: Callable[[bytes], T], *, may_proxy: bool
) -> tuple[dict[str, T], dict[str, str]]:
    """Ask all pods at once: answers by pod, and why others gave none, by pod.

    ``may_proxy``: whether the API server was asked, for the advice when nobody answers.

    Raises:
        NoSidecarError: not one answered.
    """

    def one(pod: Pod) -> T | str:
        try:
            return decode(ask(pod))
        except CommandError as error:
            return str(error)
        except msgspec.DecodeError as error:
            return f"speaks something else than this command understands: {error}"

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        heard = dict(zip((pod.name for pod in pods), pool.map(one, pods), strict=True))
    silent = {name: said for name, said in heard.items() if isinstance(said, str)}
    answers = {name: said for name, said in heard.items() if not isinstance(said, str)}
    if not answers:
        reasons = "; ".join(f"{name}: {why}" for name, why in silent.items())
        advice = (
            "--direct asks the pods' own addresses, where those can be reached from here"
            if may_proxy
            else "without --direct the API server asks them"
        )
        raise NoSidecarError(f"no sidecar answered ({reasons}). {advice}")
    return answers, silent
