"""What the operator costs, and how late it is, with thousands of rollouts amid their canaries.

A real API server, a real Prometheus and the operator as a process; one process more stands for all
sidecars (see ``sidecars``). Every rollout is the operator's own doing: objects are created as users
and a kubelet would, and it loads, compares, writes tables and statuses until all canaries have
traffic: that is the start, with figures of its own. Once all steps are under way, and the versions
say what share they have, it is watched for a while, and, at 1,000, some canaries begin to fail.

It needs port 9002 of every address in 127.0.0.0/8 to itself, as pods are asked there.
"""

import argparse
import asyncio
import json
import math
import os
import random
import ssl
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from sidecars import PODS, address, model_name, pod_name

from tidegate_contract import names
from tidegate_tools.addresses import free_port
from tidegate_tools.api import answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.processes import Process, Supervisor
from tidegate_tools.prometheus import Prometheus

NAME = "operator_scale"
SIZES = (1_000, 10_000)
WATCHED_INTERVALS = 12
BREACHES = 10
PERCENT = 10
"""The canary's share."""
IN_FLIGHT = 24
SETTLED = 420.0
"""Seconds for which, after the start, statuses are waited for that tell of it."""
PROGRESS = 30.0
"""Seconds between two lines that tell how far it is."""
RESULTS = Path("bench-results")
QUERIES = "tidegate_prometheus_queries_total"
HERE = Path(__file__).parent
CRDS = HERE.parents[1] / "crds"
OURS = f"/apis/{names.GROUP}/{names.API_VERSION}/namespaces/default"
PODS_PATH = "/api/v1/namespaces/default/pods"
MERGE_PATCH = "application/merge-patch+json"


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, action="append", help="default: 1000 and 10000")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="minutes to each stage; what is there by then is what is watched (default: 60)",
    )
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    for number in given.rollouts or SIZES:
        with ExitStack() as stack:
            figures[str(number)] = Bench(stack, number, given.patience * 60).run()
        print(number, json.dumps(figures[str(number)]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(figures, indent=1))
    print("RESULT", json.dumps({"name": NAME, "figures": figures}))


class Bench:
    """All parts, running for as long as the stack does."""

    def __init__(self, stack: ExitStack, rollouts: int, patience: float) -> None:
        self.rollouts, self.patience = rollouts, patience
        # Seconds between looks and between scrapes.
        self.interval, self.scrape = (10, 5) if rollouts <= min(SIZES) else (30, 15)
        self.directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-"))
        )
        self.plane = stack.enter_context(ControlPlane(self.directory / "control-plane"))
        for crd in sorted(CRDS.glob("*.yaml")):
            self.plane.kubectl("apply", "-f", str(crd))
        self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        self.supervisor = stack.enter_context(Supervisor())
        self.sidecars = f"http://127.0.0.1:{free_port()}"
        self.operator_url = f"http://127.0.0.1:{free_port()}"
        targets = self.directory / "targets.json"
        targets.write_text(json.dumps([{"targets": [self.sidecars.partition("//")[2]]}]))
        self.prometheus = Prometheus(
            self.directory / "prometheus", sidecars=targets, scrape_interval_ms=self.scrape * 1000
        )
        self.stack = stack

    def run(self) -> dict[str, Any]:
        """Everything, in order; the figures."""
        began = time.monotonic()
        uids = asyncio.run(self._create(self._world))
        self._start_sidecars(uids)
        self.stack.enter_context(self.prometheus)
        quiet = self._requests_per_second(10.0)
        operator = self._start_operator()
        self._until(lambda: self._phases("New") == 0, "the operator's lists")
        start, whole = self._start(operator)
        setup = time.monotonic() - began
        time.sleep(max(30.0, 2 * self.interval))
        figures = self._watch(operator, quiet)
        figures["setup_s"] = round(setup)
        figures["start"] = start
        figures["traffic_share"] = round(self._live() / self.rollouts, 3)
        if whole and self.rollouts <= min(SIZES):
            waits = [self._breach(number) for number in range(BREACHES)]
            figures["breach_to_rollback_max_s"] = round(max(waits), 2)
            figures["breach_to_rollback_p50_s"] = round(statistics.median(waits), 2)
        return figures

    def _start(self, operator: Process) -> tuple[dict[str, Any], bool]:
        """Create all rollouts and wait until they are in the middle of their canaries; what that
        cost, and whether they all are.
        """
        created, answered = time.monotonic(), self._answered()
        asked = scraped(f"{self.operator_url}/metrics")
        asyncio.run(self._create(self._rollout))
        whole = self._until(lambda: self._live() >= self.rollouts, "the canaries' traffic")
        took = time.monotonic() - created
        requests = (self._answered() - answered) / self.rollouts
        queries = delta(asked, scraped(f"{self.operator_url}/metrics"), QUERIES)
        figures = {
            "all_have_traffic_s": round(took) if whole else None,
            "api_requests_per_rollout": round(requests, 1),
            "queries_per_tick": round(queries / took * self.interval, 2),
            "peak_rss_mb": round(memory_mb(operator.pid, "VmHWM")),
            "all_told_s": None,
        }
        under_way = whole and self._until(
            lambda: self._phases("Progressing") >= self.rollouts, "steps under way"
        )
        if under_way and self._until(self._told, "statuses", every=15.0, patience=SETTLED):
            figures["all_told_s"] = round(time.monotonic() - created)
        return figures, whole

    def _watch(self, operator: Process, quiet: float) -> dict[str, Any]:
        """What it costs over some intervals."""
        seconds = WATCHED_INTERVALS * self.interval
        before, cpu = scraped(f"{self.operator_url}/metrics"), cpu_seconds(operator.pid)
        api = self._requests_per_second(seconds)
        after = scraped(f"{self.operator_url}/metrics")
        queries = delta(before, after, QUERIES)
        lags = buckets(before, after, "tidegate_tick_lag_seconds_bucket")
        return {
            "rss_mb": round(memory_mb(operator.pid, "VmRSS")),
            "peak_rss_mb": round(memory_mb(operator.pid, "VmHWM")),
            "cpu_share": round((cpu_seconds(operator.pid) - cpu) / seconds, 3),
            "queries_per_tick": round(queries / WATCHED_INTERVALS, 2),
            "api_requests_per_s": round(api - quiet, 1),
            "lag_p50_share": round(quantile(lags, 0.5) / self.interval, 3),
            "lag_p99_share": round(quantile(lags, 0.99) / self.interval, 3),
            "looks": round(max(lags.values())),
            "interval_s": self.interval,
            "scrape_s": self.scrape,
        }

    def _breach(self, number: int) -> float:
        """Seconds from the scrape that shows a canary failing to its pods applying the rollback."""
        time.sleep(random.uniform(0, self.interval))
        request = urllib.request.Request(f"{self.sidecars}/break?model={number}", method="POST")
        urllib.request.urlopen(request, timeout=10).close()
        times: dict[str, float] = {}

        def over() -> bool:
            times.update(json.loads(text(f"{self.sidecars}/times?model={number}")))
            return times["back"] is not None

        if not self._until(over, "a rollback"):
            raise TimeoutError("waited in vain for a rollback")
        return times["back"] - times["shown"]

    async def _create(self, what: Callable[["Requests", int], Awaitable[Any]]) -> list[Any]:
        """Create something for each rollout, many at once."""
        async with Requests.to(self.plane) as requests:
            limit = asyncio.Semaphore(IN_FLIGHT)

            async def one(number: int) -> Any:
                async with limit:
                    return await what(requests, number)

            return await asyncio.gather(*(one(number) for number in range(self.rollouts)))

    async def _world(self, requests: "Requests", number: int) -> list[str]:
        """A model's two versions and two pods; the pods' uids."""
        model = model_name(number)
        for version, share in ((1, 100), (2, 0)):
            lifecycle = "Active" if share else "Testing"
            spec = {"model": model, "version": version, "lifecycle": lifecycle}
            await requests.ours("ModelVersion", f"{model}-v{version}", spec)
        return [await requests.pod(number, pod) for pod in range(PODS)]

    async def _rollout(self, requests: "Requests", number: int) -> None:
        spec = {
            "model": model_name(number),
            "canaryVersion": 2,
            "steps": [{"percent": PERCENT, "duration": "24h"}, {"percent": 100}],
            "analysis": {"interval": f"{self.interval}s", "warmup": "10s"},
        }
        await requests.ours("CanaryRollout", model_name(number), spec)

    def _start_sidecars(self, uids: list[list[str]]) -> None:
        file = self.directory / "uids.json"
        file.write_text(json.dumps(uids))
        api = self.plane.api
        argv = [
            *(sys.executable, str(HERE / "sidecars.py"), f"--server={api.server}"),
            *(f"--ca={api.ca}", f"--token={api.token}", f"--uids={file}"),
            f"--port={self.sidecars.rpartition(':')[2]}",
            *(["--histograms"] if self.rollouts <= min(SIZES) else []),
        ]
        log = self.directory / "sidecars.log"
        process = self.supervisor.start("sidecars", argv, log=log)
        process.wait_until(lambda: answers(f"{self.sidecars}/live"), 60.0)

    def _start_operator(self) -> Process:
        argv = [
            *(sys.executable, "-m", "tidegate_operator"),
            f"--prometheus-url={self.prometheus.url}",
            f"--scrape-interval={self.scrape}s",
            f"--listen={self.operator_url.partition('//')[2]}",
            "--log-level=warning",
        ]
        direct = {"NO_PROXY": "127.0.0.0/8", "no_proxy": "127.0.0.0/8"}
        environment = {**os.environ, **direct, "KUBECONFIG": str(self.plane.kubeconfig)}
        log = self.directory / "operator.log"
        operator = self.supervisor.start("operator", argv, env=environment, log=log)
        operator.wait_until(lambda: answers(f"{self.operator_url}/healthz"), 60.0)
        return operator

    def _requests_per_second(self, seconds: float) -> float:
        """Requests that the API server answers, without watches and without asking for this."""
        before = self._answered()
        time.sleep(seconds)
        return (self._answered() - before - 1) / seconds

    def _told(self) -> bool:
        """Whether every version's status tells the share that it has."""
        found = json.loads(self._get(f"{OURS}/modelversions?resourceVersion=0"))["items"]
        shares = (one["status"].get("trafficPercent") for one in found)
        return all(share in {PERCENT, 100 - PERCENT} for share in shares)

    def _get(self, path: str) -> bytes:
        api = self.plane.api
        request = urllib.request.Request(
            api.server + path, headers={"Authorization": f"Bearer {api.token}"}
        )
        context = ssl.create_default_context(cafile=str(api.ca))
        with urllib.request.urlopen(request, timeout=60, context=context) as response:
            body: bytes = response.read()
        return body

    def _answered(self) -> float:
        lines = self._get("/metrics").decode().splitlines()
        counted = (one for one in lines if one.startswith("apiserver_request_total{"))
        return sum(float(one.rpartition(" ")[2]) for one in counted if 'verb="WATCH"' not in one)

    def _live(self) -> int:
        return int(text(f"{self.sidecars}/live"))

    def _phases(self, phase: str) -> float:
        found = scraped(f"{self.operator_url}/metrics")
        return found.get(("tidegate_rollouts", (("phase", phase),)), 0.0)

    def _until(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        every: float = 0.5,
        patience: float = math.inf,
    ) -> bool:
        """Wait for it; says whether it came."""
        began = told = time.monotonic()
        while not condition():
            now = time.monotonic()
            if now > began + min(self.patience, patience):
                return False
            if now > told + PROGRESS:
                told = now
                self._tell(what, now - began)
            time.sleep(every)
        return True

    def _tell(self, what: str, waited: float) -> None:
        """How far it is, for whoever watches the bench."""
        phases = {phase: round(self._phases(phase)) for phase in ("Gating", "Progressing")}
        told = ", ".join(f"{phase} {count}" for phase, count in phases.items())
        print(
            f"{self.rollouts}: {waited:.0f}s for {what}: {told}, live {self._live()}",
            file=sys.stderr,
            flush=True,
        )


class Requests:
    """Requests to the API server as admin, over kept connections."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session, self._server = session, server

    @classmethod
    def to(cls, plane: ControlPlane) -> "Requests":
        context = ssl.create_default_context(cafile=str(plane.api.ca))
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=IN_FLIGHT),
            headers={"Authorization": f"Bearer {plane.api.token}"},
        )
        return cls(session, plane.api.server)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ours(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Create an object of ours."""
        body = {
            "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        await self._send("POST", f"{OURS}/{kind.lower()}s", body)

    async def pod(self, number: int, pod: int) -> str:
        """Create a pod that is Ready; its uid."""
        name = pod_name(number, pod)
        meta = {"name": name, "labels": {names.LABEL_MODEL: model_name(number)}}
        spec = {
            "nodeName": "node",
            "automountServiceAccountToken": False,
            "containers": [{"name": "triton", "image": "triton"}],
        }
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        created = await self._send("POST", PODS_PATH, body)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        ip = address(number, pod)
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        await self._send("PATCH", f"{PODS_PATH}/{name}/status", {"status": status}, MERGE_PATCH)
        return str(created["metadata"]["uid"])

    async def _send(
        self, method: str, path: str, body: dict[str, Any], kind: str = "application/json"
    ) -> dict[str, Any]:
        headers = {"Content-Type": kind}
        async with self._session.request(
            method, self._server + path, data=json.dumps(body), headers=headers
        ) as response:
            answer: dict[str, Any] = await response.json()
            if not response.ok:
                raise RuntimeError(f"{method} {path}: {answer['message']}")
            return answer


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(url: str) -> Samples:
    """What a process tells of itself."""
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text(url))
        for one in family.samples
    }


def text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        body: str = response.read().decode()
    return body


def delta(before: Samples, after: Samples, name: str) -> float:
    return sum(value - before.get(key, 0.0) for key, value in after.items() if key[0] == name)


def buckets(before: Samples, after: Samples, name: str) -> dict[float, float]:
    """A histogram's rise: cumulative counts by upper bound."""
    return {
        float(dict(key[1])["le"]): value - before.get(key, 0.0)
        for key, value in after.items()
        if key[0] == name
    }


def quantile(cumulative: dict[float, float], share: float) -> float:
    """Interpolated within its bucket, as Prometheus does it."""
    ordered = sorted(cumulative.items())
    wanted, low, below = share * ordered[-1][1], 0.0, 0.0
    for bound, count in ordered:
        if count >= wanted:
            return (
                low
                if bound == float("inf")
                else low + (bound - low) * ((wanted - below) / max(count - below, 1.0))
            )
        low, below = bound, count
    return low


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, what: str) -> float:
    lines: Iterable[str] = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{what}:"))
    return int(found) / 1024


if __name__ == "__main__":
    main()
