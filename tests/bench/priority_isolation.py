"""What slicing low priorities buys high ones, and what it costs: two models on one core.

One model answers 20 requests/s of one row at priority 1; the other has batches of 1,024 rows at
priority 5, one after the other without a pause. Each slice size is a point: how much longer the
high level's p99 is than alone, and how much of its throughput alone the low level keeps. Beside
them stand the same two for Triton with priorities of its own (its rate limiter, one execution at a
time, the high model's first), and the best that any slicing can do that never interrupts what runs.

That optimum is computed from the costs a + b n measured on the same core: with slices of k rows, a
high request waits for the rest of one slice (uniform, so its p99 is .99 of it), and the low level
does k rows in a + b k seconds of the time that the high one leaves.
"""

import argparse
import json
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
SLICES_MS = (2, 4, 8, 16)
RESULTS = Path("bench-results")


@dataclass(frozen=True)
class Costs:
    """Seconds of a batch of n rows, a + b n, as a client alone on its connection sees it."""

    fixed: float
    per_row: float

    def seconds(self, rows: float) -> float:
        """What a batch of so many rows takes."""
        return self.fixed + self.per_row * rows

    def rows(self, seconds: float) -> int:
        """How many rows fit into so many seconds."""
        return min(ROWS, max(1, int((seconds - self.fixed) / self.per_row)))


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run")
    given = parser.parse_args()
    serving, loading = sorted(os.sched_getaffinity(0))[:2]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        subnet = stack.enter_context(Subnet.claimed())
        ours = directory / "ours"
        ours.mkdir()
        under_test = stack.enter_context(pod.running((HIGH, LOW), ours, subnet.ip(1), serving))
        theirs = start_theirs(stack.enter_context(Supervisor()), directory, subnet.ip(2), serving)
        os.sched_setaffinity(0, {loading})
        context = get_context("forkserver")
        pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=context))
        samples = [
            measure(under_test, theirs, pool, given.seconds) for _ in range(given.repetitions)
        ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    print("RESULT", json.dumps({"name": NAME, "figures": figures(samples)}))


def start_theirs(
    supervisor: Supervisor,
    directory: Path,
    ip: str,
    core: int | None,
    *,
    models: tuple[pod.Model, pod.Model] = (HIGH, LOW),
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


def measure(under_test: pod.Pod, theirs: str, pool: ProcessPoolExecutor, seconds: float) -> Any:
    """One repetition: each alone, then both, by every way of sharing."""
    found: dict[str, Any] = {
        "costs": {
            model.name: [
                load.run(
                    under_test.ip, triton.HTTP_PORT, model.request(n), connections=1, seconds=2.0
                ).quantile(0.5)
                for n in (1, model.most)
            ]
            for model in (HIGH, LOW)
        }
    }
    for side, ip, port in (
        ("ours", under_test.ip, names.PORT_HTTP),
        ("triton", theirs, triton.HTTP_PORT),
    ):
        alone = high(pool, ip, port, seconds).result()
        low_alone = low(pool, ip, port, seconds).result()
        found[f"{side} alone"] = shown(alone, low_alone)
    found["triton"] = both(pool, theirs, triton.HTTP_PORT, seconds)
    for slice_ms in SLICES_MS:
        levels = [*LEVELS[:-1], sliced(slice_ms / 1000)]
        under_test.apply(BatchSettings(levels=tuple(levels), deadline=None))
        found[f"slice {slice_ms}"] = both(pool, under_test.ip, names.PORT_HTTP, seconds)
    under_test.apply(BatchSettings(deadline=None))
    found["whole"] = both(pool, under_test.ip, names.PORT_HTTP, seconds)
    return found


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
    return pool.submit(load.run, ip, port, request, connections=2, seconds=seconds)


def shown(first: load.Sample, beside: load.Sample) -> dict[str, float]:
    """What is kept of two samples."""
    return {
        "high_p50_ms": first.quantile(0.5) * 1e3,
        "high_p99_ms": first.quantile(0.99) * 1e3,
        "low_rows_per_s": beside.rate * ROWS,
        "failed": first.failed + beside.failed,
    }


def figures(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repetitions: a point for each way, and its distance to the optimum."""
    shown: dict[str, Any] = {}
    distances = []
    for way in ("whole", "triton", *(f"slice {one}" for one in SLICES_MS)):
        points = [point(sample, way) for sample in samples]
        name = way.replace(" ", "_")
        shown[f"{name}_high_p99_to_alone"] = middle(one[0] for one in points)
        shown[f"{name}_low_throughput_kept"] = middle(one[1] for one in points)
        if way.startswith("slice"):
            apart = [
                distance(sample, one, way) for sample, one in zip(samples, points, strict=True)
            ]
            shown[f"{name}_to_optimum"] = middle(apart)
            distances.append(statistics.median(apart))
    shown["to_optimum"] = round(min(distances), 3)
    shown["high_alone_p99_ms"] = middle(one["ours alone"]["high_p99_ms"] for one in samples)
    shown["failed"] = sum(
        of["failed"] for one in samples for way, of in one.items() if way != "costs"
    )
    return shown | {"repetitions": len(samples)}


def point(sample: dict[str, Any], way: str) -> tuple[float, float]:
    """How much longer the high level's p99 is, and how much the low level keeps."""
    alone = sample["triton alone" if way == "triton" else "ours alone"]
    return (
        sample[way]["high_p99_ms"] / alone["high_p99_ms"],
        sample[way]["low_rows_per_s"] / alone["low_rows_per_s"],
    )


def distance(sample: dict[str, Any], found: tuple[float, float], way: str) -> float:
    """By what factor the worse of the two is off the optimum of that slice size."""
    one, most = sample["costs"]["low"]
    per_row = (most - one) / (ROWS - 1)
    costs = Costs(one - per_row, per_row)
    rows = costs.rows(int(way.split()[1]) / 1000)
    alone = sample["ours alone"]["high_p99_ms"] / 1e3
    best_p99 = (alone + 0.99 * costs.seconds(rows)) / alone
    left = 1 - RATE * sample["costs"]["high"][0]
    best_kept = left * (rows / costs.seconds(rows)) / (ROWS / costs.seconds(ROWS))
    return max(found[0] / best_p99, best_kept / found[1])


def middle(values: Any) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
