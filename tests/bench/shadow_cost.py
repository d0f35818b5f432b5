"""What shadow traffic costs the callers: stable's p99 with all of its requests mirrored / without.

One Triton with two equal versions and the sidecar before it share one core, so a copy takes what
it takes from real requests; the load generator has the other. Requests arrive at random at 60% of
what the model can do, in two forms of it: work that grows with the rows of a batch, where the
device idles in the rest of the time, and work that is the same for any batch, where batches grow
until it never does. A repetition goes to and fro between with and without in short turns, so that
what else the machine does meets both; the ratio is that of the p99 of all turns of each, and the
median over the repetitions counts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import load

from tidegate_contract import acknowledgement, names, table
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import Launch, Supervisor

NAME = "shadow_cost"
LOAD: Final = 0.6
ROW: Final = 16
CONNECTIONS: Final = 64
START_TIMEOUT = 60.0
RESULTS = Path("bench-results")
MODELS: Final = {"by_rows": "len(x)", "by_batch": "2"}
"""How often the work is done for a batch ``x``."""

_MODEL_CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.matrix = np.random.default_rng(0).random((384, 384), np.float32)

    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            for _ in range({times}):
                self.matrix @ self.matrix
            y = pb_utils.Tensor("y", np.tanh(x))
            answers.append(pb_utils.InferenceResponse([y]))
        return answers
"""

_SIDECAR = """
from tidegate_sidecar import __main__
from tidegate_sidecar.shell import watcher

watcher.FILE_SECONDS = 0.05  # or each turn would wait long for its table
__main__.main()
"""

_MODEL_CONFIG = """
backend: "python"
max_batch_size: 16
input [{{ name: "x" data_type: TYPE_FP32 dims: [{row}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{row}] }}]
version_policy: {{ all {{}} }}
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


@dataclass
class Sidecar:
    """A running sidecar, told by files which table to apply."""

    ip: str
    tables: Path
    revision: int = 0

    def mirror(self, model: str, weight: int) -> None:
        """Mirror a share of a model's requests, in basis points, and wait until it is so."""
        self.revision += 1
        write_table(self.tables, model, self.revision, weight)
        while self._acknowledged()[model].revision != self.revision:
            time.sleep(0.02)

    def ready(self) -> bool:
        """Whether it serves both versions of every model."""
        versions = [one.versions for one in self._acknowledged().values()]
        return all(
            version in of and of[version].state == "Ready" for of in versions for version in (1, 2)
        )

    def _acknowledged(self) -> dict[str, acknowledgement.Acknowledgement]:
        with urllib.request.urlopen(f"http://{self.ip}:{names.PORT_ADMIN}/routing") as answer:
            return acknowledgement.decode(answer.read()).models

    def pairs(self) -> float:
        """Pairs that were compared so far."""
        with urllib.request.urlopen(f"http://{self.ip}:{names.PORT_ADMIN}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        mirrored = [line for line in lines if line.startswith("tidegate_mirror_total")]
        assert not any('outcome="failed"' in line for line in mirrored), mirrored
        agreed = [line for line in mirrored if 'outcome="agreed"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in agreed)


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--turns", type=int, default=8, help="of each repetition")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    given = parser.parse_args()
    serving, loading = sorted(os.sched_getaffinity(0))[:2]
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        Supervisor() as supervisor,
    ):
        os.sched_setaffinity(0, {serving})  # what is started from here on inherits it
        sidecar = start(supervisor, subnet, Path(directory))
        os.sched_setaffinity(0, {loading})
        samples = {
            model: [
                measure(sidecar, model, given.turns, given.seconds)
                for _ in range(given.repetitions)
            ]
            for model in MODELS
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    print("RESULT", json.dumps({"name": NAME, "figures": figures(samples)}))


def start(supervisor: Supervisor, subnet: Subnet, directory: Path) -> Sidecar:
    """Start Triton and the sidecar."""
    models, tables = directory / "models", directory / "tables"
    for model, times in MODELS.items():
        lay_out_model(models / model, times)
        write_table(tables, model, 1, 0)
    ip = subnet.ip(1)
    server = triton.launch(models, ip)
    log = directory / "triton.log"
    process = supervisor.start("triton", server.argv, env=server.env, log=log)
    address = f"http://{ip}:{triton.HTTP_PORT}/v2/health/live"
    process.wait_until(partial(succeeds, address), START_TIMEOUT)
    settings = {
        "models": ",".join(MODELS),
        "pod": "bench",
        "pod-uid": "bench",
        "namespace": "bench",
        "host": ip,
        "triton": f"{ip}:{triton.HTTP_PORT}",
        "table-directory": str(tables),
    }
    flags = [f"--{flag}={value}" for flag, value in settings.items()]
    environment = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
    launch = Launch((sys.executable, "-c", _SIDECAR, *flags), environment)
    log = directory / "sidecar.log"
    process = supervisor.start("sidecar", launch.argv, env=launch.env, log=log)
    process.wait_until(partial(succeeds, f"http://{ip}:{names.PORT_ADMIN}/healthz"), START_TIMEOUT)
    sidecar = Sidecar(ip, tables, revision=1)
    process.wait_until(sidecar.ready, START_TIMEOUT)
    return sidecar


def lay_out_model(folder: Path, times: str) -> None:
    """Write a model with two equal versions."""
    for version in ("1", "2"):
        (folder / version).mkdir(parents=True)
        (folder / version / "model.py").write_text(_MODEL_CODE.format(times=times))
    (folder / "config.pbtxt").write_text(_MODEL_CONFIG.format(row=ROW))


def write_table(tables: Path, model: str, revision: int, weight: int) -> None:
    """Write a table that mirrors a share of version 1's requests to version 2."""
    folder = tables / names.routing_table_name(model)
    folder.mkdir(parents=True, exist_ok=True)
    text, digest = table.encode(
        table.RoutingTable(
            namespace="bench",
            model=model,
            revision=revision,
            split_revision=1,
            split=[table.Arm(name=names.ARM_STABLE, version=1, weight=table.WHOLE)],
            versions=[table.LoadedVersion(version=1), table.LoadedVersion(version=2)],
            mirror=table.Mirror(version=2, weight=weight),
            checks=[table.DisagreementCheck(id="agreement@bench", tolerance=0.001)],
            baseline=[table.Share(version=1, weight=table.WHOLE)],
        )
    )
    (folder / names.DIGEST_KEY).write_text(digest)
    (folder / names.TABLE_KEY).write_text(text)


def measure(sidecar: Sidecar, model: str, turns: int, seconds: float) -> dict[str, Any]:
    """One repetition: the latencies with and without, at the same arrivals."""
    request = a_request(model)
    address = sidecar.ip, names.PORT_HTTP
    sidecar.mirror(model, 0)
    load.run(*address, request, connections=CONNECTIONS, seconds=seconds / 2)
    top = load.run(*address, request, connections=CONNECTIONS, seconds=2 * seconds).rate
    both = {0: load.Sample(), table.WHOLE: load.Sample()}
    before = sidecar.pairs()
    for turn in range(turns):
        for weight in sorted(both, reverse=turn % 2 == 1):
            sidecar.mirror(model, weight)
            one = load.at_rate(
                *address,
                request,
                connections=CONNECTIONS,
                rate=LOAD * top,
                seconds=seconds,
                seed=turn,
            )
            both[weight].latencies += one.latencies
            both[weight].failed += one.failed
            both[weight].seconds += one.seconds
    mirrored = both[table.WHOLE]
    return {
        "with": shown(mirrored),
        "without": shown(both[0]),
        "pairs_per_s": (sidecar.pairs() - before) / mirrored.seconds,
    }


def shown(sample: load.Sample) -> dict[str, float]:
    """What is kept of a sample."""
    return {
        "rate": sample.rate,
        "p50_ms": sample.quantile(0.5) * 1e3,
        "p99_ms": sample.quantile(0.99) * 1e3,
        "failed": sample.failed,
    }


def a_request(model: str) -> bytes:
    """One row of a model's input."""
    data = bytes(4 * ROW)
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, ROW],
        "parameters": {"binary_data_size": len(data)},
    }
    body = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return load.infer_request(f"/v2/models/{model}/infer", json.dumps(body).encode(), data)


def figures(samples: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the repetitions, of the ratio also the spread."""
    found: dict[str, Any] = {}
    for model, of in samples.items():
        ratios = sorted(one["with"]["p99_ms"] / one["without"]["p99_ms"] for one in of)
        found[f"{model}_p99_ratio"] = statistics.median(ratios)
        found[f"{model}_p99_ratio_min"], found[f"{model}_p99_ratio_max"] = ratios[0], ratios[-1]
        for side in ("with", "without"):
            for name in ("rate", "p50_ms", "p99_ms", "failed"):
                found[f"{model}_{side}_{name}"] = statistics.median(one[side][name] for one in of)
        found[f"{model}_pairs_per_s"] = statistics.median(one["pairs_per_s"] for one in of)
    repetitions = len(next(iter(samples.values())))
    return {name: round(value, 3) for name, value in found.items()} | {
        "load": LOAD,
        "repetitions": repetitions,
    }


def succeeds(url: str) -> bool:
    """Whether a GET is answered well."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.HTTPError):
        time.sleep(0.05)
        return False


if __name__ == "__main__":
    main()
