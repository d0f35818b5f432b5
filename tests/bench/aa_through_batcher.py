"""Two identical versions through the sidecar's own core: does one look worse than the other?

Everything between a request's arrival and its count is the sidecar's (routing, queues, batches,
checks); time is virtual. Requests come at random to one pod. Its device works off one batch after
the other, in ``FIXED + ROW * rows`` seconds each, as both versions were measured to do; one batch
of each version at a time is sent to it, of at most 32 rows. A load of 1 is what the device can do
with that share of canary, batches of both versions taking turns.

Both are judged as a rollout would, at every poll: by errors (one request in a hundred, whatever its
version), and by lateness, the canary's bound being ``RATIO`` times stable's own 95% quantile before
the rollout. ``false_rollbacks``: the share of runs in which either showed harm; at most the level.
``canary_to_stable_p95``: smallest and largest over all shares and loads.
"""

import heapq
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from result import report

from tidegate_contract import names
from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import (
    WHOLE,
    Arm,
    Check,
    ErrorCheck,
    LoadedVersion,
    RoutingTable,
    Share,
    SlowCheck,
)
from tidegate_operator.evidence.ratio import RatioEvidence, Stratum, harm, observe
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.version import VersionInfo

NAME: Final = "aa_through_batcher"
SHARES: Final = (0.05, 0.1, 0.2, 0.35, 0.5)
LOADS: Final = (0.3, 0.45, 0.6, 0.75, 0.9)
RUNS: Final = 16
REQUESTS: Final = 20_000
POLLS: Final = 40
LEVEL: Final = 0.01
ERRORS: Final = 0.01
RATIO: Final = 1.5
QUANTILE: Final = 0.95
FIXED: Final = 0.004
ROW: Final = 0.0002
MOST: Final = 32
VERSIONS: Final = {names.ARM_STABLE: 1, names.ARM_CANARY: 2}

_DATA: Final = bytes(8)
_HEADER: Final = json.dumps(
    {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": len(_DATA)},
            }
        ]
    }
).encode()
_FAILED: Final = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "by chance")


@dataclass
class Run:
    """What one run showed. Latencies in seconds."""

    latencies: dict[int, list[float]] = field(default_factory=lambda: {1: [], 2: []})
    rolled_back: list[str] = field(default_factory=list)


class Pod:
    """One pod in virtual time, until ``REQUESTS`` were answered."""

    def __init__(self, table: RoutingTable, rate: float, seed: int) -> None:
        self.runtime = ModelRuntime("m", f"pod-{seed}")
        self.runtime.apply(table)
        for row in table.versions:
            self.runtime.version_ready(_version(row.version))
        self.latencies: dict[int, list[float]] = {1: [], 2: []}
        self._rate = rate
        self._random = random.Random(seed)
        self._free_at = 0.0
        self._sent: list[tuple[float, int, Batch]] = []
        self._batches = 0

    def run(self) -> Iterator[None]:
        """Runs to the end; yields at each poll."""
        interval = REQUESTS / self._rate / POLLS
        now, arrives, polls, left = 0.0, 0.0, interval, REQUESTS
        while left or self._sent:
            ends = self._sent[0][0] if self._sent else float("inf")
            wakes = self.runtime.next_wake() or float("inf")
            now = min(arrives if left else float("inf"), ends, max(wakes, now))
            if now >= polls:
                self.runtime.look(polls)
                polls += interval
                yield
            if now == ends:
                self._finish(now)
            elif now == arrives and left:
                self._submit(now)
                left -= 1
                arrives = now + self._random.expovariate(self._rate)
            for batch in self.runtime.poll(now):
                self._send(batch, now)
        yield

    def _submit(self, now: float) -> None:
        self.runtime.submit(
            None,
            _HEADER + _DATA,
            json_length=len(_HEADER),
            version=None,
            headers={},
            now=now,
        )

    def _send(self, batch: Batch, now: float) -> None:
        self._free_at = max(self._free_at, now) + FIXED + ROW * batch.rows
        self._batches += 1
        heapq.heappush(self._sent, (self._free_at, self._batches, batch))

    def _finish(self, now: float) -> None:
        _, _, batch = heapq.heappop(self._sent)
        header, body = _reply(batch.rows)
        results = self.runtime.complete(batch, HTTPStatus.OK, len(header), header + body)
        results = [_FAILED if self._random.random() < ERRORS else one for one in results]
        for pending in batch.members:
            self.latencies[batch.version].append(now - pending.arrived)
        self.runtime.finish(batch, results, now)


class Judge:
    """Judges one run by the operator's formula, check by check."""

    def __init__(self, runtime: ModelRuntime, checks: list[Check]) -> None:
        self._runtime = runtime
        self._evidence = {check.id: RatioEvidence() for check in checks}
        self._before: dict[tuple[str, str, tuple[str, str]], tuple[int, int]] = {}

    def look(self) -> None:
        """Take in what was counted since the last look."""
        new: dict[str, dict[tuple[str, str], dict[str, tuple[int, int]]]] = {}
        for (check, arm, _, stratum), count in self._runtime.counters.checks.items():
            before = self._before.get((check, arm, stratum), (0, 0))
            self._before[check, arm, stratum] = count.requests, count.bad
            counted = count.requests - before[0], count.bad - before[1]
            new.setdefault(check, {}).setdefault(stratum, {})[arm] = counted
        for check, strata in new.items():
            rows = [
                Stratum(*arms[names.ARM_CANARY], *arms[names.ARM_STABLE])
                for arms in strata.values()
                if len(arms) == len(VERSIONS)
            ]
            self._evidence[check] = observe(
                self._evidence[check], rows, max_ratio=1.0, planned_looks=POLLS
            )

    def harmful(self) -> list[str]:
        """The checks that show harm, the level being shared among them."""
        bound = len(self._evidence) / LEVEL
        return [check for check, evidence in self._evidence.items() if harm(evidence) >= bound]


def capacity(share: float) -> float:
    """Requests each second: one full batch of stable's, then what of the canary's came with it."""
    canary = MOST * share / (1 - share)
    return (MOST + canary) / (2 * FIXED + (MOST + canary) * ROW)


def run(share: float, load: float, seed: int) -> Run:
    """One rollout's step with a canary that is stable in all but name."""
    rate = load * capacity(share)
    bound = stable_quantile(rate)
    checks: list[Check] = [
        ErrorCheck(id="errors", arms=list(VERSIONS)),
        SlowCheck(
            id="latency",
            bounds={names.ARM_STABLE: bound, names.ARM_CANARY: RATIO * bound},
        ),
    ]
    pod = Pod(a_table(share, checks), rate, seed)
    judge = Judge(pod.runtime, checks)
    shown: list[str] = []
    for _ in pod.run():
        judge.look()
        shown = shown or judge.harmful()
    return Run(pod.latencies, shown)


@cache
def stable_quantile(rate: float) -> float:
    """Stable's own latency before the rollout, as much being asked of it."""
    pod = Pod(a_table(0.0, []), rate, seed=0)
    for _ in pod.run():
        pass
    return quantile(pod.latencies[1])


def quantile(values: list[float]) -> float:
    """The value that a share ``QUANTILE`` of them does not exceed."""
    return sorted(values)[int(QUANTILE * len(values))]


def a_table(share: float, checks: list[Check]) -> RoutingTable:
    """A canary with a share of the traffic; no canary where that is 0."""
    canary = round(share * WHOLE)
    weights = {names.ARM_STABLE: WHOLE - canary} | ({names.ARM_CANARY: canary} if canary else {})
    return RoutingTable(
        namespace="default",
        model="m",
        revision=1,
        split_revision=1,
        split=[Arm(name=arm, version=VERSIONS[arm], weight=w) for arm, w in weights.items()],
        versions=[LoadedVersion(version=VERSIONS[arm]) for arm in weights],
        checks=checks,
        baseline=[Share(version=1, weight=WHOLE)],
    )


def _version(version: int) -> VersionInfo:
    return VersionInfo(
        version=version,
        max_batch_size=MOST,
        batchable=True,
        instances=1,
        inputs=(Tensor(name="x", datatype="FP32", shape=[2]),),
        outputs=(Tensor(name="y", datatype="FP32", shape=[2]),),
    )


@cache
def _reply(rows: int) -> tuple[bytes, bytes]:
    """Triton's answer to a batch."""
    output = {
        "name": "y",
        "datatype": "FP32",
        "shape": [rows, 2],
        "parameters": {"binary_data_size": 8 * rows},
    }
    return json.dumps({"outputs": [output]}).encode(), bytes(8 * rows)


def main() -> None:
    """Run all shares and loads; prints the figures and keeps each run's."""
    samples: list[dict[str, Any]] = []
    for share in SHARES:
        for load in LOADS:
            runs = [run(share, load, seed) for seed in range(1, RUNS + 1)]
            stable, canary = (
                quantile([one for each in runs for one in each.latencies[version]])
                for version in VERSIONS.values()
            )
            samples.append(
                {
                    "share": share,
                    "load": load,
                    "stable_p95_ms": stable * 1e3,
                    "canary_p95_ms": canary * 1e3,
                    "rolled_back": [each.rolled_back for each in runs if each.rolled_back],
                }
            )
            print(json.dumps(samples[-1]), flush=True)
    ratios = [one["canary_p95_ms"] / one["stable_p95_ms"] for one in samples]
    rolled_back = sum(len(one["rolled_back"]) for one in samples)
    figures = {
        "false_rollbacks": rolled_back / (RUNS * len(samples)),
        "canary_to_stable_p95": [round(min(ratios), 3), round(max(ratios), 3)],
        "level": LEVEL,
        "runs": RUNS * len(samples),
    }
    report(NAME, figures, samples)


if __name__ == "__main__":
    main()
