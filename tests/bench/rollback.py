"""From a breach being visible in Prometheus to every pod applying the rollback.

Everything is real: two Tritons with their sidecars, Prometheus, the API server, the operator as a
process. Version 2 fails every request. In each run a rollout gives it half of the traffic; a
poller of Prometheus stops the first moment at which its counters make the operator's own judge
say Fail. The clock runs from there until the acknowledgement of the last pod shows a table with
the rollback. Runs start at times spread evenly over the interval at which the operator looks.
"""

import argparse
import asyncio
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tidegate_contract import acknowledgement, names
from tidegate_contract import table as contract
from tidegate_contract.table import RoutingTable
from tidegate_operator.adapters.metrics import PrometheusMetrics, Readings
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint
from tidegate_operator.api.meta import convert
from tidegate_operator.evidence import counters
from tidegate_operator.evidence.verdict import Verdict, judge
from tidegate_operator.rollout import steps
from tidegate_operator.rollout.canary import compiled_metrics
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet, free_port
from tidegate_tools.api import Api, ApiError, answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.pods import Container, LocalPod, ScrapeTargets
from tidegate_tools.processes import Launch, Supervisor
from tidegate_tools.prometheus import Prometheus

NAME = "rollback"
MODEL = "small"
NAMESPACE = "default"
PODS = 2
INTERVAL = 2.0
SCRAPE_MS = 500
POLL = 0.02
PAUSE_BETWEEN_REQUESTS = 0.02
PATIENCE = 60.0
RESULTS = Path("bench-results")
CRDS = Path(__file__).parents[2] / "crds"
GROUP = f"/apis/{names.GROUP}/{names.API_VERSION}/namespaces/{NAMESPACE}"

_MODEL_CODE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.broken = args["model_version"] == "2"

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if self.broken and x.any():  # zeros are the sidecar's warm-up
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
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    with ExitStack() as stack:
        bench = Bench(stack)
        samples = [bench.run(number, number / given.runs) for number in range(given.runs)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    seconds = [sample["seconds"] for sample in samples]
    figures = {
        "p50_s": round(statistics.median(seconds), 3),
        "max_s": round(max(seconds), 3),
        "min_s": round(min(seconds), 3),
        "interval_s": INTERVAL,
        "runs": len(samples),
    }
    print("RESULT", json.dumps({"name": NAME, "figures": figures}))


class Bench:
    """All parts, running for as long as the stack does."""

    def __init__(self, stack: ExitStack) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        subnet = stack.enter_context(Subnet.claimed())
        self.addresses = [subnet.ip(number + 2) for number in range(PODS)]
        self.plane = stack.enter_context(ControlPlane(directory / "control-plane"))
        for crd in sorted(CRDS.glob("*.yaml")):
            self.plane.kubectl("apply", "-f", str(crd))
        self.plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        targets = ScrapeTargets(directory / "targets.json")
        prometheus = Prometheus(
            directory / "prometheus", sidecars=targets.path, scrape_interval_ms=SCRAPE_MS
        )
        stack.enter_context(prometheus)
        self.metrics = PrometheusMetrics(prometheus.url)
        self._start_operator(stack.enter_context(Supervisor()), directory, prometheus.url)
        self.apply("ModelVersion", "small-1", model=MODEL, version=1, lifecycle="Active")
        self.apply("ModelVersion", "small-2", model=MODEL, version=2)
        models = repository(directory / "models")
        for number, address in enumerate(self.addresses):
            pod = self._pod(number, address, directory, models, targets)
            stack.callback(triton.sweep, address)
            stack.enter_context(pod)
        self.await_(lambda: self.phase("modelversions", "small-2") == "Ready", "version 2")
        stack.enter_context(Load(self.addresses))

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

    def run(self, number: int, phase: float) -> dict[str, Any]:
        """One rollout that is rolled back; its times. ``phase``: where in an interval it starts."""
        name = f"run-{number}"
        time.sleep((phase * INTERVAL - time.time()) % INTERVAL)
        metrics = [{"name": "errors", "errorRate": {"success": 0.01, "rollback": 0.05}}]
        self.apply(
            "CanaryRollout",
            name,
            model=MODEL,
            canaryVersion=2,
            initialPercent=50,
            stepDuration="1h",
            analysis={"interval": f"{INTERVAL:g}s", "warmup": "0s", "metrics": metrics},
        )
        rollout = convert(self.get("canaryrollouts", name), CanaryRollout)
        visible = asyncio.run(self._breach(rollout))
        written = self._written(rollout.metadata.uid)
        revision = written.revision
        for address in self.addresses:
            self.await_(lambda at=address: applied(at) >= revision, "the pods")
        applied_at = time.time()
        self.await_(lambda: self.phase("canaryrollouts", name) == "RolledBack", "the end")
        return {"seconds": applied_at - visible, "visible_at": visible, "applied_at": applied_at}

    async def _breach(self, rollout: CanaryRollout) -> float:
        """The first moment at which Prometheus shows what the judge calls Fail."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            asked_at = time.time()
            readings = await self.metrics.read(PATIENCE)
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

    def await_(self, condition: Any, what: str) -> None:
        """Returns once it is so."""
        deadline = time.monotonic() + PATIENCE
        while not _holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain for {what}")
            time.sleep(POLL / 4)


def _holds(condition: Any) -> bool:
    try:
        return bool(condition())
    except (ApiError, OSError):
        return False


def broken(rollout: CanaryRollout, readings: Readings) -> bool:
    """Whether the judge says Fail of all that the rollout's checks have counted so far."""
    (metric,) = compiled_metrics(rollout)
    ids = {bound.id for bound in metric.bounds}
    series = [one for one in readings.of((NAMESPACE, MODEL)).series if one.check in ids]
    window = counters.window(series, {}, 0.0, longest_gap=PATIENCE, attended=True)
    canary = names.ARM_CANARY
    harm = {id_: [arms[canary]] for id_, arms in window.all.items() if canary in arms}
    judgement = judge(
        metric,
        Checkpoint(gating_since=0.0, step=0, harm=harm, watched=window.watched),
        total_steps=len(steps.resolve(rollout.spec)),
        threshold=1 / rollout.spec.analysis.significance_level,
        step_over=False,
    )
    return judgement.verdict is Verdict.Fail


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
    """A few requests each second to every pod, in threads of their own."""

    def __init__(self, addresses: list[str]) -> None:
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(address,), daemon=True)
            for address in addresses
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, address: str) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        body = json.dumps({"inputs": [tensor]})
        connection = http.client.HTTPConnection(address, names.PORT_HTTP, timeout=5)
        headers = {"Content-Type": "application/json"}
        while not self._ended.wait(PAUSE_BETWEEN_REQUESTS):
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body, headers)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()


if __name__ == "__main__":
    main()
