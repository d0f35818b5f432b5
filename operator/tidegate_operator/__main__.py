"""``tidegate-operator``: settings, then everything started together and stopped together."""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import get_args

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tidegate_operator import handlers, telemetry
from tidegate_operator.adapters import cluster
from tidegate_operator.adapters.cluster import ClusterError, KubernetesCluster
from tidegate_operator.adapters.metrics import PrometheusMetrics
from tidegate_operator.adapters.pods import HttpPods
from tidegate_operator.adapters.prometheus import Prometheus
from tidegate_operator.adapters.queries import Mode, PrometheusQueries
from tidegate_operator.api.quantity import seconds
from tidegate_operator.cache import Cache
from tidegate_operator.readings import Evidence
from tidegate_operator.reconciler import Reconciler

CRD_SCHEMA = 3
_STALLED = 90.0
"""Seconds without a round of looks after which the operator calls itself dead."""
_RETRY = 5.0
_ASKED_AT_ONCE = 64
_KEPT = 1.0
"""Seconds for which a connection to a pod is kept: thousands that idle take more memory than all
that is known of their models.
"""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE = 128 * 1024
"""Bytes of a block that the system gets back as soon as it is freed."""
_log = logging.getLogger("tidegate")


def settings(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings: flags, else the environment, else defaults."""
    parser = argparse.ArgumentParser(
        prog="tidegate-operator",
        description="Rolls out model versions served by NVIDIA Triton: reads Prometheus, steps "
        "traffic up or rolls it back. Talks to the cluster of its service account, or of "
        "KUBECONFIG.",
    )
    environment = os.environ
    parser.add_argument(
        "--prometheus-url",
        default=environment.get("TIDEGATE_PROMETHEUS_URL"),
        help="where Prometheus answers, such as http://prometheus.monitoring:9090 "
        "(TIDEGATE_PROMETHEUS_URL; required)",
    )
    parser.add_argument(
        "--scrape-interval",
        type=_duration,
        default=environment.get("TIDEGATE_SCRAPE_INTERVAL", "15s"),
        help="how often Prometheus scrapes the sidecars; samples older than two are no data "
        "(TIDEGATE_SCRAPE_INTERVAL; default 15s)",
    )
    parser.add_argument(
        "--namespace-label",
        default=environment.get("TIDEGATE_NAMESPACE_LABEL", "namespace"),
        help="the target label that Prometheus keeps a sidecar's namespace in "
        "(TIDEGATE_NAMESPACE_LABEL; default namespace)",
    )
    parser.add_argument(
        "--pod-label",
        default=environment.get("TIDEGATE_POD_LABEL", "pod"),
        help="the target label that Prometheus keeps a sidecar's pod in (TIDEGATE_POD_LABEL; "
        "default pod)",
    )
    parser.add_argument(
        "--user-queries",
        choices=get_args(Mode),
        default=environment.get("TIDEGATE_USER_QUERIES", "Enabled"),
        help="whether users' own PromQL is asked: Enabled, at the Prometheus above; "
        "Namespaced, at the address below; Disabled (TIDEGATE_USER_QUERIES; default Enabled)",
    )
    parser.add_argument(
        "--user-queries-per-second",
        type=float,
        default=environment.get("TIDEGATE_USER_QUERIES_PER_SECOND", "20"),
        help="how many of them are asked in a second at most "
        "(TIDEGATE_USER_QUERIES_PER_SECOND; default 20)",
    )
    parser.add_argument(
        "--namespaced-prometheus-url",
        default=environment.get("TIDEGATE_NAMESPACED_PROMETHEUS_URL"),
        help="where a query sees one namespace only; {namespace} in it is the object's "
        "(TIDEGATE_NAMESPACED_PROMETHEUS_URL; required by Namespaced)",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        help="a namespace to work in; may be repeated; without it, all of them "
        "(TIDEGATE_NAMESPACES, separated by commas)",
    )
    parser.add_argument(
        "--listen",
        type=_address,
        default=environment.get("TIDEGATE_LISTEN", "0.0.0.0:8080"),
        help="host:port, or port, of /metrics and /healthz (TIDEGATE_LISTEN; default 8080)",
    )
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default=environment.get("TIDEGATE_LOG_LEVEL", "info"),
        help="(TIDEGATE_LOG_LEVEL; default info)",
    )
    found = parser.parse_args(arguments)
    if not found.prometheus_url:
        parser.error("--prometheus-url (or TIDEGATE_PROMETHEUS_URL) is required: evidence is there")
    if found.user_queries == "Namespaced" and not found.namespaced_prometheus_url:
        parser.error("--user-queries Namespaced needs --namespaced-prometheus-url")
    listed = environment.get("TIDEGATE_NAMESPACES", "")
    found.namespaces = tuple(found.namespace or [n for n in listed.split(",") if n])
    return found


def _duration(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - in its pod


async def run(found: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        ClusterError: there is no cluster to talk to.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    connector = aiohttp.TCPConnector(limit=_ASKED_AT_ONCE, keepalive_timeout=_KEPT)
    async with (
        cluster.connect(found.namespaces, time.time) as connected,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        reconciler = Reconciler(
            cache=Cache(),
            cluster=connected,
            evidence=Evidence(metrics=_metrics(found), now=time.time),
            pods=HttpPods(session),
            queries=_queries(found),
            scrape_interval=found.scrape_interval,
            now=time.time,
        )
        admin = await _serve(reconciler, *found.listen)
        working = asyncio.create_task(_work(connected, reconciler, found.namespaces))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        working.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
        await admin.cleanup()
        if not stop.is_set():
            working.result()


def _metrics(found: argparse.Namespace) -> PrometheusMetrics:
    prometheus = Prometheus(
        found.prometheus_url, namespace_label=found.namespace_label, pod_label=found.pod_label
    )
    return PrometheusMetrics(
        prometheus,
        namespaces=found.namespaces,
        namespace_label=found.namespace_label,
        asked=telemetry.asked,
    )


def _queries(found: argparse.Namespace) -> PrometheusQueries:
    namespaced = found.user_queries == "Namespaced"
    return PrometheusQueries(
        mode=found.user_queries,
        url=found.namespaced_prometheus_url if namespaced else found.prometheus_url,
        per_second=found.user_queries_per_second,
        now=time.time,
        asked=telemetry.asked,
    )


async def _work(
    connected: KubernetesCluster,
    reconciler: Reconciler,
    namespaces: tuple[str, ...],
) -> None:
    """Wait for fitting CRDs, then watch and reconcile side by side; neither outlives the other."""
    await _fitting_crds(connected, reconciler)
    async with asyncio.TaskGroup() as group:
        reconciling = group.create_task(reconciler.run())
        await handlers.watch(reconciler, namespaces)
        reconciling.cancel()


async def _fitting_crds(connected: KubernetesCluster, reconciler: Reconciler) -> None:
    """An operator newer than its CRDs would write statuses that they cut: it waits, and is well:
    to be started again would only delay it.
    """
    while True:
        reconciler.last_round = time.time()
        try:
            behind = [
                name
                for name, schema in (await connected.crd_schemas()).items()
                if not schema.isdigit() or int(schema) < CRD_SCHEMA
            ]
            if not behind:
                return
            _log.error(
                "CRDs older than this operator: %s; apply crds/ of this version. Waiting.",
                ", ".join(behind),
            )
        except ClusterError as error:
            _log.error("cannot read the CRDs: %s; apply crds/. Waiting.", error)
        await asyncio.sleep(_RETRY)


async def _serve(reconciler: Reconciler, host: str, port: int) -> web.AppRunner:
    """``/metrics`` and ``/healthz``: alive while models are looked at."""
    started = time.time()

    async def healthz(_: web.Request) -> web.Response:
        age = time.time() - max(reconciler.last_round, started)
        status = 200 if age < _STALLED else 503
        return web.Response(status=status, text=f"last round of looks {age:.1f}s ago\n")

    async def metrics(_: web.Request) -> web.Response:
        telemetry.ROLLOUTS.clear()
        for phase, count in reconciler.cache.phases().items():
            telemetry.ROLLOUTS.labels(phase).set(count)
        body = generate_latest(telemetry.REGISTRY)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


def _spare_memory() -> None:
    """Few heaps for all threads: glibc gives each its own, and what one freed none other gets. And
    no large blocks in them, whose holes small ones would fill.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 2)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def main() -> None:
    """The command."""
    _spare_memory()
    gc.freeze()  # nothing of what was imported goes: no collection need look at it
    found = settings()
    logging.basicConfig(
        level=found.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("kubernetes").setLevel(logging.WARNING)
    try:
        asyncio.run(run(found))
    except ClusterError as error:
        sys.exit(f"tidegate-operator: {error}")


if __name__ == "__main__":
    main()
