"""From a routing table's write to its being applied in a pod, under load.

The clock starts before the ConfigMap's PUT is sent to a real API server and stops when the pod's
own acknowledgement (`/routing`, asked without a pause over one connection from this machine, so
by the same clock) shows the revision: the figure holds the write, the watch and one such question.
Meanwhile clients load the model through the sidecar; each change moves weight between the
two versions that serve.
"""

import argparse
import http.client
import json
import math
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import load
from result import report

from tidegate_contract import acknowledgement, names
from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import Acknowledgement
from tidegate_contract.table import Arm, LoadedVersion, RoutingTable, Share
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.api import JSON, Api, answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.processes import Supervisor

NAME = "table_apply"
MODEL = "small"
ROW = 64
NAMESPACE = "default"
CONNECTIONS = 8
CHANGES = 100
PAUSE = 0.02
"""Seconds between two changes."""
START_TIMEOUT = 60.0
APPLY_TIMEOUT = 10.0
LOAD_SECONDS = 8.0

_MODEL_CODE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x + 1)])
"""

_MODEL_CONFIG = f"""
backend: "python"
max_batch_size: 64
input [{{ name: "x" data_type: TYPE_FP32 dims: [{ROW}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{ROW}] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
version_policy {{ specific {{ versions: [1, 2] }} }}
"""


class Pod:
    """What the pod acknowledges, over one connection."""

    def __init__(self, ip: str) -> None:
        self._connection = http.client.HTTPConnection(ip, names.PORT_ADMIN, timeout=5)

    def acknowledged(self) -> Acknowledgement:
        """Ask once."""
        self._connection.request("GET", "/routing")
        body = self._connection.getresponse().read()
        return acknowledgement.decode(body).models[MODEL]

    def until(self, revision: int) -> float:
        """Ask without a pause; the time at which the revision was seen."""
        deadline = time.perf_counter() + APPLY_TIMEOUT
        while self.acknowledged().revision < revision:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"revision {revision} was not applied")
        return time.perf_counter()


class Writer:
    """Writes the table as the operator does: over a connection that is there already."""

    def __init__(self, api: Api) -> None:
        address = api.server.removeprefix("https://")
        self._connection = http.client.HTTPSConnection(address, context=api.context, timeout=10)
        self._token = api.token
        self._collection = f"/api/v1/namespaces/{NAMESPACE}/configmaps"

    def create(self, table: RoutingTable) -> None:
        """Write the first table."""
        self._send("POST", self._collection, table)

    def replace(self, table: RoutingTable) -> None:
        """Write the next one."""
        self._send("PUT", f"{self._collection}/{names.routing_table_name(MODEL)}", table)

    def _send(self, method: str, path: str, table: RoutingTable) -> None:
        text, digest = contract.encode(table)
        body = {
            "metadata": {"name": names.routing_table_name(MODEL)},
            "data": {names.TABLE_KEY: text, names.DIGEST_KEY: digest},
        }
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": JSON}
        self._connection.request(method, path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status not in (http.client.OK, http.client.CREATED):
            raise ConnectionError(f"{answer.status} {said.decode()}")


Change = Callable[[int], RoutingTable]
"""The table of a revision."""


def main() -> None:
    """Run with changes of weight."""
    run(NAME, a_table)


def run(name: str, change: Change) -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        ip = stack.enter_context(Subnet.claimed()).ip(2)
        control_plane = stack.enter_context(ControlPlane(directory / "control-plane"))
        supervisor = stack.enter_context(Supervisor())
        writer = Writer(control_plane.api)
        writer.create(change(1))
        start(supervisor, ip, directory, control_plane.kubeconfig)
        samples = [
            measure(ip, writer, change, first=2 + CHANGES * number)
            for number in range(given.repetitions)
        ]
    report(name, figures(samples), samples)


def start(supervisor: Supervisor, ip: str, directory: Path, kubeconfig: Path) -> None:
    """Start a pod: Triton and the sidecar, and wait until it is ready."""
    models = directory / "models"
    for version in (1, 2):
        (models / MODEL / str(version)).mkdir(parents=True)
        (models / MODEL / str(version) / "model.py").write_text(_MODEL_CODE)
    (models / MODEL / "config.pbtxt").write_text(_MODEL_CONFIG)
    launch = triton.launch(models, ip)
    server = supervisor.start("triton", launch.argv, env=launch.env, log=directory / "triton.log")
    address = f"{ip}:{triton.HTTP_PORT}"
    server.wait_until(partial(answers, f"http://{address}/v2/health/live"), START_TIMEOUT)
    settings = {
        "models": MODEL,
        "pod": "bench",
        "pod-uid": "bench",
        "namespace": NAMESPACE,
        "host": ip,
        "triton": address,
        "state-directory": str(directory / "state"),
    }
    flags = [f"--{flag}={value}" for flag, value in settings.items()]
    sidecar = supervisor.start(
        "sidecar",
        [sys.executable, "-m", "tidegate_sidecar", *flags],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        log=directory / "sidecar.log",
    )
    ready = f"http://{ip}:{names.PORT_ADMIN}/readyz"
    sidecar.wait_until(partial(answers, ready), START_TIMEOUT)


def a_table(revision: int) -> RoutingTable:
    """A canary's weight goes up and down again, by a percent with each revision."""
    percent = revision % 100
    canary = contract.WHOLE // 100 * percent
    return RoutingTable(
        namespace=NAMESPACE,
        model=MODEL,
        revision=revision,
        split_revision=revision,
        split=[
            Arm(name=names.ARM_STABLE, version=1, weight=contract.WHOLE - canary),
            Arm(name=names.ARM_CANARY, version=2, weight=canary),
        ],
        versions=[LoadedVersion(version=1), LoadedVersion(version=2)],
        baseline=[
            Share(version=1, weight=contract.WHOLE // 2),
            Share(version=2, weight=contract.WHOLE // 2),
        ],
    )


def measure(ip: str, writer: Writer, change: Change, first: int) -> dict[str, Any]:
    """One repetition: each change's milliseconds, and what the clients saw meanwhile.

    Raises:
        RuntimeError: the changes took longer than the load.
    """
    pod = Pod(ip)
    pod.until(first - 1)
    # A process of its own: its clients must not wait for the questions that are asked here.
    with ProcessPoolExecutor(1, get_context("spawn")) as clients, ThreadPoolExecutor(1) as writing:
        before = answered(ip)
        loading = clients.submit(loaded, ip)
        while answered(ip) == before:
            time.sleep(PAUSE)
        times = []
        for revision in range(first, first + CHANGES):
            time.sleep(PAUSE)
            started = time.perf_counter()
            # Beside, for the pod may be told before the writer is.
            written = writing.submit(writer.replace, change(revision))
            times.append((pod.until(revision) - started) * 1e3)
            written.result()
        if loading.done():
            raise RuntimeError("the load ended before the changes did")
        return {"times_ms": times, **loading.result()}


def loaded(ip: str) -> dict[str, Any]:
    """Load the pod, in this process; what the clients saw."""
    data = bytes(4 * ROW)
    size = {"binary_data_size": len(data)}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, ROW], "parameters": size}
    body = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    request = load.infer_request(f"/v2/models/{MODEL}/infer", json.dumps(body).encode(), data)
    sample = load.run(ip, names.PORT_HTTP, request, connections=CONNECTIONS, seconds=LOAD_SECONDS)
    return {
        "failed": sample.failed,
        "answered": len(sample.latencies),
        "rate": sample.rate,
        "p99_ms": sample.quantile(0.99) * 1e3,
    }


def figures(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the repetitions, and how far they lie apart."""
    shown: dict[str, float] = {}
    for name, q in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        values = sorted(quantile(sample["times_ms"], q) for sample in samples)
        shown[name] = round(statistics.median(values), 2)
        shown[f"{name}_min"], shown[f"{name}_max"] = round(values[0], 2), round(values[-1], 2)
    return shown | {
        "failed_requests": sum(sample["failed"] for sample in samples),
        "requests": sum(sample["answered"] for sample in samples),
        "requests_per_second": round(statistics.median(sample["rate"] for sample in samples), 1),
        "changes": CHANGES,
        "repetitions": len(samples),
    }


def quantile(values: list[float], q: float) -> float:
    """The value that a share q of them does not exceed."""
    return sorted(values)[math.ceil(q * len(values)) - 1]


def answered(ip: str) -> int:
    """Requests that the pod has answered well so far, by its own count."""
    with urllib.request.urlopen(f"http://{ip}:{names.PORT_ADMIN}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    counts = [line for line in lines if line.startswith("tidegate_requests_total{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in counts if 'outcome="ok"' in line))


if __name__ == "__main__":
    main()
