"""Where metrics are scraped: addresses, or pods that the cluster knows."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import urllib3

from tidegate_cli import sidecars
from tidegate_cli.cluster import Cluster
from tidegate_cli.errors import CommandError, NoSidecarError
from tidegate_cli.sidecars import Pod
from tidegate_contract.names import PORT_ADMIN
from tidegate_top.scrape import Scrape, read

TRITON_PORT: Final = 8002
_AT_ONCE: Final = 16
_TIMEOUT: Final = urllib3.Timeout(total=3.0)
_PATH: Final = "/metrics"
_PORTS: Final = range(1, 65_536)

Fetch = Callable[[int], bytes]
"""The metrics at one port of a pod; raises ``CommandError`` where there are none."""


def addresses(given: Sequence[str]) -> dict[str, tuple[Fetch, int]]:
    """By address HOST[:PORT], how it is asked, and its sidecar's admin port."""
    pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)
    found = {}
    for one in given:
        host, port = _parted(one)
        found[one] = (_direct(pool, host), port)
    return found


def pods(cluster: Cluster, found: Sequence[Pod], *, direct: bool) -> dict[str, tuple[Fetch, int]]:
    """By name, how each pod is asked: through the API server, or at its own address."""
    pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)
    return {
        pod.name: (_direct(pool, pod.address) if direct else _through(cluster, pod), PORT_ADMIN)
        for pod in found
    }


def scrape_all(
    asked: Mapping[str, tuple[Fetch, int]],
) -> tuple[dict[str, Scrape], dict[str, str]]:
    """Scrape all at once: what they say, and why others say nothing.

    A Triton whose metrics cannot be reached is no reason: its sidecar's are shown without.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        heard = dict(zip(asked, pool.map(_scrape, asked.values()), strict=True))
    return (
        {name: said for name, said in heard.items() if isinstance(said, Scrape)},
        {name: said for name, said in heard.items() if isinstance(said, str)},
    )


def _scrape(asked: tuple[Fetch, int]) -> Scrape | str:
    fetch, port = asked
    try:
        text = fetch(port).decode(errors="replace")
        at = time.monotonic()
        return read(at, text, _triton(fetch))
    except CommandError as error:
        return str(error)
    except (ValueError, KeyError) as error:
        return f"sends no metrics of a sidecar: {error}"


def _triton(fetch: Fetch) -> str | None:
    try:
        return fetch(TRITON_PORT).decode(errors="replace")
    except CommandError:
        return None


def _through(cluster: Cluster, pod: Pod) -> Fetch:
    return lambda port: cluster.through_pod(pod.namespace, pod.name, _PATH, {}, port)


def _direct(pool: urllib3.PoolManager, host: str) -> Fetch:
    def fetch(port: int) -> bytes:
        if not host:
            raise NoSidecarError("has no address yet")
        shown = f"[{host}]" if ":" in host else host
        return sidecars.get(pool, f"http://{shown}:{port}{_PATH}", {})

    return fetch


def _parted(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        return address.strip("[]"), PORT_ADMIN
    if not port.isdecimal() or int(port) not in _PORTS:
        raise CommandError(f"{address} is no HOST or HOST:PORT")
    return host.strip("[]"), int(port)
