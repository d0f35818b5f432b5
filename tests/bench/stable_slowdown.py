"""What an equal canary costs stable's callers: stable's p95 beside one, to its p95 alone.

Loads are shares of the best closed-loop throughput, which is measured just before. With and without
a canary take turns within a repetition, so that what else the machine does meets both.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import load
import pod

from tidegate_contract import names
from tidegate_contract.table import WHOLE, Arm, BatchSettings
from tidegate_tools.addresses import Subnet

NAME = "stable_slowdown"
MODEL = pod.Model(name="pair", fixed=0.002, per_row=0.0005, most=16, versions=(1, 2))
LOADS = (0.3, 0.6, 0.9)
SHARES = (5, 20, 50)
CONNECTIONS = 128
RESULTS = Path("bench-results")


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    given = parser.parse_args()
    serving, loading = sorted(os.sched_getaffinity(0))[:2]
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        pod.running((MODEL,), Path(directory), subnet.ip(1), core=serving) as under_test,
    ):
        os.sched_setaffinity(0, {loading})
        samples = [measure(under_test, given.seconds) for _ in range(given.repetitions)]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    print("RESULT", json.dumps({"name": NAME, "figures": figures(samples)}))


def measure(under_test: pod.Pod, seconds: float) -> dict[str, float]:
    """One repetition: by load and share, how much longer stable's p95 is."""
    address = under_test.ip, names.PORT_HTTP
    under_test.apply(BatchSettings())
    top = load.run(*address, MODEL.request(), connections=CONNECTIONS, seconds=seconds).rate
    found: dict[str, float] = {}
    for share_of_top in LOADS:
        alone = stables_p95(under_test, 0, share_of_top * top, seconds)
        for percent in SHARES:
            beside = stables_p95(under_test, percent, share_of_top * top, seconds)
            found[f"load_{share_of_top}_share_{percent}"] = beside / alone
            alone = (alone + stables_p95(under_test, 0, share_of_top * top, seconds)) / 2
    return found


def stables_p95(under_test: pod.Pod, percent: int, rate: float, seconds: float) -> float:
    """Of the requests that version 1 answered, in seconds."""
    weight = percent * WHOLE // 100
    split = [Arm(name=names.ARM_STABLE, version=1, weight=WHOLE - weight)]
    if weight:
        split.append(Arm(name=names.ARM_CANARY, version=2, weight=weight))
    under_test.apply(BatchSettings(), split)
    found = load.at_rate(
        under_test.ip,
        names.PORT_HTTP,
        MODEL.request(),
        connections=CONNECTIONS,
        rate=rate,
        seconds=seconds,
        seed=1,
    )
    assert not found.failed
    pairs = zip(found.latencies, found.versions, strict=True)
    stable = sorted(latency for latency, version in pairs if version == b"1")
    return stable[int(0.95 * len(stable))]


def figures(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the repetitions, and the worst of them to load .6 and beyond."""
    shown = {name: round(statistics.median(one[name] for one in samples), 3) for name in samples[0]}
    to_six = max(value for name, value in shown.items() if "load_0.9" not in name)
    beyond = max(value for name, value in shown.items() if "load_0.9" in name)
    return {"worst_to_load_.6": to_six, "worst_at_load_.9": beyond} | shown


if __name__ == "__main__":
    main()
