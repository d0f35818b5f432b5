"""Whether many clients cost throughput: that of 512 connections to the best of fewer ones."""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import load
import pod

from tidegate_contract import names
from tidegate_tools.addresses import Subnet

NAME = "many_connections"
CONNECTIONS = (16, 64, 128, 256, 512)
RESULTS = Path("bench-results")


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    given = parser.parse_args()
    model = pod.Model(name="small", fixed=0.0, per_row=0.0)
    samples = []
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        pod.running((model,), Path(directory), subnet.ip(1)) as under_test,
    ):
        address = under_test.ip, names.PORT_HTTP
        for _ in range(given.repetitions):
            rates = {}
            for connections in CONNECTIONS:
                found = load.run(
                    *address, model.request(), connections=connections, seconds=given.seconds
                )
                assert not found.failed, connections
                rates[connections] = found.rate
            samples.append(rates)
    ratios = sorted(one[512] / max(one.values()) for one in samples)
    figures = {
        "throughput_512_to_best": round(statistics.median(ratios), 3),
        "throughput_512_to_best_min": round(ratios[0], 3),
        "throughput_512_to_best_max": round(ratios[-1], 3),
        "repetitions": len(samples),
    } | {
        f"rate_{connections}": round(statistics.median(one[connections] for one in samples))
        for connections in CONNECTIONS
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    print("RESULT", json.dumps({"name": NAME, "figures": figures}))


if __name__ == "__main__":
    main()
