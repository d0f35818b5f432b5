"""From the first bad request to every pod applying the rollback, whatever else is going on.

Everything is real: two Tritons with their sidecars, Prometheus, the API server, the operator as a
process. Version 2 fails the requests that clients mark, and they mark all or none. In each run a
rollout gives it half of the traffic. Four ways:

- plain: its requests fail from the first one on;
- prometheus_killed: so they do, and Prometheus is killed once the operator has been answered by
  queries that show the breach;
- suspended, waiting: they begin to fail while the rollout is suspended, or waits for a person.

A poller of Prometheus finds the first moment at which its counters make the operator's own judge
say Fail: the breach is visible. The rollback is applied once the acknowledgement of the last pod
shows a table that has it. Faults begin at times spread evenly over the interval at which the
operator looks.
"""

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from prometheus_faults import FaultyPrometheus
from result import report

from tidegate_contract import acknowledgement, names
from tidegate_contract import table as contract
from tidegate_contract.table import RoutingTable
from tidegate_operator.adapters import prometheus as adapter
from tidegate_operator.adapters.metrics import PrometheusMetrics, Readings
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint
from tidegate_operator.api.meta import convert
from tidegate_operator.evidence import counters, share
from tidegate_operator.evidence.checks import Counted
from tidegate_operator.evidence.verdict import Rules, Verdict, harm_key, judge
from tidegate_operator.rollout.look import compiled_metrics
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet, free_port
from tidegate_tools.api import MERGE_PATCH, Api, ApiError, answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.pods import Container, LocalPod, ScrapeTargets
from tidegate_tools.processes import Launch, Supervisor
from tidegate_tools.prometheus import Prometheus

NAME = "rollback"
WAYS = ("plain", "prometheus_killed", "suspended", "waiting")
MODEL = "small"
NAMESPACE = "default"
PODS = 2
INTERVAL = 2.0
SCRAPE_MS = 500
POLL = 0.02
PAUSE_BETWEEN_REQUESTS = 0.02
PATIENCE = 60.0
CRDS = Path(__file__).parents[2] / "crds"
GROUP = f"/apis/{names.GROUP}/{names.API_VERSION}/namespaces/{NAMESPACE}"
LONG: list[Any] = [{"percent": 50, "duration": "1h"}, {"percent": 100}]
GATED: list[Any] = [{"percent": 50, "duration": "1s"}, {"percent": 100, "gate": "Manual"}]

_MODEL_CODE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.canary = args["model_version"] == "2"

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if self.canary and x.min() < 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("broken"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x + 1)])
"""

_MODEL_CONFIG = """
backend: "python"
max_batch_size: 16
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of each way")
    given = parser.parse_args()
    samples = []
    with ExitStack() as stack:
        bench = Bench(stack)
        for number in range(given.runs):
            for way in WAYS:
                sample = bench.run(way, number / given.runs)
                while sample["killed"] != (way == "prometheus_killed"):  # it was faster than we
                    sample = bench.run(way, number / given.runs)
                samples.append(sample)
                took = sample["applied_at"] - sample["visible_at"]
                print(f"{number + 1}/{given.runs} {way} {took:.2f}s", file=sys.stderr)
    report(NAME, figures(samples), samples)


def figures(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """By way, and over all; the mark: ``visible_to_applied_max_s`` within a second of the
    interval.
    """
    found: dict[str, Any] = {"interval_s": INTERVAL, "scrape_s": SCRAPE_MS / 1000}
    for way in WAYS:
        mine = [one for one in samples if one["way"] == way]
        seen = [one["applied_at"] - one["visible_at"] for one in mine]
        bad = [one["applied_at"] - one["bad_at"] for one in mine]
        found[way] = {
            "runs": len(mine),
            "visible_to_applied_p50_s": round(statistics.median(seen), 3),
            "visible_to_applied_max_s": round(max(seen), 3),
            "first_bad_to_applied_p50_s": round(statistics.median(bad), 3),
            "first_bad_to_applied_max_s": round(max(bad), 3),
        }
    found["visible_to_applied_max_s"] = max(found[way]["visible_to_applied_max_s"] for way in WAYS)
    return found


class Bench:
    """All parts, running for as long as the stack does."""

    def __init__(self, stack: ExitStack) -> None:
        self._names = itertools.count()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        subnet = stack.enter_context(Subnet.claimed())
        self.addresses = [subnet.ip(number + 2) for number in range(PODS)]
        self.plane = stack.enter_context(ControlPlane(directory / "control-plane"))
        for crd in sorted(CRDS.glob("*.yaml")):
            self.plane.kubectl("apply", "-f", str(crd))
        self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        targets = ScrapeTargets(directory / "targets.json")
        self.prometheus = Prometheus(
            directory / "prometheus", sidecars=targets.path, scrape_interval_ms=SCRAPE_MS
        )
        stack.enter_context(self.prometheus)
        self.tap = stack.enter_context(FaultyPrometheus(self.prometheus.url))
        self.asked = adapter.Prometheus(self.prometheus.url)
        self.metrics = PrometheusMetrics(self.asked)
        self._start_operator(stack.enter_context(Supervisor()), directory, self.tap.url)
        self.apply("ModelVersion", "small-1", model=MODEL, version=1, lifecycle="Active")
        self.apply("ModelVersion", "small-2", model=MODEL, version=2)
        models = repository(directory / "models")
        for number, address in enumerate(self.addresses):
            pod = self._pod(number, address, directory, models, targets)
            stack.callback(triton.sweep, address)
            stack.enter_context(pod)
        self.await_(lambda: self.phase("modelversions", "small-2") == "Ready", "version 2")
        self.load = stack.enter_context(Load(self.addresses))

    def _start_operator(self, supervisor: Supervisor, directory: Path, prometheus: str) -> None:
        port = free_port()
        argv = [
            *(sys.executable, "-m", "tidegate_operator", f"--prometheus-url={prometheus}"),
            *(f"--scrape-interval={SCRAPE_MS}ms", f"--namespace={NAMESPACE}"),
            f"--listen=127.0.0.1:{port}",
        ]
        log = directory / "operator.log"
        operator = supervisor.start("operator", argv, env=self._environment(), log=log)
        url = f"http://127.0.0.1:{port}/healthz"
        operator.wait_until(lambda: answers(url), PATIENCE)

    def _pod(
        self, number: int, address: str, directory: Path, models: Path, targets: ScrapeTargets
    ) -> LocalPod:
        sidecar = (
            *(sys.executable, "-m", "tidegate_sidecar", f"--models={MODEL}", f"--host={address}"),
            f"--triton={address}:{triton.HTTP_PORT}",
            f"--model-repository={models}",
            f"--state-directory={directory / f'state-{number}'}",
        )
        return LocalPod(
            self.plane.api,
            f"triton-{number}",
            address,
            [
                Container("sidecar", "sidecar", Launch(sidecar, self._environment())),
                Container("triton", "triton", triton.launch(models, address)),
            ],
            directory=directory / "pods",
            namespace=NAMESPACE,
            labels={names.LABEL_MODEL: MODEL},
            targets=targets,
        )

    def _environment(self) -> dict[str, str]:
        direct = {"NO_PROXY": "127.0.0.0/8", "no_proxy": "127.0.0.0/8"}
        return {**os.environ, **direct, "KUBECONFIG": str(self.plane.kubeconfig)}

    def run(self, way: str, phase: float) -> dict[str, Any]:
        """One rollout that is rolled back; its times. ``phase``: where in an interval it begins to
        fail.
        """
        name = f"{way.replace('_', '-')}-{next(self._names)}"
        late = way in {"suspended", "waiting"}
        if late:
            self._begin(name, GATED if way == "waiting" else LONG)
            self._rest(name, way)
        time.sleep((phase * INTERVAL - time.time()) % INTERVAL)
        with self.load.marked():
            if not late:
                self._begin(name, LONG)
            rollout = convert(self.get("canaryrollouts", name), CanaryRollout)
            visible = asyncio.run(self._breach(rollout))
            if way == "prometheus_killed":
                self._kill_prometheus_once_seen(visible)
            revision = self._written(rollout.metadata.uid).revision
            self.await_(lambda: min(map(applied, self.addresses)) >= revision, "the pods")
            applied_at = time.time()
        self.tap.answered = lambda _query, _asked: None
        self.await_(lambda: self.phase("canaryrollouts", name) == "RolledBack", "the end")
        killed = not self.prometheus.alive
        if killed:
            self._restart_prometheus()
        return {
            "way": way,
            "bad_at": self.load.first_bad_at,
            "visible_at": visible,
            "applied_at": applied_at,
            "killed": killed,
        }

    def _begin(self, name: str, plan: list[dict[str, Any]]) -> None:
        metrics = [{"name": "errors", "errorRate": {"success": 0.01, "rollback": 0.05}}]
        analysis = {"interval": f"{INTERVAL:g}s", "warmup": "0s", "minRequests": 1}
        self.apply(
            "CanaryRollout",
            name,
            model=MODEL,
            canaryVersion=2,
            steps=plan,
            analysis={**analysis, "metrics": metrics},
        )

    def _rest(self, name: str, way: str) -> None:
        """Until the rollout stands still, its canary with half of the traffic."""
        if way == "waiting":
            self.await_(lambda: self.phase("canaryrollouts", name) == "WaitingPromotion", "a gate")
            return
        running = "clockRunningSince"
        self.await_(lambda: running in self.get("canaryrollouts", name)["status"], "the clock")
        path = f"{GROUP}/canaryrollouts/{name}"
        self.api.request("PATCH", path, {"spec": {"suspend": True}}, content_type=MERGE_PATCH)
        self.await_(lambda: self.phase("canaryrollouts", name) == "Holding", "suspension")

    def _kill_prometheus_once_seen(self, visible: float) -> None:
        """Kill it when it has answered a query of counters that was asked after that."""

        def answered(query: str, asked: float) -> None:
            if asked >= visible and names.METRIC_CHECK_BAD in query:
                self.tap.answered = lambda _query, _asked: None
                self.prometheus.kill()

        self.tap.answered = answered

    def _restart_prometheus(self) -> None:
        """Until it has scraped every pod again: what it missed belongs to no other run."""
        self.prometheus.start()
        at = time.time()
        oldest = f'min(timestamp(up{{namespace="{NAMESPACE}"}})) > {at:.3f}'
        self.await_(lambda: self.asked.result(oldest)[1] != b"[]", "scrapes")

    async def _breach(self, rollout: CanaryRollout) -> float:
        """The first moment at which Prometheus shows what the judge calls Fail."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            asked_at = time.time()
            readings = await self.metrics.samples(
                [(NAMESPACE, MODEL)], asked_at, PATIENCE, PATIENCE
            )
            if isinstance(readings, Readings) and broken(rollout, readings):
                return asked_at
            await asyncio.sleep(POLL)
        raise TimeoutError("no breach was seen")

    def _written(self, uid: str) -> RoutingTable:
        """The table that has the rollback."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{names.routing_table_name(MODEL)}"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            data = self.plane.api.request("GET", path)["data"]
            table = contract.decode(data[names.TABLE_KEY], data[names.DIGEST_KEY])
            if table.latch and table.latch.uid == uid:
                return table
            time.sleep(POLL / 4)
        raise TimeoutError("the rollback was not written")

    def apply(self, kind: str, name: str, **spec: Any) -> None:
        """As a user does."""
        manifest = {
            "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": spec,
        }
        self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def get(self, plural: str, name: str) -> dict[str, Any]:
        """An object as the API server has it."""
        return self.api.request("GET", f"{GROUP}/{plural}/{name}")

    def phase(self, plural: str, name: str) -> str:
        """The phase in its status."""
        return str(self.get(plural, name).get("status", {}).get("phase", ""))

    @property
    def api(self) -> Api:
        """Raw requests as admin."""
        return self.plane.api

    def await_(self, condition: Callable[[], Any], what: str) -> None:
        """Returns once it is so."""
        deadline = time.monotonic() + PATIENCE
        while not _holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain for {what}")
            time.sleep(POLL / 4)


def _holds(condition: Callable[[], Any]) -> bool:
    try:
        return bool(condition())
    except (ApiError, OSError):
        return False


def broken(rollout: CanaryRollout, readings: Readings) -> bool:
    """Whether the judge says Fail of all that the rollout's checks have counted so far."""
    (metric,) = compiled_metrics(rollout, None)
    assert isinstance(metric, Counted)
    assert metric.rollback is not None
    bound = metric.rollback
    mine = [one for one in readings.of((NAMESPACE, MODEL)).series if one.check == bound.id]
    window = counters.window(mine, {}, 0.0, longest_gap=PATIENCE, attended=True)
    tally = window.all.get(bound.id, {}).get(names.ARM_CANARY)
    if tally is None:
        return False
    rules = Rules(threshold=metric.tests / rollout.spec.analysis.significance_level)
    found = share.observe(
        share.ShareEvidence(), tally.requests, tally.bad, allowed=bound.allowed, planned_looks=1
    )
    evidence = Checkpoint(gating_since=0.0, step=0, shares={harm_key(bound): found})
    return judge(metric, evidence, rules).verdict is Verdict.Fail


def applied(address: str) -> int:
    """The revision that a pod applies."""
    connection = http.client.HTTPConnection(address, names.PORT_ADMIN, timeout=5)
    try:
        connection.request("GET", "/routing")
        report = acknowledgement.decode(connection.getresponse().read())
    finally:
        connection.close()
    return report.models[MODEL].revision


def repository(models: Path) -> Path:
    """A model repository with a good version and a broken one."""
    for version in ("1", "2"):
        (models / MODEL / version).mkdir(parents=True)
        (models / MODEL / version / "model.py").write_text(_MODEL_CODE)
    (models / MODEL / "config.pbtxt").write_text(_MODEL_CONFIG)
    return models


class Load:
    """A few requests each second to every pod, in threads of their own. ``first_bad_at``: when the
    first one since they were last marked had failed (epoch seconds).
    """

    def __init__(self, addresses: list[str]) -> None:
        self.first_bad_at = 0.0
        self._sign = 1
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(address,), daemon=True)
            for address in addresses
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @contextlib.contextmanager
    def marked(self) -> Iterator[None]:
        """Meanwhile version 2 fails all requests."""
        self.first_bad_at, self._sign = 0.0, -1
        try:
            yield
        finally:
            self._sign = 1

    def _ask(self, address: str) -> None:
        connection = http.client.HTTPConnection(address, names.PORT_HTTP, timeout=5)
        headers = {"Content-Type": "application/json"}
        while not self._ended.wait(PAUSE_BETWEEN_REQUESTS):
            data = [self._sign * one for one in (1, 2, 3, 4)]
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": data}
            body = json.dumps({"inputs": [tensor]})
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            if answer.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR and not self.first_bad_at:
                self.first_bad_at = time.time()


if __name__ == "__main__":
    main()
