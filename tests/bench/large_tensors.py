"""What the sidecar makes of large requests: throughput at 600 KB a request, to Triton direct.

Both sides are loaded in turn within each repetition, with the same connections.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import load
import pod
from result import report

from tidegate_contract import names
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet

NAME = "large_tensors"
ROW = 150_000
CONNECTIONS = 8


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    given = parser.parse_args()
    model = pod.Model(name="large", fixed=0.0, per_row=0.0, most=8, row=ROW)
    ports = {"direct": triton.HTTP_PORT, "sidecar": names.PORT_HTTP}
    samples = []
    serving, loading = pod.cores()
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        pod.running((model,), Path(directory), subnet.ip(1), serving) as under_test,
    ):
        os.sched_setaffinity(0, {loading})
        for _ in range(given.repetitions):
            rates = {}
            for side, port in ports.items():
                found = load.run(
                    under_test.ip,
                    port,
                    model.request(),
                    connections=CONNECTIONS,
                    seconds=given.seconds,
                )
                assert not found.failed, side
                rates[side] = found.rate
            samples.append(rates)
    ratios = sorted(one["sidecar"] / one["direct"] for one in samples)
    figures = {
        "throughput_ratio": round(statistics.median(ratios), 3),
        "throughput_ratio_min": round(ratios[0], 3),
        "throughput_ratio_max": round(ratios[-1], 3),
        "kilobytes": 4 * ROW // 1000,
        "direct_rate": round(statistics.median(one["direct"] for one in samples)),
        "repetitions": len(samples),
    }
    report(NAME, figures, samples)


if __name__ == "__main__":
    main()
