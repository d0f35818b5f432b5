"""Tests as users write them, and what users make sidecars count of them, for unit tests."""

import bisect
import itertools
import zlib
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from simulation import SimulatedPod, Simulation

from tidegate_contract.acknowledgement import Acknowledgement, UserSample
from tidegate_contract.table import ErrorCheck
from tidegate_operator.api.abtest import ABTest, Checkpoint, Users
from tidegate_operator.api.meta import Metadata, convert, wire
from tidegate_operator.evidence import gathered, guardrails
from tidegate_operator.evidence.counters import Counts, Series
from tidegate_operator.evidence.experiment import Judgement, judge

NOW = 1_000_000.0
BUCKETS = 64
ACCURACY = {"name": "accuracy", "feedback": {"kind": "Binary", "minEffect": 0.01}}
ERRORS = {"name": "errors", "errorRate": {"maxRatioToControl": 1.5, "maxExcess": 0.001}}
LATENCY = {"name": "latency", "latency": {"quantile": 0.95, "maxRatioToControl": 1.2}}


def ab_test(**spec: Any) -> ABTest:
    """A test of version 2 against version 1, by user, for a minute."""
    whole = {
        "model": "digits",
        "controlVersion": 1,
        "treatmentVersion": 2,
        "duration": "10m",
        "assignment": {"header": "x-user-id"},
        "successMetrics": [ACCURACY],
        **spec,
    }
    meta = Metadata(name="test", namespace="default", uid="uid-test", resource_version="1")
    kept = {key: value for key, value in whole.items() if value is not None}
    return convert({"metadata": wire(meta), "spec": kept}, ABTest)


def packed(values: np.ndarray[Any, Any]) -> str:
    return b64encode(zlib.compress(values.astype("<f8").tobytes())).decode()


def hashes(numbers: np.ndarray[Any, Any]) -> str:
    return b64encode(np.sort(numbers.astype("<u8")).tobytes()).decode()


def sample(control: Any, treatment: Any, limit: int = 2**64, salt: str = "uid-test") -> UserSample:
    arms = {"control": hashes(np.array(control)), "treatment": hashes(np.array(treatment))}
    return UserSample(salt=salt, limit=limit, arms=arms)


class Crowd:
    """Users who are assigned and who rate what they get; each has habits of its own.

    ``share``: chance that an answer of control is right, for the average user; ``effect``: what the
    treatment adds. ``spread``: how far users differ from each other.
    """

    def __init__(
        self,
        users: int,
        seed: int,
        *,
        effect: float = 0.0,
        share: float = 0.8,
        spread: float = 0.1,
        treated: float = 0.5,
    ) -> None:
        random = np.random.default_rng(seed)
        self._random = random
        self.arm = (random.random(users) < treated).astype(int)
        self.bucket = random.integers(0, BUCKETS, users)
        self.mark = random.integers(0, 2**63, users).astype(np.uint64) * np.uint64(2)
        self.activity = random.lognormal(0.0, 1.0, users)
        habit = np.clip(share + spread * random.standard_normal(users), 0.01, 0.99)
        self.habit = np.clip(habit + effect * self.arm, 0.0, 1.0)
        self.outcomes = np.zeros((2, BUCKETS, 4))
        self.seen = np.zeros(users, dtype=bool)

    def act(self, requests: float) -> None:
        """So many requests are sent and all rated, by a random part of the users."""
        present = self._random.random(len(self.arm)) < 0.3
        rate = self.activity * present * requests / self.activity.sum() / 0.3
        counts = self._random.poisson(rate)
        right = self._random.binomial(counts, self.habit)
        self.seen |= counts > 0
        for arm in (0, 1):
            mine = self.arm == arm
            for column, values in ((0, counts), (1, right), (2, right)):
                self.outcomes[arm, :, column] += np.bincount(
                    self.bucket[mine], values[mine], BUCKETS
                )

    def judged(self, test: ABTest) -> Judgement:
        answers = np.zeros((2, BUCKETS, 2))
        answers[:, :, 0] = self.outcomes[:, :, 0]
        control, treatment = (self.mark[self.seen & (self.arm == arm)] for arm in (0, 1))
        users = gathered.united(Users(), [sample(control, treatment)], test.metadata.uid)
        evidence = Checkpoint(
            gating_since=NOW,
            started=NOW,
            live_since=NOW,
            outcomes={one.name: packed(self.outcomes) for one in test.spec.success_metrics},
            requests={guardrails.answered(test).id: packed(answers)},
            users=users,
        )
        return judge(test, evidence)


@dataclass
class CrowdSimulation(Simulation):
    """A simulated cluster whose users stick to an arm, and rate what they get.

    ``quality``: by version, the chance that an answer is right. ``lossy``: pods that lose the
    treatment's requests, and with them its users.
    """

    users: int = 4000
    quality: dict[int, float] = field(default_factory=lambda: {1: 0.8, 2: 0.8})
    lossy: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self._marks = random.integers(0, 2**63, self.users).astype(np.uint64) * np.uint64(2)
        self._share = random.random(self.users)
        self._bucket = random.integers(0, BUCKETS, self.users)
        self._counted: dict[str, dict[tuple[str, str, Counts, str], float]] = {}
        self._scraped: dict[tuple[str, str, str, Counts, str], list[tuple[float, float]]] = {}
        self._known: dict[tuple[str, str, str], set[int]] = {}
        super().__post_init__()

    def ab_test(self, **spec: Any) -> None:
        whole = {
            "model": "digits",
            "controlVersion": 1,
            "treatmentVersion": 2,
            "duration": "10m",
            "minSamples": 500,
            "assignment": {"header": "x-user-id"},
            "successMetrics": [{"name": "accuracy", "feedback": {"kind": "Binary"}}],
            **spec,
        }
        self.apply("ABTest", "test", **whole)

    @property
    def abtest(self) -> dict[str, Any]:
        return self.status("test", "ABTest")

    @property
    def splits(self) -> list[list[tuple[str, int, int]]]:
        """The different splits that were written, in their order."""
        found = [[(a.name, a.version, a.weight) for a in table.split] for table in self.tables]
        return [split for split, _ in itertools.groupby(found)]

    def rated(self) -> float:
        """Outcomes that the operator has counted."""
        states = self.operators[0]._memories.of(("default", "digits")).states
        evidence = next(iter(states.values())).run.evidence  # type: ignore[union-attr]
        return float(gathered.outcomes(evidence, "accuracy")[:, :, 0].sum())  # type: ignore[arg-type]

    def _serve_requests(self) -> None:
        ready = [pod for pod in self.by_name.values() if pod.table is not None and pod.ready]
        asking = self._random.integers(0, self.users, int(self.rate))
        for number, pod in enumerate(ready):
            mine = asking[asking % len(ready) == number]
            assert pod.table is not None
            low = 0.0
            for arm in pod.table.split:
                high = low + arm.weight / 10_000
                users = mine[(self._share[mine] >= low) & (self._share[mine] < high)]
                low = high
                if not (arm.name == "treatment" and pod.name in self.lossy):
                    self._serve(pod, arm.name, arm.version, users)

    def _serve(self, pod: SimulatedPod, arm: str, version: int, users: Any) -> None:
        assert pod.table is not None
        counted = self._counted.setdefault(pod.name, {})
        errors, slow = self.behaviour(version, self.now)
        for check in pod.table.checks:
            share = errors if isinstance(check, ErrorCheck) else slow
            bad = self._random.random(len(users)) < share
            self._count(counted, (arm, check.id, "requests"), users)
            self._count(counted, (arm, check.id, "bad"), users[bad])
        if pod.table.assignment is not None and arm in {"control", "treatment"}:
            known = self._known.setdefault((pod.name, pod.table.assignment.salt, arm), set())
            known |= set(self._marks[users].tolist())
        if pod.table.experiment is not None and arm in {"control", "treatment"}:
            right = users[self._random.random(len(users)) < self.quality[version]]
            for metric in pod.table.experiment.outcomes:
                self._count(counted, (arm, metric.name, "count"), users)
                self._count(counted, (arm, metric.name, "pos"), right)
                self._count(counted, (arm, metric.name, "squares"), right)

    def _count(
        self,
        counted: dict[tuple[str, str, Counts, str], float],
        key: tuple[str, str, Counts],
        users: Any,
    ) -> None:
        counted.setdefault((*key, "0"), 0.0)
        for bucket, amount in enumerate(np.bincount(self._bucket[users], minlength=BUCKETS)):
            if amount:
                series = (*key, str(bucket))
                counted[series] = counted.get(series, 0.0) + float(amount)

    def _scrape(self) -> None:
        for pod in self.by_name.values():
            if pod.scraped and pod.ready:
                for key, value in self._counted.get(pod.name, {}).items():
                    self._scraped.setdefault((pod.name, *key), []).append((self.now, value))

    def samples(self, span: float) -> tuple[Series, ...]:
        found = []
        for (pod, arm, name, counts, cell), samples in self._scraped.items():
            first = bisect.bisect_right(samples, (self.now - span, float("inf")))
            if samples[first:]:
                times, values = zip(*samples[first:], strict=True)
                found.append(Series(pod, arm, name, counts, times, values, cell))
        return tuple(found)

    def _acknowledgement(self, pod: SimulatedPod) -> Acknowledgement:
        told = super()._acknowledgement(pod)
        if pod.table is None or pod.table.assignment is None:
            return told
        salt = pod.table.assignment.salt
        seen = [
            np.array(sorted(self._known.get((pod.name, salt, arm), ())), dtype=np.uint64)
            for arm in ("control", "treatment")
        ]
        return msgspec.structs.replace(told, users=sample(*seen, salt=salt))


def crowded(**settings: Any) -> CrowdSimulation:
    """Version 1 has the traffic, version 2 is there; both known to the pods."""
    world = CrowdSimulation(**settings)
    world.version(1, lifecycle="Active", trafficPercent=100)
    world.version(2)
    return world.run(10)
