"""Three times what a model can do: how much of its capacity still becomes answers in time.

The capacity is the best closed-loop goodput, measured just before in the same repetition. Then
requests come at random at three times that rate, a tenth of them at the high level, each with a
deadline; an answer counts where it came within its deadline.
"""

import argparse
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import load
import pod
from result import report

from tidegate_contract import names
from tidegate_contract.table import BatchSettings
from tidegate_tools.addresses import Subnet

NAME = "overload"
MODEL = pod.Model(name="busy", fixed=0.01, per_row=0.004, most=16)
TIMES = 3.0
HIGH_SHARE = 0.1
TARGET = 0.3
"""Seconds: the high level's deadline, and its target."""
DEADLINE = 1.0
CONNECTIONS = (32, 64, 128)


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    given = parser.parse_args()
    serving, loading = pod.cores()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        subnet = stack.enter_context(Subnet.claimed())
        under_test = stack.enter_context(
            pod.running((MODEL,), directory, subnet.ip(1), core=serving)
        )
        os.sched_setaffinity(0, {loading})
        pool = stack.enter_context(ProcessPoolExecutor(2, mp_context=get_context("forkserver")))
        samples = [measure(under_test, pool, given.seconds) for _ in range(given.repetitions)]
    report(NAME, figures(samples), samples)


def measure(under_test: pod.Pod, pool: ProcessPoolExecutor, seconds: float) -> dict[str, Any]:
    """One repetition."""
    address = under_test.ip, names.PORT_HTTP
    under_test.apply(BatchSettings())
    capacity = max(
        load.run(*address, MODEL.request(), connections=many, seconds=seconds / 2).rate
        for many in CONNECTIONS
    )
    under_test.apply(BatchSettings(queue_max_size=1000, target_latency=DEADLINE))
    rate = TIMES * capacity
    runs = {}
    for level, share, deadline in ((1, HIGH_SHARE, TARGET), (3, 1 - HIGH_SHARE, DEADLINE)):
        request = MODEL.request(priority=level)
        line = f"{names.HEADER_DEADLINE}: {deadline * 1000:.0f}\r\n".encode()
        runs[level] = pool.submit(
            load.at_rate,
            *address,
            request.replace(b"Host: bench\r\n", b"Host: bench\r\n" + line),
            connections=600,
            rate=share * rate,
            seconds=seconds,
            seed=level,
        )
    high, low = runs[1].result(), runs[3].result()
    in_time = sum(one <= TARGET for one in high.latencies)
    in_time += sum(one <= DEADLINE for one in low.latencies)
    return {
        "capacity": capacity,
        "goodput": in_time / max(high.seconds, low.seconds),
        "high_p99": high.quantile(0.99),
        "high_answered": len(high.latencies),
        "high_refused": high.failed,
        "low_answered": len(low.latencies),
        "low_refused": low.failed,
    }


def figures(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repetitions, with the spread of the marks."""
    shown: dict[str, Any] = {}
    for name, values in (
        ("goodput_to_capacity", [one["goodput"] / one["capacity"] for one in samples]),
        ("high_p99_to_target", [one["high_p99"] / TARGET for one in samples]),
    ):
        shown[name] = round(statistics.median(values), 3)
        shown[f"{name}_min"], shown[f"{name}_max"] = round(min(values), 3), round(max(values), 3)
    for name in samples[0]:
        shown[name] = round(statistics.median(one[name] for one in samples), 3)
    return shown | {"repetitions": len(samples)}


if __name__ == "__main__":
    main()
