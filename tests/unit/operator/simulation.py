"""A cluster, its pods and its Prometheus as plain data, so that rollouts of hours run in no time.

The operator's pure part decides; this applies what was decided as the API server would (versions
of objects grow, statuses are merged) and lets the pods follow. A kill is a loss of memory, at any
gap between two writes.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tidegate_contract.acknowledgement import Acknowledgement, Tensor, VersionState
from tidegate_contract.table import RoutingTable
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import convert
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.evidence.counters import Series
from tidegate_operator.rollout.model import Event, Plan, decide
from tidegate_operator.rollout.observation import (
    Observation,
    Pod,
    Reading,
    StoredTable,
    Unreadable,
)
from tidegate_operator.rollout.state import State, Stepping, decode

Behaviour = Callable[[int, float], tuple[float, float]]
"""(version, time) to (share of errors, share slower than every bound)."""


def healthy(_version: int, _now: float) -> tuple[float, float]:
    return 0.0, 0.0


class KilledError(Exception):
    """The operator ended here."""


TENSOR = Tensor(name="INPUT", datatype="FP32", shape=[64])


@dataclass
class Simulation:
    pods: int = 2
    rate: float = 100.0
    scrape_interval: float = 5.0
    behaviour: Behaviour = healthy
    now: float = 1_000_000.0
    prometheus_up: bool = True
    load_error: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, list[Tensor]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    stored: StoredTable | None = None
    events: list[Event] = field(default_factory=list)
    tables: list[RoutingTable] = field(default_factory=list)
    writes: int = 0
    kill_at_write: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        self.memory: dict[str, State] = {}
        self.last_look: float | None = None
        self.last_table: RoutingTable | None = None
        self.checkpointed = 0.0
        self._version = 0
        self._random = random.Random(self.seed)
        self._acks = {self._pod_name(i): Acknowledgement() for i in range(self.pods)}
        self._samples: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
        self._counters: dict[tuple[str, str, str, str], float] = {}

    # What a user does.

    def apply(self, kind: str, name: str, **spec: Any) -> None:
        self._version += 1
        old = self.objects.get((kind, name))
        generation = old["metadata"]["generation"] + 1 if old else 1
        created = old["metadata"]["creationTimestamp"] if old else self._time()
        self.objects[kind, name] = {
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": "default",
                "uid": old["metadata"]["uid"] if old else f"uid-{name}-{self._version}",
                "generation": generation,
                "resourceVersion": str(self._version),
                "creationTimestamp": created,
            },
            "spec": spec,
            "status": old["status"] if old else {"observedGeneration": -1},
        }

    def version(self, number: int, **spec: Any) -> None:
        self.apply("ModelVersion", f"digits-{number}", model="digits", version=number, **spec)

    def rollout(self, name: str = "rollout", canary: int = 2, **spec: Any) -> None:
        analysis = {"interval": "10s", "warmup": "10s", "minRequests": 100}
        spec = {"analysis": analysis, "stepDuration": "1m", **spec}
        self.apply("CanaryRollout", name, model="digits", canaryVersion=canary, **spec)

    def delete(self, kind: str, name: str) -> None:
        del self.objects[kind, name]

    def status(self, name: str = "rollout", kind: str = "CanaryRollout") -> dict[str, Any]:
        return self.objects[kind, name]["status"]

    def condition(self, kind: str, name: str, type_: str) -> dict[str, str]:
        conditions = self.status(name, kind)["conditions"]
        return next(one for one in conditions if one["type"] == type_)

    # What time does.

    def run(
        self, duration: float, until: Callable[["Simulation"], bool] | None = None
    ) -> "Simulation":
        """Let time pass, second by second, looking as the reconciler would."""
        end = self.now + duration
        while self.now < end and not (until and until(self)):
            self.tick()
        return self

    def run_to(self, *phases: str, within: float = 7200.0) -> dict[str, Any]:
        self.run(within, lambda s: s.status().get("phase") in phases)
        assert self.status().get("phase") in phases, self.status().get("message")
        return self.status()

    def tick(self) -> None:
        self.now += 1.0
        self._serve_requests()
        if self.now % self.scrape_interval == 0:
            self._scrape()
        self._pods_follow()
        try:
            self.look()
        except KilledError:
            self.restart()

    def restart(self) -> None:
        self.memory, self.last_look, self.last_table = {}, None, None
        self.kill_at_write = None

    def look(self) -> Plan:
        """One look of the operator, with its writes in the decided order."""
        seen = self.observation()
        plan = decide(seen, self.memory)
        went_live = any(
            isinstance(s, Stepping)
            and s.run.evidence.live_since == seen.now
            for s in plan.states.values()
        )
        if seen.reading is not None or went_live:
            self.last_look = seen.now
        if plan.table_first:
            self._write_table(plan)
        self._write_statuses(plan)
        self.memory = dict(plan.states)
        if not plan.table_first:
            self._write_table(plan)
        self.events += plan.events
        return plan

    def observation(self) -> Observation:
        typed = {
            kind: tuple(
                convert(raw, type_) for (k, _), raw in self.objects.items() if k == kind
            )
            for kind, type_ in {
                "ModelVersion": ModelVersion,
                "CanaryRollout": CanaryRollout,
                "BatchPolicy": BatchPolicy,
            }.items()
        }
        return Observation(
            now=self.now,
            namespace="default",
            model="digits",
            versions=typed["ModelVersion"],
            rollouts=typed["CanaryRollout"],
            policies=typed["BatchPolicy"],
            stored=self.stored,
            last_table=self.last_table,
            pods=tuple(
                Pod(name=name, uid=f"uid-{name}", ready=True, ack=ack)
                for name, ack in self._acks.items()
            ),
            reading=self._reading(typed["CanaryRollout"]),
            last_look=self.last_look,
            scrape_interval=self.scrape_interval,
        )

    # The rest of the world.

    def _reading(self, rollouts: tuple[CanaryRollout, ...]) -> Reading | Unreadable | None:
        live = any(
            isinstance(state := self.memory.get(r.metadata.uid) or decode(r.status), Stepping)
            and state.run.evidence.live_since is not None
            for r in rollouts
        )
        if not live or self.now % 10:
            return None
        if not self.prometheus_up:
            return Unreadable("connection refused")
        return Reading(
            self.now,
            tuple(
                Series(pod, arm, check, counts, tuple(samples[-400:]))  # type: ignore[arg-type]
                for (pod, arm, check, counts), samples in self._samples.items()
            ),
        )

    def _serve_requests(self) -> None:
        if self.stored is None or self.stored.table is None:
            return
        table = self.stored.table
        for pod in self._acks:
            for arm in table.split:
                count = self.rate / self.pods * arm.weight / 10_000
                requests = int(count) + (self._random.random() < count % 1)
                errors, slow = self.behaviour(arm.version, self.now)
                for check in table.checks:
                    share = errors if check.__class__.__name__ == "ErrorCheck" else slow
                    bad = sum(self._random.random() < share for _ in range(requests))
                    for counts, amount in (("requests", requests), ("bad", bad)):
                        for other in ("stable", "canary"):
                            key = (pod, other, check.id, counts)
                            grown = amount if other == arm.name else 0
                            self._counters[key] = self._counters.get(key, 0.0) + grown

    def _scrape(self) -> None:
        for key, value in self._counters.items():
            self._samples.setdefault(key, []).append((self.now, value))

    def _pods_follow(self) -> None:
        if self.stored is None or self.stored.table is None:
            return
        table = self.stored.table
        for name in self._acks:
            if name in self.silent:
                continue
            versions = {}
            for row in table.versions:
                if row.pods is not None and f"uid-{name}" not in row.pods:
                    continue
                error = self.load_error.get(row.version)
                versions[row.version] = VersionState(
                    state="Failed" if error else "Ready",
                    error=error,
                    inputs=self.tensors.get(row.version, [TENSOR]),
                )
            self._acks[name] = Acknowledgement(
                table_uid=self.stored.uid, revision=table.revision, versions=versions
            )

    def _write_statuses(self, plan: Plan) -> None:
        for write in plan.statuses:
            state = plan.states.get(write.metadata.uid)
            checkpoint = isinstance(state, Stepping) and self.now - self.checkpointed >= 6
            if not (write.urgent or checkpoint):
                continue
            self._count_write()
            raw = self.objects[write.kind, write.metadata.name]
            assert raw["metadata"]["resourceVersion"] == write.metadata.resource_version
            self._version += 1
            raw["metadata"] = {**raw["metadata"], "resourceVersion": str(self._version)}
            raw["status"] = msgspec.json.decode(msgspec.json.encode(write.after))
            if checkpoint:
                self.checkpointed = self.now

    def _write_table(self, plan: Plan) -> None:
        if plan.table is None:
            return
        self._count_write()
        self._version += 1
        uid = self.stored.uid if self.stored else f"uid-table-{self._version}"
        self.stored = StoredTable(uid=uid, resource_version=str(self._version), table=plan.table)
        self.last_table = plan.table
        self.tables.append(plan.table)

    def _count_write(self) -> None:
        if self.writes == self.kill_at_write:
            raise KilledError
        self.writes += 1

    def _pod_name(self, number: int) -> str:
        return f"triton-{number}"

    def _time(self) -> str:
        minutes, seconds = divmod(int(self.now) % 3600, 60)
        return f"2026-01-01T00:{minutes:02}:{seconds:02}Z"


def two_versions(**settings: Any) -> Simulation:
    """Version 1 has the traffic, version 2 is there; both known to the pods."""
    world = Simulation(**settings)
    world.version(1, lifecycle="Active", trafficPercent=100)
    world.version(2)
    world.run(10)
    return world
