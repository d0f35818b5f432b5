"""Prometheus away in the middle of a step, once for each way of being away.

The API server, Prometheus and the operators are real; each operator asks Prometheus through a proxy
of its own that fails in its own way, and has two rollouts, one after the other. The canary of the
first is as good as stable: it must keep its weight for as long as Prometheus is away, resume where
it was and be promoted, and requests of the gap must not count for it. The canary of the second
begins to fail just before an outage: the last query that is answered shows it, and so it must be
rolled back although nothing more is heard.

An outage of 60 s at an interval of 1 s stands for one of 10 minutes at an interval of 10 s: as many
looks find nothing. Timeouts of the operator's queries are not scaled. `--seconds 600` takes the
10 minutes.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from operator_world import World, install, observed, until, weight
from prometheus_faults import Fault, FaultyPrometheus
from result import report

from tidegate_contract import names
from tidegate_tools.controlplane import ControlPlane

NAME = "outage"
SECONDS = 60.0
INTERVAL = 1.0
WAYS: tuple[Fault, ...] = (
    *("503", "refused", "empty", "NaN", "hanging", "HTML", "truncated", "stale", "frozen"),
)
STEPS = [{"percent": 25, "duration": "10s"}, {"percent": 50, "duration": "2s"}, {"percent": 100}]
GOOD, BAD = "steady", "broken"
ENOUGH_BAD = 15
PAUSE = 0.5
PATIENCE = 120.0


@dataclass(slots=True)
class Sample:
    """One way of being away. ``from_gap``: requests of the gap that counted for the good canary, at
    most; ``held``: reason and message meanwhile.
    """

    way: Fault
    queries: int = 0
    weight_changes: int = 0
    aborts: int = 0
    from_gap: float = 0.0
    gap: float = 0.0
    held: list[str] = field(default_factory=list)
    resumed: bool = False
    breach_rolled_back: bool = False
    history: list[str] = field(default_factory=list)


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that Prometheus is away")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        plane = stack.enter_context(ControlPlane(folder / "control-plane"))
        install(plane)
        prometheus, targets = stack.enter_context(observed(plane, folder))
        outages = []
        for number, way in enumerate(WAYS):
            proxy = stack.enter_context(FaultyPrometheus(prometheus.url))
            world = stack.enter_context(World(plane, prometheus, targets, f"outage-{number}"))
            outages.append(Outage(way, world, proxy))
        with ThreadPoolExecutor(len(outages)) as pool:
            samples = list(pool.map(lambda one: one.run(given.seconds), outages))
    figures = {
        "ways": len(samples),
        "seconds": given.seconds,
        "looks": round(given.seconds / INTERVAL),
        "weight_changes": sum(one.weight_changes for one in samples),
        "aborts": sum(one.aborts for one in samples),
        "pass_evidence_from_gap": round(sum(one.from_gap for one in samples)),
        "resumed": sum(one.resumed for one in samples),
        "breaches_rolled_back": sum(one.breach_rolled_back for one in samples),
    }
    report(NAME, figures, [asdict(one) for one in samples])


class Outage:
    """One operator, one way of being away."""

    def __init__(self, way: Fault, world: World, proxy: FaultyPrometheus) -> None:
        self._world, self._proxy = world, proxy
        self._sample = Sample(way)
        world.operator.prometheus = proxy.url
        world.operator.start()

    def run(self, seconds: float) -> Sample:
        """One rollout after the other: those that share pods take turns."""
        self._start(GOOD)
        before = self._served
        self._proxy.fault = self._sample.way
        self._say("is away")
        self._watch(time.monotonic() + seconds)
        self._sample.gap = self._served - before
        self._proxy.fault = None
        self._say("is back")
        self._resume()
        self._start(BAD)
        self._break()
        end = self._world.await_phase(BAD, "RolledBack", "Succeeded", patience=PATIENCE)
        self._sample.breach_rolled_back = end["phase"] == "RolledBack"
        self._proxy.fault = None
        return self._sample

    def _start(self, model: str) -> None:
        """A rollout whose first step has some evidence."""
        self._world.versions(model, 2)
        self._world.rollout(model, model, steps=STEPS)
        until(lambda: self._world.status(model).get("stepElapsed", 0) >= 1, "evidence", PATIENCE)

    def _break(self) -> None:
        """The canary breaks right after one look; Prometheus goes away once the next one saw it."""
        bad = f'{names.METRIC_CHECK_BAD}_total{{namespace="{self._world.namespace}",arm="canary"}}'

        def answered(query: str, asked: float) -> None:
            if names.METRIC_CHECK_BAD not in query:
                return
            self._world.model(BAD).errors[2] = 1.0
            if self._world.read(f"sum({bad})", at=asked) >= ENOUGH_BAD:
                self._proxy.answered = lambda _query, _asked: None
                self._proxy.fault = self._sample.way

        self._proxy.answered = answered
        until(lambda: self._proxy.fault is not None, "the breach", PATIENCE)

    def _watch(self, end: float) -> None:
        sample, asked = self._sample, len(self._proxy.queries)
        last = 25
        while time.monotonic() < end:
            now = weight(self._world.table(GOOD))
            sample.weight_changes += now != last
            last = now
            status = self._world.status(GOOD)
            sample.aborts += now == 0 and status["phase"] in {"RollingBack", "RolledBack", "Failed"}
            told = f"{status['phase']} {status['reason']}: {status['message']}"
            if told not in sample.held:
                sample.held.append(told)
            time.sleep(PAUSE)
        sample.queries = len(self._proxy.queries) - asked

    def _resume(self) -> None:
        """Until the end of the good one; while its step goes on, what counts for it is compared
        with the pods' own books.
        """
        sample, deadline = self._sample, time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status = self._world.status(GOOD)
            if status["phase"] in {"Succeeded", "RolledBack", "Failed"}:
                break
            if status["currentStep"] == 1:
                over = status["stepRequests"]["canary"] - (self._served - sample.gap)
                sample.from_gap = max(sample.from_gap, over)
            time.sleep(PAUSE / 5)
        entries = self._world.status(GOOD)["history"]
        sample.history = [f"{one['to']} {one['weight']}% {one['reason']}" for one in entries]
        weights = self._world.weights(GOOD)
        sample.resumed = status["phase"] == "Succeeded" and weights == [0, 25, 50, 100]
        self._say(f"ended: {sample.history[-1]}")

    @property
    def _served(self) -> float:
        return self._world.fleet.served(GOOD, names.ARM_CANARY)

    def _say(self, what: str) -> None:
        print(f"{self._sample.way}: {what}", file=sys.stderr)


if __name__ == "__main__":
    main()
