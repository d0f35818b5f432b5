"""What measuring costs: throughput with the profiler, to that of a sidecar without it.

Two pods, of which one at a time is loaded, in turn within each repetition; both interpreted, as a
function of a compiled class cannot be cut out.
"""

import argparse
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import load
import pod
from result import report

from tidegate_contract import names
from tidegate_tools.addresses import Subnet

NAME = "profiler_overhead"
CONNECTIONS = 64
_CUT_OUT = """
from tidegate_sidecar.core.profile import Profile

Profile.answered = lambda *_, **__: None
"""


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    given = parser.parse_args()
    model = pod.Model(name="small", fixed=0.0, per_row=0.0)
    samples = []
    serving, loading = pod.cores()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        subnet = stack.enter_context(Subnet.claimed())
        pods = {}
        for number, (side, before) in enumerate((("with", ""), ("without", _CUT_OUT)), 1):
            (directory / side).mkdir()
            ip = subnet.ip(number)
            one = pod.running((model,), directory / side, ip, serving, before=before, code=None)
            pods[side] = stack.enter_context(one)
        os.sched_setaffinity(0, {loading})
        for repetition in range(given.repetitions):
            rates = {}
            for side in sorted(pods, reverse=repetition % 2 == 1):
                found = load.run(
                    pods[side].ip,
                    names.PORT_HTTP,
                    model.request(),
                    connections=CONNECTIONS,
                    seconds=given.seconds,
                )
                assert not found.failed
                rates[side] = found.rate
            samples.append(rates)
    ratios = sorted(one["with"] / one["without"] for one in samples)
    figures = {
        "throughput_ratio": round(statistics.median(ratios), 3),
        "throughput_ratio_min": round(ratios[0], 3),
        "throughput_ratio_max": round(ratios[-1], 3),
        "rate": round(statistics.median(one["with"] for one in samples)),
        "repetitions": len(samples),
    }
    report(NAME, figures, samples)


if __name__ == "__main__":
    main()
