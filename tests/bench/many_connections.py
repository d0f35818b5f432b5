"""Whether many clients cost throughput: that of 512 connections to the best of fewer ones.

Beside it stands a bare server that answers at once. What a request takes longer there with so many
connections is the load generator's part, and the kernel's and the caches' of the machine: no server
is without it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import load
import pod
from result import report
from sidecar_vs_triton import cpu_seconds

from tidegate_contract import names
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import Process, Supervisor

NAME = "many_connections"
CONNECTIONS = (16, 64, 128, 256, 512)

_BARE = """
import asyncio
import sys

import uvloop

ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 256\\r\\n\\r\\n" + bytes(256)


class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(ANSWER)


async def main():
    address = sys.argv[1], int(sys.argv[2])
    server = await asyncio.get_running_loop().create_server(Server, *address, backlog=1024)
    await server.serve_forever()


uvloop.run(main())
"""


@dataclass(frozen=True)
class Run:
    """Requests a second, and microseconds of CPU for each: the server's and the generator's."""

    rate: float
    server: float
    generator: float


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    given = parser.parse_args()
    model = pod.Model(name="small", fixed=0.0, per_row=0.0)
    request = model.request()
    serving, loading = pod.cores()
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        Supervisor() as supervisor,
        pod.running((model,), Path(directory), subnet.ip(1), serving) as under_test,
    ):
        os.sched_setaffinity(0, {serving})  # the bare server inherits it
        sides = {
            "sidecar": (under_test.ip, under_test.sidecar),
            "bare": (subnet.ip(2), start_bare(supervisor, subnet.ip(2), Path(directory))),
        }
        os.sched_setaffinity(0, {loading})
        samples = [
            {
                name: {n: measure(ip, server, request, n, given.seconds) for n in CONNECTIONS}
                for name, (ip, server) in sides.items()
            }
            for _ in range(given.repetitions)
        ]
    kept = [
        {name: {n: asdict(run) for n, run in runs.items()} for name, runs in one.items()}
        for one in samples
    ]
    report(NAME, figures(samples), kept)


def start_bare(supervisor: Supervisor, ip: str, directory: Path) -> Process:
    """Start the server that answers at once."""
    argv = [sys.executable, "-c", _BARE, ip, str(names.PORT_HTTP)]
    process = supervisor.start("bare", argv, log=directory / "bare.log")
    address = f"http://{ip}:{names.PORT_HTTP}/"
    process.wait_until(partial(pod.answers, address), pod.START_TIMEOUT)
    return process


def measure(ip: str, server: Process, request: bytes, connections: int, seconds: float) -> Run:
    """Load a server by so many connections."""
    its, own = cpu_seconds(server), time.process_time()
    found = load.run(ip, names.PORT_HTTP, request, connections=connections, seconds=seconds)
    assert not found.failed, connections
    count = len(found.latencies) / 1e6
    its, own = cpu_seconds(server) - its, time.process_time() - own
    return Run(found.rate, its / count, own / count)


def figures(samples: list[dict[str, dict[int, Run]]]) -> dict[str, Any]:
    """What is reported; CPU in microseconds for each request."""
    made: dict[str, Any] = {"repetitions": len(samples)}
    for side, prefix in (("sidecar", ""), ("bare", "bare_")):
        ratios = sorted(
            runs[512].rate / max(run.rate for run in runs.values())
            for runs in (one[side] for one in samples)
        )
        name = f"{prefix}throughput_512_to_best"
        made[name] = round(statistics.median(ratios), 3)
        made[f"{name}_min"] = round(ratios[0], 3)
        made[f"{name}_max"] = round(ratios[-1], 3)
        for n in CONNECTIONS:
            runs_of = [one[side][n] for one in samples]
            made[f"{prefix}rate_{n}"] = round(statistics.median(run.rate for run in runs_of))
            if n in (128, 512):
                for part in ("server", "generator"):
                    took = statistics.median(getattr(run, part) for run in runs_of)
                    made[f"{prefix}{part}_cpu_us_{n}"] = round(took, 2)
    return made


if __name__ == "__main__":
    main()
