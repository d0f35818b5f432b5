"""From a breach being visible in Prometheus to every pod applying the rollback.

The demo's world, all real: two Tritons with sidecars, Prometheus scraping every second, the
operator looking every second. Each run rolls out the demo's broken version and lets it be rolled
back. The breach is the time of the first scrape that proves it by the operator's own test
(`tidegate_demo.breach`); a pod applies the rollback when its `/routing`, asked without a pause,
says that revision.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from tidegate_contract import acknowledgement
from tidegate_demo.breach import breach
from tidegate_demo.train import MODEL
from tidegate_demo.view import Screen
from tidegate_demo.web import fetch
from tidegate_demo.world import World
from tidegate_tools.addresses import Subnet

NAME = "rollback"
RESULTS = Path(__file__).resolve().parents[2] / "bench-results"
INTERVAL_SECONDS = 1.0
BROKEN = 3
ALLOWED = {"errors": 0.05, "latency": 0.05}
PATIENCE_SECONDS = 120.0

VERSIONS = "\n---\n".join(
    f"""
apiVersion: tidegate.dev/v1alpha1
kind: ModelVersion
metadata: {{name: digits-{version}, namespace: demo}}
spec: {{model: {MODEL}, version: {version}, lifecycle: {lifecycle}}}
"""
    for version, lifecycle in ((1, "Active"), (BROKEN, "Testing"))
)
ROLLOUT = """
apiVersion: tidegate.dev/v1alpha1
kind: CanaryRollout
metadata: {name: NAME, namespace: demo}
spec:
  model: digits
  canaryVersion: 3
  initialPercent: 20
  stepDuration: 2m
  analysis:
    interval: 1s
    warmup: 0s
    metrics:
    - {name: errors, errorRate: {success: 0.01, rollback: 0.05}}
    - {name: latency, latency: {quantile: 0.95, success: 100ms, rollback: 300ms}}
"""


class Watch:
    """When each pod first applied each revision."""

    def __init__(self, sidecars: list[str]) -> None:
        self.applied: dict[str, dict[int, float]] = {url: {} for url in sidecars}
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(url,)) for url in sidecars]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def everywhere(self, revision: int) -> float:
        """When the last pod applied this revision, or one after it."""
        return max(
            min(at for one, at in pod.items() if one >= revision) for pod in self.applied.values()
        )

    def _look(self, url: str) -> None:
        while not self._ended.wait(0.005):
            with contextlib.suppress(OSError):  # it is not up yet
                report = acknowledgement.decode(fetch(f"{url}/routing").encode())
                revision = report.models[MODEL].revision
                self.applied[url].setdefault(revision, time.time())


def one_run(world: World, watch: Watch, name: str) -> dict[str, float]:
    """Roll out, be rolled back; seconds from the breach."""
    world.cluster.kubectl("apply", "-f", "-", stdin=ROLLOUT.replace("NAME", name))

    def ended() -> Any:
        status = world.cluster.rollout(name).get("status", {})
        return status if status.get("phase") in {"RolledBack", "Succeeded", "Failed"} else None

    world.cluster.wait_for("end of the rollout", ended, PATIENCE_SECONDS)
    status = ended()
    assert status["phase"] == "RolledBack", status["message"]
    proven = breach(world.prometheus.url, BROKEN, status, ALLOWED)
    assert proven is not None, "Prometheus shows no breach"
    applied = watch.everywhere(world.cluster.table().split_revision)
    world.cluster.kubectl("delete", "canaryrollout", name, "--namespace=demo")
    return {"breach_to_applied_s": applied - proven, "requests": status["stepRequests"]["canary"]}


def measure(runs: int) -> list[dict[str, float]]:
    samples = []
    screen = Screen(Console(file=sys.stderr, width=100, highlight=False))
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        Subnet.claimed() as subnet,
        World(Path(directory) / "w", screen, addresses=(subnet.ip(2), subnet.ip(3))) as world,
        Watch(world.sidecars()) as watch,
    ):
        world.cluster.kubectl("apply", "-f", "-", stdin=VERSIONS)
        world.cluster.wait_for("ready pod", lambda: len(world.cluster.ready_addresses()) > 1, 60)
        world.traffic.start()
        for run in range(runs):
            samples.append(one_run(world, watch, f"broken-{run}"))
            print(f"run {run + 1} of {runs}: {samples[-1]}", file=sys.stderr, flush=True)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    samples = measure(parser.parse_args().runs)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(samples, indent=1))
    delays = [one["breach_to_applied_s"] for one in samples]
    figures = {
        "p50_s": round(statistics.median(delays), 3),
        "min_s": round(min(delays), 3),
        "max_s": round(max(delays), 3),
        "interval_s": INTERVAL_SECONDS,
        "runs": len(samples),
    }
    print("RESULT", json.dumps({"name": NAME, "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
