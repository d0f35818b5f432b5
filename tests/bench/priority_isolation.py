"""What slicing low priorities buys high ones, and what it costs: two models on one device.

One model answers 20 requests/s of one row at priority 1; the other has batches of 1,024 rows at
priority 5, one after the other without a pause. The device is one core, which works off one batch
after the other and interrupts none; all else runs on another core. Each slice size is a point: how
much longer the high level's p99 is than alone, and how much of its throughput alone the low level
keeps. Alone is straight to Triton, for all of them. Beside them stand the same two for Triton with
priorities of its own (its rate limiter, one execution at a time, the high model's first).

``to_optimum`` is the worst point's distance to the best that any slicing can do that never
interrupts what runs: the factor by which the worse of the two is off, for the slice size for which
that is least. That best is computed from the costs a + b n measured just before: with slices of k
rows, a high request waits for the rest of one slice (uniform) besides what it takes alone, and the
low level does k rows in a + b k seconds of the time that the high one leaves. Repetitions take the
ways in another order each; ratios are taken within a repetition.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import load
import pod
from result import report

from tidegate_contract import names
from tidegate_contract.table import LEVELS, BatchSettings
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import Supervisor

NAME = "priority_isolation"
HIGH = pod.Model(name="high", fixed=0.002, per_row=0.0005, most=8)
LOW = pod.Model(name="low", fixed=0.001, per_row=0.00004, most=1024)
ROWS = 1024
RATE = 20.0
LOW_CONNECTIONS = 2
SLICES_MS = (4, 8, 16, 48)
WAYS = ("alone", "triton", *(f"slice {one}" for one in SLICES_MS), "whole")
STRATA = 50
"""Parts into which a slice's time is cut where it is summed over."""
SIZES = 60
"""Slice sizes that a point is compared with, each a tenth smaller: to 2 rows."""


@dataclass(frozen=True)
class Costs:
    """Seconds of a batch of n rows, a + b n, as a client alone on its connection sees it."""

    fixed: float
    per_row: float

    def seconds(self, rows: float) -> float:
        """What a batch of so many rows takes."""
        return self.fixed + self.per_row * rows


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run")
    given = parser.parse_args()
    device, others = sorted(os.sched_getaffinity(0))[:2]
    models = replace(HIGH, device=device), replace(LOW, device=device)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        subnet = stack.enter_context(Subnet.claimed())
        ours = directory / "ours"
        ours.mkdir()
        under_test = stack.enter_context(pod.running(models, ours, subnet.ip(1), others))
        theirs = start_theirs(
            stack.enter_context(Supervisor()), directory, subnet.ip(2), others, models=models
        )
        os.sched_setaffinity(0, {others})
        context = get_context("forkserver")
        pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=context))
        samples = [
            measure(under_test, theirs, pool, given.seconds, i) for i in range(given.repetitions)
        ]
    report(NAME, figures(samples), samples)


def start_theirs(
    supervisor: Supervisor,
    directory: Path,
    ip: str,
    core: int | None,
    *,
    models: tuple[pod.Model, pod.Model],
    environment: Mapping[str, str] = MappingProxyType({}),
    patience: float = pod.START_TIMEOUT,
) -> str:
    """Start a Triton that prefers the first model by its own means; its address."""
    theirs = directory / "theirs"
    for i, model in enumerate(models):
        limiter = f'resources [{{ name: "device" count: 1 }}] priority: {i + 1}'
        replace(
            model,
            limiter=f"rate_limiter {{ {limiter} }}",
            extra=f"{model.extra}\ndynamic_batching {{ }}",
        ).lay_out(theirs / "models")
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, here if core is None else {core})
    flags = ("--rate-limit=execution_count",)
    pod.start_triton(supervisor, theirs / "models", theirs, ip, *flags, environment=environment)
    os.sched_setaffinity(0, here)
    for model in models:
        address = f"http://{ip}:{triton.HTTP_PORT}/v2/repository/models/{model.name}"
        pod.post(f"{address}/load", patience)
    return ip


def measure(
    under_test: pod.Pod, theirs: str, pool: ProcessPoolExecutor, seconds: float, repetition: int
) -> Any:
    """One repetition: what batches cost, then every way of sharing."""
    found: dict[str, Any] = {
        "costs": {
            model.name: [
                load.run(
                    under_test.ip, triton.HTTP_PORT, model.request(n), connections=1, seconds=1.0
                ).quantile(0.5)
                for n in (1, model.most)
            ]
            for model in (HIGH, LOW)
        }
    }
    first = repetition % len(WAYS)
    for way in (*WAYS[first:], *WAYS[:first]):
        if way == "alone":
            plain = under_test.ip, triton.HTTP_PORT
            alone = high(pool, *plain, seconds).result()
            found[way] = shown(alone, low(pool, *plain, seconds / 3).result())
            found["alone"]["high_latencies"] = alone.latencies
        elif way == "triton":
            found[way] = both(pool, theirs, triton.HTTP_PORT, seconds)
        else:
            last = LEVELS[-1] if way == "whole" else sliced(slice_seconds(way))
            under_test.apply(BatchSettings(levels=(*LEVELS[:-1], last), deadline=None))
            found[way] = both(pool, under_test.ip, names.PORT_HTTP, seconds)
    return found


def slice_seconds(way: str) -> float:
    """How long its slices are to take."""
    return int(way.split()[1]) / 1000


def sliced(seconds: float) -> Any:
    """The lowest level, in slices of so many seconds."""
    last = LEVELS[-1]
    return type(last)(
        level=last.level,
        name=last.name,
        wait_multiplier=last.wait_multiplier,
        max_slice=seconds,
    )


def both(pool: ProcessPoolExecutor, ip: str, port: int, seconds: float) -> dict[str, float]:
    """Both loads at the same time."""
    beside, first = low(pool, ip, port, seconds), high(pool, ip, port, seconds)
    return shown(first.result(), beside.result())


def high(pool: ProcessPoolExecutor, ip: str, port: int, seconds: float) -> Any:
    """The high level's requests, at random."""
    return pool.submit(
        load.at_rate,
        ip,
        port,
        HIGH.request(priority=1),
        connections=32,
        rate=RATE,
        seconds=seconds,
        seed=1,
    )


def low(pool: ProcessPoolExecutor, ip: str, port: int, seconds: float) -> Any:
    """The low level's, without a pause: one is always waiting while one is worked on."""
    request = LOW.request(ROWS, priority=5)
    return pool.submit(load.run, ip, port, request, connections=LOW_CONNECTIONS, seconds=seconds)


def shown(first: load.Sample, beside: load.Sample) -> dict[str, float]:
    """What is kept of two samples. The low level's throughput is its two connections', by what each
    answer took: in so short a time the number of answers alone is a percent too coarse.
    """
    each = statistics.fmean(beside.latencies)
    return {
        "high_p50_ms": first.quantile(0.5) * 1e3,
        "high_p99_ms": first.quantile(0.99) * 1e3,
        "low_rows_per_s": LOW_CONNECTIONS * ROWS / each,
        "failed": first.failed + beside.failed,
    }


def figures(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repetitions, the least and the most: a point for each way, and distances."""
    shown: dict[str, Any] = {}
    for way in WAYS[1:]:
        name = way.replace(" ", "_")
        points = [point(sample, way) for sample in samples]
        shown[f"{name}_high_p99_to_alone"] = spread(one[0] for one in points)
        shown[f"{name}_low_throughput_kept"] = spread(one[1] for one in points)
        if way.startswith("slice"):
            shown[f"{name}_to_optimum"] = spread(distance(sample, way) for sample in samples)
    sizes = [f"slice_{one}" for one in SLICES_MS]
    shown["to_optimum"] = max(shown[f"{name}_to_optimum"][0] for name in sizes)
    shown["better_than_triton_on_both"] = [
        name
        for name in (*sizes, "whole")
        if shown[f"{name}_high_p99_to_alone"][0] < shown["triton_high_p99_to_alone"][0]
        and shown[f"{name}_low_throughput_kept"][0] > shown["triton_low_throughput_kept"][0]
    ]
    shown["high_alone_p99_ms"] = spread(one["alone"]["high_p99_ms"] for one in samples)
    shown["failed"] = sum(one[way]["failed"] for one in samples for way in WAYS)
    return shown | {"repetitions": len(samples)}


def point(sample: dict[str, Any], way: str) -> tuple[float, float]:
    """How much longer the high level's p99 is, and how much the low level keeps."""
    of, alone = sample[way], sample["alone"]
    return (
        of["high_p99_ms"] / alone["high_p99_ms"],
        of["low_rows_per_s"] / alone["low_rows_per_s"],
    )


def distance(sample: dict[str, Any], way: str) -> float:
    """By what factor the worse of the two is off the optimum of the slice size that is nearest."""
    one, most = sample["costs"]["low"]
    per_row = (most - one) / (ROWS - 1)
    costs = Costs(one - per_row, per_row)
    alone = sample["alone"]
    left = 1 - RATE * sample["costs"]["high"][0]
    p99, kept = point(sample, way)

    def off(rows: int) -> float:
        best_p99 = behind_a_slice(alone["high_latencies"], costs.seconds(rows)) * 1e3
        best_kept = left * (rows / costs.seconds(rows)) / (ROWS / costs.seconds(ROWS))
        return max(p99 * alone["high_p99_ms"] / best_p99, best_kept / kept)

    return min(off(round(ROWS * 0.9**i)) for i in range(SIZES))


def behind_a_slice(alone: list[float], seconds: float) -> float:
    """The p99 of the sum of a latency alone and the rest of a slice that takes so long."""
    rest = [seconds * (i + 0.5) / STRATA for i in range(STRATA)]
    return load.Sample(latencies=[one + wait for one in alone for wait in rest]).quantile(0.99)


def spread(values: Any) -> list[float]:
    """The median, the least and the most."""
    ordered = sorted(values)
    return [round(one, 3) for one in (statistics.median(ordered), ordered[0], ordered[-1])]


if __name__ == "__main__":
    main()
