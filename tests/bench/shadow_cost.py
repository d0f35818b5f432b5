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
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import load
import pod
from result import report

from tidegate_contract import names, table
from tidegate_contract.table import BatchSettings
from tidegate_tools.addresses import Subnet

NAME = "shadow_cost"
LOAD: Final = 0.6
CONNECTIONS: Final = 64
MODELS: Final = (
    pod.Model(name="by_rows", fixed=0.0, per_row=0.002, most=16, versions=(1, 2)),
    pod.Model(name="by_batch", fixed=0.004, per_row=0.0, most=16, versions=(1, 2)),
)


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--turns", type=int, default=8, help="of each repetition")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    given = parser.parse_args()
    serving, loading = pod.cores()
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        pod.running(MODELS, Path(directory), subnet.ip(1), serving) as served,
    ):
        os.sched_setaffinity(0, {loading})
        samples = {
            model.name: [
                measure(served, model, given.turns, given.seconds) for _ in range(given.repetitions)
            ]
            for model in MODELS
        }
    report(NAME, figures(samples), samples)


def measure(served: pod.Pod, model: pod.Model, turns: int, seconds: float) -> dict[str, Any]:
    """One repetition: the latencies with and without, at the same arrivals."""
    request = model.request()
    address = served.ip, names.PORT_HTTP
    served.apply(BatchSettings())
    load.run(*address, request, connections=CONNECTIONS, seconds=seconds / 2)
    top = load.run(*address, request, connections=CONNECTIONS, seconds=2 * seconds).rate
    both = {0: load.Sample(), table.WHOLE: load.Sample()}
    before = pairs(served)
    for turn in range(turns):
        for weight in sorted(both, reverse=turn % 2 == 1):
            served.apply(BatchSettings(), mirrored=weight)
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
        "pairs_per_s": (pairs(served) - before) / mirrored.seconds,
    }


def shown(sample: load.Sample) -> dict[str, float]:
    """What is kept of a sample."""
    return {
        "rate": sample.rate,
        "p50_ms": sample.quantile(0.5) * 1e3,
        "p99_ms": sample.quantile(0.99) * 1e3,
        "failed": sample.failed,
    }


def pairs(served: pod.Pod) -> float:
    """Pairs that were compared so far."""
    lines = served.asked("/metrics").decode().splitlines()
    mirrored = [line for line in lines if line.startswith("tidegate_mirror_total")]
    assert not any('outcome="failed"' in line for line in mirrored), mirrored
    agreed = [line for line in mirrored if 'outcome="agreed"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in agreed)


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


if __name__ == "__main__":
    main()
