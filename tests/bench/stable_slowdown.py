"""What an equal canary costs stable's callers: stable's p95 beside one, to its p95 alone.

Loads are shares of the best closed-loop throughput, which is measured just before. The device is
one core, which works off one batch after the other, of whichever version; all else runs on another.
Runs with and without a canary take turns, and each with one is compared with the two without that
stand around it, so that what else the machine does meets both.

Two versions cannot share a batch, so that each pays the fixed part of its own: how much that is
depends on what it is to a row's part. There are two models: one that gains by batching (the fixed
part is four rows') and one that does not gain much (half a row's).
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import load
import pod
from result import report

from tidegate_contract import names
from tidegate_contract.table import WHOLE, Arm, BatchSettings
from tidegate_tools.addresses import Subnet

NAME = "stable_slowdown"
GAINS = pod.Model(name="gains", fixed=0.002, per_row=0.0005, most=16, versions=(1, 2))
PLAIN = pod.Model(name="plain", fixed=0.001, per_row=0.002, most=16, versions=(1, 2))
LOADS = (0.3, 0.6, 0.9)
SHARES = (5, 20, 50)
CONNECTIONS = 128


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    given = parser.parse_args()
    device, others = sorted(os.sched_getaffinity(0))[:2]
    models = replace(GAINS, device=device), replace(PLAIN, device=device)
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        pod.running(models, Path(directory), subnet.ip(1), others) as under_test,
    ):
        os.sched_setaffinity(0, {others})
        samples = [
            {model.name: measure(under_test, model, given.seconds) for model in models}
            for _ in range(given.repetitions)
        ]
    report(NAME, figures(samples), samples)


def measure(under_test: pod.Pod, model: pod.Model, seconds: float) -> dict[str, float]:
    """One repetition: by load and share, how much longer stable's p95 is."""
    under_test.apply(BatchSettings())
    address = under_test.ip, names.PORT_HTTP
    top = load.run(*address, model.request(), connections=CONNECTIONS, seconds=seconds).rate
    found: dict[str, float] = {}
    for share_of_top in LOADS:
        runs = [
            stables_p95(under_test, model, percent, share_of_top * top, seconds)
            for percent in (0, *SHARES, 0)
        ]
        alone = (runs[0] + runs[-1]) / 2
        for percent, beside in zip(SHARES, runs[1:-1], strict=True):
            found[f"load_{share_of_top}_share_{percent}"] = beside / alone
    return found


def stables_p95(
    under_test: pod.Pod, model: pod.Model, percent: int, rate: float, seconds: float
) -> float:
    """Of the requests that version 1 answered, in seconds."""
    weight = percent * WHOLE // 100
    split = [Arm(name=names.ARM_STABLE, version=1, weight=WHOLE - weight)]
    if weight:
        split.append(Arm(name=names.ARM_CANARY, version=2, weight=weight))
    under_test.apply(BatchSettings(), split)
    found = load.at_rate(
        under_test.ip,
        names.PORT_HTTP,
        model.request(),
        connections=CONNECTIONS,
        rate=rate,
        seconds=seconds,
        seed=1,
    )
    if found.failed:
        raise RuntimeError(f"{found.failed} requests failed: the shares are not comparable")
    pairs = zip(found.latencies, found.versions, strict=True)
    stable = sorted(latency for latency, version in pairs if version == b"1")
    return stable[int(0.95 * len(stable))]


def figures(samples: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """By model, medians over the repetitions with the least and the most; and the worst medians."""
    shown: dict[str, Any] = {}
    for model in samples[0]:
        found = {
            name: spread(sample[model][name] for sample in samples) for name in samples[0][model]
        }
        beyond = {name for name in found if name.startswith(f"load_{LOADS[-1]}")}
        shown[f"{model}_worst_to_load_.6"] = max(found[name][0] for name in found.keys() - beyond)
        shown[f"{model}_worst_at_load_.9"] = max(found[name][0] for name in beyond)
        shown[model] = found
    return shown | {"repetitions": len(samples)}


def spread(values: Iterable[float]) -> list[float]:
    """The median, the least and the most."""
    ordered = sorted(values)
    return [round(one, 3) for one in (statistics.median(ordered), ordered[0], ordered[-1])]


if __name__ == "__main__":
    main()
