"""What the sidecar adds to Triton and what it costs: throughput, tail, and one connection's time.

Servers of one small model side by side, loaded in turn: Triton as it is; Triton with its own
dynamic batching in three settings, of which the fastest one counts; the sidecar before the Triton
as it is, compiled as the image has it (`make compiled`; without, as it is) and interpreted; and,
where nginx is installed, nginx there in its place, as a plain proxy that keeps its
connections. All servers run on one core and the load generator on another, so that what a server
costs is what it can serve. Ratios are taken within one repetition, so that what else the machine
does meets both sides; the median of them counts.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import load
import pod
from result import report

from tidegate_contract import names, table
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import Launch, Process, Supervisor

NAME = "sidecar_vs_triton"
MODEL = "small"
ROW = 64
CONNECTIONS = 64
TURNS = 8
"""In which each side answers one connection: what is added is small to what the machine wavers."""
START_TIMEOUT = 60.0
DYNAMIC = {
    "default": "dynamic_batching { }",
    "preferred": (
        "dynamic_batching { preferred_batch_size: [32, 64] max_queue_delay_microseconds: 500 }"
    ),
    "delayed": "dynamic_batching { max_queue_delay_microseconds: 2000 }",
}
"""Triton's own batching, by the names that the figures have for it."""

_MODEL_CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            y = pb_utils.Tensor("y", np.tanh(x * 0.5 + 0.25))
            answers.append(pb_utils.InferenceResponse([y]))
        return answers
"""

_MODEL_CONFIG = """
backend: "python"
max_batch_size: 64
input [{{ name: "x" data_type: TYPE_FP32 dims: [{row}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{row}] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
{batching}
"""

_NGINX_CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/nginx-errors.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  keepalive_requests 100000000;
  upstream triton {{ server {triton}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen {listen};
    location / {{
      proxy_pass http://triton;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Side:
    """A server to load."""

    name: str
    host: str
    port: int
    process: Process


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    given = parser.parse_args()
    serving, loading = pod.cores()
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        Supervisor() as supervisor,
    ):
        os.sched_setaffinity(0, {serving})  # what is started from here on inherits it
        sides = start(supervisor, subnet, Path(directory))
        os.sched_setaffinity(0, {loading})
        samples = [measure(sides, given.seconds) for _ in range(given.repetitions)]
    report(NAME, figures(samples), samples)


def start(supervisor: Supervisor, subnet: Subnet, directory: Path) -> list[Side]:
    """Start the Tritons, and the sidecar and nginx before the plain one."""
    sides = []
    for i, (name, batching) in enumerate(({"plain": ""} | DYNAMIC).items()):
        models = directory / name
        lay_out_model(models, batching)
        ip = subnet.ip(i + 1)
        process = run(supervisor, name, triton.launch(models, ip), directory)
        address = f"http://{ip}:{triton.HTTP_PORT}/v2"
        process.wait_until(partial(pod.answers, f"{address}/health/live"), START_TIMEOUT)
        pod.post(f"{address}/repository/models/{MODEL}/load")
        sides.append(Side(name, ip, triton.HTTP_PORT, process))
    plain, free = sides[0], len(sides) + 1
    tables = lay_out_table(directory)
    for i, (name, code) in enumerate({"sidecar": pod.COMPILED, "interpreted": None}.items()):
        sides.append(start_sidecar(supervisor, name, subnet.ip(free + i), plain, tables, code))
    if nginx := shutil.which("nginx"):
        sides.append(start_nginx(supervisor, nginx, subnet.ip(free + 2), plain, directory))
    else:
        print("nginx is not installed: no cpu_to_nginx")
    return sides


def start_nginx(supervisor: Supervisor, binary: str, ip: str, plain: Side, directory: Path) -> Side:
    """Start nginx as one process before Triton."""
    port = names.PORT_HTTP
    path = directory / "nginx.conf"
    path.write_text(
        _NGINX_CONFIG.format(
            directory=directory, triton=f"{plain.host}:{plain.port}", listen=f"{ip}:{port}"
        )
    )
    launch = Launch((binary, "-p", str(directory), "-c", str(path)), dict(os.environ))
    process = run(supervisor, "nginx", launch, directory)
    process.wait_until(partial(pod.answers, f"http://{ip}:{port}/v2/health/live"), START_TIMEOUT)
    return Side("nginx", ip, port, process)


def start_sidecar(
    supervisor: Supervisor, name: str, ip: str, plain: Side, tables: Path, code: Path | None
) -> Side:
    """Start a sidecar with a table from a file. ``code``: see ``pod.sidecar_environment``."""
    settings = {
        "models": MODEL,
        "pod": "bench",
        "pod-uid": "bench",
        "namespace": "bench",
        "host": ip,
        "triton": f"{plain.host}:{plain.port}",
        "table-directory": str(tables),
    }
    flags = [f"--{flag}={value}" for flag, value in settings.items()]
    argv = (sys.executable, "-m", "tidegate_sidecar", *flags)
    launch = Launch(argv, pod.sidecar_environment(code))
    process = run(supervisor, name, launch, tables.parent)
    ready = f"http://{ip}:{names.PORT_HTTP}/v2/models/{MODEL}/versions/1/ready"
    process.wait_until(partial(pod.answers, ready), START_TIMEOUT)
    return Side(name, ip, names.PORT_HTTP, process)


def lay_out_table(directory: Path) -> Path:
    """Write the model's table; where tables are."""
    tables = directory / "tables"
    folder = tables / names.routing_table_name(MODEL)
    folder.mkdir(parents=True)
    text, digest = table.encode(
        table.RoutingTable(
            namespace="bench",
            model=MODEL,
            revision=1,
            split_revision=1,
            split=[table.Arm(name=names.ARM_STABLE, version=1, weight=table.WHOLE)],
            versions=[table.LoadedVersion(version=1)],
            baseline=[table.Share(version=1, weight=table.WHOLE)],
        )
    )
    (folder / names.TABLE_KEY).write_text(text)
    (folder / names.DIGEST_KEY).write_text(digest)
    return tables


def lay_out_model(models: Path, batching: str) -> None:
    """Write the model's repository."""
    version = models / MODEL / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_MODEL_CODE)
    config = _MODEL_CONFIG.format(row=ROW, batching=batching)
    (models / MODEL / "config.pbtxt").write_text(config)


def run(supervisor: Supervisor, name: str, launch: Launch, directory: Path) -> Process:
    """Start a process with its log beside the models."""
    return supervisor.start(name, launch.argv, env=launch.env, log=directory / f"{name}.log")


def measure(sides: list[Side], seconds: float) -> dict[str, Any]:
    """One repetition: every side in turn, under load and with one connection."""
    request = a_request()
    result: dict[str, Any] = {}
    waits: dict[str, list[float]] = {side.name: [] for side in sides}
    for turn in range(TURNS):
        for side in reversed(sides) if turn % 2 else sides:
            one = load.run(
                side.host, side.port, request, connections=1, seconds=seconds / 2 / TURNS
            )
            assert not one.failed, side.name
            waits[side.name].append(one.quantile(0.5))
    for side in sides:
        load.run(side.host, side.port, request, connections=CONNECTIONS, seconds=seconds / 8)
        cpu = cpu_seconds(side.process)
        many = load.run(side.host, side.port, request, connections=CONNECTIONS, seconds=seconds)
        cpu = cpu_seconds(side.process) - cpu
        result[side.name] = {
            "rate": many.rate,
            "p50_ms": many.quantile(0.5) * 1e3,
            "p99_ms": many.quantile(0.99) * 1e3,
            "failed": many.failed,
            "cpu_us": cpu / max(len(many.latencies), 1) * 1e6,
            "one_p50_ms": statistics.median(waits[side.name]) * 1e3,
        }
    return result


def a_request() -> bytes:
    """One row of the model's input."""
    data = bytes(4 * ROW)
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, ROW],
        "parameters": {"binary_data_size": len(data)},
    }
    body = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return load.infer_request(f"/v2/models/{MODEL}/infer", json.dumps(body).encode(), data)


def figures(samples: list[dict[str, Any]]) -> dict[str, float | str]:
    """Medians over the repetitions, and of the ratios the spread.

    ``dynamic``: which setting of Triton's own batching is compared with, that of the best rate.
    """
    best = max(DYNAMIC, key=lambda one: statistics.median(s[one]["rate"] for s in samples))
    of: dict[str, Callable[[dict[str, Any]], float]] = {
        "throughput_ratio": lambda s: s["sidecar"]["rate"] / s[best]["rate"],
        "p99_ratio": lambda s: s["sidecar"]["p99_ms"] / s[best]["p99_ms"],
        "added_p50_ms": lambda s: s["sidecar"]["one_p50_ms"] - s["plain"]["one_p50_ms"],
        "throughput_ratio_to_plain": lambda s: s["sidecar"]["rate"] / s["plain"]["rate"],
        "interpreted_throughput_ratio": lambda s: s["interpreted"]["rate"] / s[best]["rate"],
        "interpreted_p99_ratio": lambda s: s["interpreted"]["p99_ms"] / s[best]["p99_ms"],
        "p99_ratio_to_plain": lambda s: s["sidecar"]["p99_ms"] / s["plain"]["p99_ms"],
    }
    if "nginx" in samples[0]:
        of["cpu_to_nginx"] = lambda s: s["sidecar"]["cpu_us"] / s["nginx"]["cpu_us"]
    shown: dict[str, float | str] = {"dynamic": best}
    for name, figure in of.items():
        values = sorted(map(figure, samples))
        shown[name] = round(statistics.median(values), 3)
        shown[f"{name}_min"], shown[f"{name}_max"] = round(values[0], 3), round(values[-1], 3)
    for side in samples[0]:
        for name in ("rate", "p99_ms", "one_p50_ms", "cpu_us", "failed"):
            median = statistics.median(sample[side][name] for sample in samples)
            shown[f"{side}_{name}"] = round(median, 3)
    shown["compiled"] = pod.COMPILED.exists()
    return shown | {"repetitions": len(samples), "connections": CONNECTIONS}


def cpu_seconds(process: Process) -> float:
    """What a process has used, without its children."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
