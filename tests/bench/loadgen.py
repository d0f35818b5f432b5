"""The rate at which one core sends requests on time: an open loop against a server that echoes.

A ladder of rates; a rung holds where 99% of the requests go less than a millisecond late, as the
median of the repetitions has it. Sender and server have a core each; where there is but one, they
share it.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
import uvloop
from result import RESULTS, report

from tidegate_load import users, wire
from tidegate_load.schedule import Schedule, drawn
from tidegate_load.sender import Record, Sender
from tidegate_load.summary import summarise
from tidegate_tools.addresses import free_port
from tidegate_tools.processes import Supervisor

NAME = "loadgen"
RATES = (5_000, 10_000, 15_000, 20_000, 30_000, 40_000)
BURST = 20_000
"""Requests that are all due at once: what each costs when none is waited for."""
CONNECTIONS = 64
MARK_MS = 1.0
"""Of the 99th percentile of the arrival error."""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
HOST = "127.0.0.1"


class Echo(asyncio.Protocol):
    """Answers every request that comes whole, as small ones do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, _: bytes) -> None:
        self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def echo(port: int) -> None:
    """Serve until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(Echo, HOST, port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    """Climb, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if given.serve:
        os.sched_setaffinity(0, {cores[-1]})
        uvloop.run(echo(given.serve))
        return
    port = free_port()
    log = RESULTS / f"{NAME}.log"
    RESULTS.mkdir(exist_ok=True)
    with Supervisor() as supervisor:
        argv = (sys.executable, __file__, f"--serve={port}")
        server = supervisor.start("echo", argv, env=dict(os.environ), log=log)
        server.wait_until(lambda: listens(port), 60.0)
        os.sched_setaffinity(0, {cores[0]})
        samples = [climb(port, given.seconds, seed) for seed in range(given.repetitions)]
    log.unlink()
    report(NAME, figures(samples), samples)


def climb(port: int, seconds: float, seed: int) -> dict[str, Any]:
    """One repetition: every rung, and a burst."""
    draw = np.random.default_rng(seed)
    rungs = {
        str(rate): measure(port, drawn(users.DEFAULT, rate, seconds, None, draw)) for rate in RATES
    }
    whose = np.zeros(BURST, np.int64)
    return rungs | {"burst": measure(port, Schedule(np.zeros(BURST), whose, whose + 1, 0.0))}


def measure(port: int, schedule: Schedule) -> dict[str, Any]:
    """One run; times in ms."""
    everybody = users.DEFAULT
    body = json.dumps({"inputs": []}).encode()
    script = wire.script_of_body(f"{HOST}:{port}", "/v2/models/m/infer", everybody, schedule, body)
    sender = Sender((HOST, port), script, schedule, connections=CONNECTIONS)
    cpu = time.process_time()
    record = uvloop.run(send(sender))
    cpu = time.process_time() - cpu
    done = summarise(record, everybody, target="", model="m", pattern="normal", seed=0)
    assert done.arrival_error
    return {
        "late_p50": done.arrival_error.p50,
        "late_p99": done.arrival_error.p99,
        "late_max": done.arrival_error.max,
        "delayed": done.delayed,
        "ok_per_second": done.total.throughput,
        "failed": done.total.sent - done.total.ok,
        "cpu_us": cpu / done.total.sent * 1e6,
    }


async def send(sender: Sender) -> Record:
    """All of it."""
    await sender.connect()
    return await sender.run(drain=10.0)


def figures(samples: list[dict[str, Any]]) -> dict[str, float]:
    """The highest rung that holds, how late each rung was, and what a request costs the sender."""
    shown: dict[str, float] = {"open_loop_rps": 0}
    for rate in RATES:
        late = sorted(sample[str(rate)]["late_p99"] for sample in samples)
        if statistics.median(late) < MARK_MS:
            shown["open_loop_rps"] = rate
        shown[f"late_p99_ms_at_{rate}"] = round(statistics.median(late), 3)
        shown[f"late_p99_ms_at_{rate}_max"] = round(late[-1], 3)
    shown["failed"] = sum(rung["failed"] for sample in samples for rung in sample.values())
    cpu = sorted(sample["burst"]["cpu_us"] for sample in samples)
    shown["cpu_us_per_request"] = round(statistics.median(cpu), 1)
    return shown | {"repetitions": len(samples), "connections": CONNECTIONS}


def listens(port: int) -> bool:
    """Whether the server is up."""

    async def try_it() -> None:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.close()

    try:
        asyncio.run(try_it())
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
