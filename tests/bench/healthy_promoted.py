"""Canaries that are just like stable: are they promoted, and on time?

The configuration is that of `canaries`; 20 requests a second over two pods, errors at 0, 0.1% and
1% in both arms. Each rollout is decided by the operator's own code, look by look, from samples of
counters as Prometheus would give them (a scrape every 15 s), from its first weight to the decision
to promote it or to roll it back. on_time: within 1.2 times the time that the plan takes.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from canaries import LOOKS, SPEC
from result import report

from tidegate_contract import names
from tidegate_contract.acknowledgement import Acknowledgement
from tidegate_contract.table import Arm, LoadedVersion, Owner, RoutingTable, Share
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint
from tidegate_operator.api.meta import convert
from tidegate_operator.api.quantity import seconds
from tidegate_operator.evidence.counters import Counts, Series
from tidegate_operator.rollout import canary, gate, steps
from tidegate_operator.rollout.look import compiled_metrics
from tidegate_operator.rollout.observation import Observation, Pod, Reading, StoredTable
from tidegate_operator.rollout.state import Promoting, RollingBack, Run, State, Stepping

NAME = "healthy_promoted"
RATES = (0.0, 0.001, 0.01)
REQUESTS_PER_SECOND = 20.0
PODS = ("triton-0", "triton-1")
SCRAPE = 15.0
COUNTS: tuple[Counts, ...] = ("requests", "bad")
LATEST = 1.2
START = 1_000_000.0

End = tuple[str, float]
"""What became of a rollout, and after how many seconds."""

_META = {"name": "rollout", "namespace": "default", "uid": "uid", "generation": 1}
ROLLOUT = convert({"metadata": _META, "spec": SPEC}, CanaryRollout)
INTERVAL = seconds(ROLLOUT.spec.analysis.interval)
NOMINAL = LOOKS * INTERVAL
PLAN = tuple(steps.resolve(ROLLOUT.spec))
WEIGHTS = {
    names.ARM_STABLE: 100 - PLAN[0].percent,
    names.ARM_CANARY: PLAN[0].percent,
}
TABLE = RoutingTable(
    namespace="default",
    model="digits",
    revision=1,
    split_revision=1,
    owner=Owner(kind="CanaryRollout", name="rollout", uid="uid"),
    split=[
        Arm(name=arm, version=version, weight=100 * WEIGHTS[arm])
        for version, arm in enumerate(WEIGHTS, start=1)
    ],
    versions=[LoadedVersion(version=version) for version in (1, 2)],
    baseline=[Share(version=1, weight=10_000)],
)
STORED = StoredTable(uid="table", resource_version="1", table=TABLE)
READY = tuple(
    Pod(name=name, uid=name, ready=True, ack=Acknowledgement(table_uid="table", revision=1))
    for name in PODS
)


def main() -> None:
    """Play all of them on all cores, print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    ends = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for rate in RATES:
            ends[rate] = list(processes.map(partial(played, rate), range(runs), chunksize=20))
            print(f"{rate:.1%} played", file=sys.stderr, flush=True)
    figures = {
        "on_time": {f"{rate:.1%}": _share(_on_time, found) for rate, found in ends.items()},
        "rolled_back": {f"{rate:.1%}": _share(_rolled_back, found) for rate, found in ends.items()},
        "nominal_minutes": NOMINAL / 60,
        "runs": runs,
    }
    report(NAME, figures, {str(rate): found for rate, found in ends.items()})


def played(rate: float, seed: int) -> End:
    """How a rollout ended, and after how many seconds."""
    random = np.random.default_rng([round(1e4 * rate), seed])
    run = Run(stable=1, plan=PLAN, evidence=Checkpoint(gating_since=START))
    state: State = gate.enter_step(run, 0, START)
    counters = Counters(random, rate)
    now, last_look = START, None
    while isinstance(state, Stepping) and now < START + 2 * LATEST * NOMINAL:
        seen = Observation(
            now=now,
            namespace="default",
            model="digits",
            stored=STORED,
            pods=READY,
            reading=Reading(now, counters.series()),
            last_look=last_look,
            scrape_interval=SCRAPE,
        )
        state = canary.advance(ROLLOUT, state, seen)
        now, last_look = now + INTERVAL, now
        counters.until(now)
    return type(state).__name__, now - INTERVAL - START


class Counters:
    """The counters of all pods with the samples that a look may need."""

    def __init__(self, random: np.random.Generator, rate: float) -> None:
        self._random, self._rate = random, rate
        (metric,) = compiled_metrics(ROLLOUT, None)
        (self._check,) = metric.checks
        self._values = np.zeros((len(PODS), len(WEIGHTS), 2))
        self._samples = [(START, self._values)]
        self._shares = np.array(list(WEIGHTS.values())) / 100 / len(PODS)

    def until(self, now: float) -> None:
        """Serve requests and scrape."""
        while self._samples[-1][0] < now:
            asked = self._random.multinomial(
                self._random.poisson(REQUESTS_PER_SECOND * SCRAPE),
                np.tile(self._shares, len(PODS)),
            ).reshape(len(PODS), len(WEIGHTS))
            served = np.stack([asked, self._random.binomial(asked, self._rate)], axis=-1)
            self._values = self._values + served
            self._samples.append((self._samples[-1][0] + SCRAPE, self._values))
        self._samples = self._samples[-8:]

    def series(self) -> tuple[Series, ...]:
        """As Prometheus gives them."""
        times = tuple(at for at, _ in self._samples)
        values = np.array([values for _, values in self._samples])
        return tuple(
            Series(pod, arm, self._check.id, counts, times, tuple(values[:, i, j, k].tolist()))
            for i, pod in enumerate(PODS)
            for j, arm in enumerate(WEIGHTS)
            for k, counts in enumerate(COUNTS)
        )


def _on_time(end: End) -> bool:
    return end[0] == Promoting.__name__ and end[1] <= LATEST * NOMINAL


def _rolled_back(end: End) -> bool:
    return end[0] == RollingBack.__name__


def _share(of: Callable[[End], bool], ends: list[End]) -> float:
    return round(sum(of(end) for end in ends) / len(ends), 4)


if __name__ == "__main__":
    main()
