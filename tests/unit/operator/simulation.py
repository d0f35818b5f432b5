"""A cluster, its pods and its Prometheus as plain data, so that rollouts of hours run in no time.

The operator is the real one, from its cache to its writes; only what it talks to is played here:
an API server that gives versions to objects and refuses what is stale, pods that follow the
table, a Prometheus that has scraped their counters, and a clock. A kill is a loss of memory
before any one write.
"""

import asyncio
import bisect
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from tidegate_contract import names
from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import (
    Acknowledgement,
    BatchLive,
    PodReport,
    Tensor,
    VersionState,
)
from tidegate_contract.table import (
    Check,
    DisagreementCheck,
    ErrorCheck,
    RoutingTable,
    SlowCheck,
)
from tidegate_operator.adapters.cluster import (
    CONFIG_MAP,
    POD,
    ClusterError,
    ConflictError,
    GoneError,
    Listed,
    Raw,
    merge_patch,
)
from tidegate_operator.adapters.metrics import Rates, Readings
from tidegate_operator.api.meta import Metadata
from tidegate_operator.api.quantity import timestamp
from tidegate_operator.cache import KINDS, Cache
from tidegate_operator.evidence.counters import Series
from tidegate_operator.evidence.queries import Answer, NoValue
from tidegate_operator.readings import Evidence
from tidegate_operator.reconciler import Reconciler
from tidegate_operator.rollout.observation import Before, Unreadable

Behaviour = Callable[[int, float], tuple[float, float]]
"""(version, time) to (share of errors, share of slow requests)."""

_loop = asyncio.new_event_loop()


def healthy(_version: int, _now: float) -> tuple[float, float]:
    return 0.0, 0.0


def failing(version: int, share: float, since: float = 0.0) -> Behaviour:
    return lambda v, now: (share if v == version and now >= since else 0.0, 0.0)


class KilledError(BaseException):
    """The operator ended here."""


@dataclass(frozen=True)
class Told:
    """An event as it was posted."""

    kind: str
    name: str
    type: str
    reason: str
    message: str


TENSOR = Tensor(name="INPUT", datatype="FP32", shape=[64])


@dataclass
class SimulatedPod:
    """A pod with its sidecar; ``loading``: by version, when it will be ready."""

    name: str
    uid: str
    address: str
    ready: bool = True
    silent: bool = False
    scraped: bool = True
    restarts: float = 0.0
    direct_at: dict[int, float] = field(default_factory=dict)
    table: RoutingTable | None = None
    table_uid: str | None = None
    loading: dict[int, float] = field(default_factory=dict)
    counters: dict[tuple[str, str, str, str], float] = field(default_factory=dict)
    carry: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass
class Simulation:
    pods: int = 2
    rate: float = 100.0
    scrape_interval: float = 5.0
    behaviour: Behaviour = healthy
    now: float = 1_000_000.0
    slow_takes: float = math.inf
    disagreeing: tuple[float, float] = (0.0, 0.0)
    distorted: Callable[[Series], Series | None] | None = None
    scraped: bool = True
    prometheus_up: bool = True
    api_up: bool = True
    seed: int = 1
    load_time: float = 0.0
    load_error: dict[int, str] = field(default_factory=dict)
    load_waits: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, list[Tensor]] = field(default_factory=dict)
    kill_at_write: int | None = None
    down_for: float = 0.0
    before_write: Callable[[str], None] = lambda _what: None
    before: Before | None = field(default_factory=Before)
    rates: Rates = field(default_factory=Rates)
    answers: dict[str, Callable[[float], Answer]] = field(default_factory=dict)
    batching: dict[str, BatchLive] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.objects: dict[tuple[str, str], Raw] = {}
        self.events: list[Told] = []
        self.secrets: set[str] = set()
        self.tables: list[RoutingTable] = []
        self.writes: list[str] = []
        self.asked: list[float] = []
        self.attended: defaultdict[int, float] = defaultdict(float)
        self.operators: list[Reconciler] = []
        self.up_at = self.now
        self._revision = self._addresses = 0
        self._random = np.random.default_rng(self.seed)
        self._samples: dict[tuple[str, str, str, str, str], list[tuple[float, float]]] = {}
        self.by_name: dict[str, SimulatedPod] = {}
        for number in range(self.pods):
            self.add_pod(f"triton-{number}")
        self.start_operator()

    # What a user does.

    def apply(self, kind: str, name: str, **spec: Any) -> None:
        old = self.objects.get((kind, name))
        meta = old["metadata"] if old else self._new(name)
        status = old["status"] if old else {"observedGeneration": -1}
        generation = meta.get("generation", 0) + 1
        self.store(kind, {"metadata": {**meta, "generation": generation}, "spec": spec}, status)

    def version(self, number: int, **spec: Any) -> None:
        self.apply("ModelVersion", f"digits-{number}", model="digits", version=number, **spec)

    def rollout(self, name: str = "rollout", canary: int = 2, **spec: Any) -> None:
        analysis = {"interval": "10s", "warmup": "10s", "minRequests": 100}
        spec = {"analysis": analysis, "stepDuration": "1m", **spec}
        self.apply("CanaryRollout", name, model="digits", canaryVersion=canary, **spec)

    def say(self, word: str, value: str, name: str = "rollout") -> None:
        """Annotate a rollout: ``promote``, ``abort`` or ``retry``."""
        raw = self.objects["CanaryRollout", name]
        said = {**raw["metadata"].get("annotations", {}), f"{names.GROUP}/{word}": value}
        self.store("CanaryRollout", {**raw, "metadata": {**raw["metadata"], "annotations": said}})

    def said(self, name: str = "rollout") -> dict[str, str]:
        """The annotations that still stand."""
        meta = self.objects["CanaryRollout", name]["metadata"]
        annotations: dict[str, str] = meta.get("annotations", {})
        return annotations

    def edit(self, name: str = "rollout", **fields: Any) -> None:
        """Change some fields of a rollout's spec."""
        spec = self.objects["CanaryRollout", name]["spec"]
        self.apply("CanaryRollout", name, **{**spec, **fields})

    def delete(self, kind: str, name: str) -> None:
        raw = self.objects.pop((kind, name))
        self._revision += 1
        raw = {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(self._revision)}}
        self._publish(kind, raw, deleted=True)

    def add_pod(self, name: str) -> SimulatedPod:
        uid = f"uid-{name}-{self._revision}"
        self._addresses += 1
        pod = SimulatedPod(name, uid, f"10.0.0.{self._addresses}", scraped=self.scraped)
        self.by_name[name] = pod
        self.set_ready(name, ready=True)
        return pod

    def remove_pod(self, name: str) -> None:
        del self.by_name[name]
        self.delete(POD, name)

    def set_ready(self, name: str, *, ready: bool) -> None:
        pod = self.by_name[name]
        pod.ready = ready
        condition = {
            "type": "Ready",
            "status": str(ready),
            "lastTransitionTime": timestamp(self.now)[:19] + "Z",
        }
        meta = {**self._new(name), "uid": pod.uid, "labels": {names.LABEL_MODEL: "digits"}}
        status = {"phase": "Running", "podIP": pod.address, "conditions": [condition]}
        self.store(POD, {"metadata": meta}, status)

    def status(self, name: str = "rollout", kind: str = "CanaryRollout") -> dict[str, Any]:
        status: dict[str, Any] = self.objects[kind, name]["status"]
        return status

    def condition(self, kind: str, name: str, type_: str) -> dict[str, str]:
        conditions = self.status(name, kind)["conditions"]
        found: dict[str, str] = next(one for one in conditions if one["type"] == type_)
        return found

    def history(self, name: str = "rollout") -> list[tuple[str, str, int]]:
        return [(h["from"], h["to"], h["weight"]) for h in self.status(name)["history"]]

    def reasons(self, name: str = "rollout") -> list[str]:
        return [one.reason for one in self.events if one.name == name]

    @property
    def table(self) -> RoutingTable:
        data = self.objects[CONFIG_MAP, "tidegate-routing-digits"]["data"]
        return contract.decode(data[names.TABLE_KEY], data[names.DIGEST_KEY])

    @property
    def weight(self) -> int:
        """The canary's share in the last table that was written, in percent."""
        split = self.tables[-1].split if self.tables else []
        return sum(arm.weight for arm in split if arm.name == "canary") // 100

    # What time does.

    def run(self, duration: float, until: Callable[[Self], bool] | None = None) -> Self:
        """Let time pass, second by second."""
        end = self.now + duration
        while self.now < end and not (until and until(self)):
            self.tick()
        return self

    def run_to(self, *phases: str, name: str = "rollout", within: float = 7200.0) -> dict[str, Any]:
        self.run(within, lambda s: s.status(name).get("phase") in phases)
        assert self.status(name).get("phase") in phases, self.status(name).get("message")
        return self.status(name)

    def tick(self) -> None:
        self.now += 1.0
        self._serve_requests()
        if self.now % self.scrape_interval == 0:
            self._scrape()
        self._pods_follow()
        if self.now < self.up_at:
            return
        if not self.operators and self.api_up:
            self.start_operator()
        self.attended[self.weight] += 1.0
        for operator in list(self.operators):
            try:
                _loop.run_until_complete(operator._round())
                if self.now % 15 == 0:
                    for one in operator.cache.batch_policies():
                        _loop.run_until_complete(operator._policies._followed(one))
            except KilledError:
                self.kill()

    def kill(self) -> None:
        """The operator is gone, with all that it remembers."""
        self.operators.clear()
        self.kill_at_write = None
        self.up_at = self.now + self.down_for

    def start_operator(self) -> Reconciler:
        operator = Reconciler(
            cache=Cache(),
            cluster=_ApiServer(self),
            evidence=Evidence(metrics=_Prometheus(self), now=lambda: self.now),
            queries=_Queries(self),
            pods=_Sidecars(self),
            scrape_interval=self.scrape_interval,
            now=lambda: self.now,
        )
        self.operators.append(operator)
        assert _loop.run_until_complete(operator._listing.list(KINDS))
        return operator

    # The rest of the world.

    def store(self, kind: str, raw: Raw, status: Raw | None = None) -> Raw:
        """What the API server does with a write; watchers hear of it."""
        self._revision += 1
        meta = {**raw["metadata"], "resourceVersion": str(self._revision)}
        raw = {**raw, "metadata": meta, **({} if status is None else {"status": status})}
        self.objects[kind, meta["name"]] = raw
        self._publish(kind, raw, deleted=False)
        return raw

    def count_write(self, what: str) -> None:
        if not self.api_up:
            raise ClusterError("connection refused")
        if len(self.writes) == self.kill_at_write:
            raise KilledError
        self.before_write(what)
        self.writes.append(what)

    def samples(self, span: float) -> tuple[Series, ...]:
        found = []
        for (pod, arm, check, counts, cell), samples in self._samples.items():
            first = bisect.bisect_right(samples, (self.now - span, float("inf")))
            if samples[first:]:
                times, values = zip(*samples[first:], strict=True)
                one = Series(pod, arm, check, counts, times, values, cell)  # type: ignore[arg-type]
                shown = self.distorted(one) if self.distorted else one
                if shown is not None and shown.times:
                    found.append(shown)
        return tuple(found)

    def report(self, address: str) -> PodReport | None:
        for pod in self.by_name.values():
            if pod.address == address and not pod.silent:
                return PodReport(
                    pod=pod.name,
                    pod_uid=pod.uid,
                    ready=pod.ready,
                    models={"digits": self._acknowledgement(pod)},
                )
        return None

    def _new(self, name: str) -> Raw:
        created = timestamp(self.now)
        uid = f"uid-{name}-{self._revision}"
        return {"name": name, "namespace": "default", "uid": uid, "creationTimestamp": created}

    def _publish(self, kind: str, raw: Raw, *, deleted: bool) -> None:
        for operator in self.operators:
            operator.observe(kind, raw, deleted=deleted)

    def _acknowledgement(self, pod: SimulatedPod) -> Acknowledgement:
        return Acknowledgement(
            table_uid=pod.table_uid,
            revision=pod.table.revision if pod.table else 0,
            versions={version: self._state(version, at) for version, at in pod.loading.items()},
            direct_at=dict(pod.direct_at),
            live=self.batching.get(pod.name, self.batching.get("")),
        )

    def _state(self, version: int, ready_at: float) -> VersionState:
        error = self.load_error.get(version)
        if self.now < ready_at:
            return VersionState(state="Loading", error=self.load_waits.get(version))
        if error:
            return VersionState(state="Failed", error=error)
        tensors = self.tensors.get(version, [TENSOR])
        return VersionState(state="Ready", inputs=tensors, outputs=[TENSOR])

    def _pods_follow(self) -> None:
        raw = self.objects.get((CONFIG_MAP, "tidegate-routing-digits"))
        for pod in self.by_name.values():
            if raw is None or pod.silent:
                continue
            try:
                shown = self.table
            except contract.TableError:
                continue
            if pod.table is not None and shown.revision < pod.table.revision:
                continue
            pod.table, pod.table_uid = shown, raw["metadata"]["uid"]
            wanted = {
                row.version for row in pod.table.versions if row.pods is None or pod.uid in row.pods
            }
            pod.loading = {
                version: pod.loading.get(version, self.now + self.load_time)
                for version in sorted(wanted)
            }

    def _serve_requests(self) -> None:
        for pod in self.by_name.values():
            if pod.table is None or not pod.ready:
                continue
            for check in pod.table.checks:
                for name in _arms(check):
                    for counts in ("requests", "bad"):
                        pod.counters.setdefault((name, check.id, counts, ""), 0.0)
            pod.counters["", "", "restarts", ""] = pod.restarts
            stable = 0
            for arm in pod.table.split:
                requests = self._arrived(pod, arm.name, self.rate * arm.weight / 10_000)
                stable += requests if arm.name == names.ARM_STABLE else 0
                for check in pod.table.checks:
                    if not isinstance(check, DisagreementCheck):
                        self._count(pod, check, arm.name, requests, self._share(check, arm))
            if pod.table.mirror is not None:
                self._mirror(
                    pod, pod.table.mirror.version, stable * pod.table.mirror.weight / 10_000
                )

    def _arrived(self, pod: SimulatedPod, arm: str, rate: float) -> int:
        """Whole requests of this second at one pod; ``rate``: at all of them."""
        pod.carry[arm] += rate / len(self.by_name)
        requests = int(pod.carry[arm])
        pod.carry[arm] -= requests
        return requests

    def _share(self, check: Check, arm: contract.Arm) -> float:
        errors, slow = self.behaviour(arm.version, self.now)
        if isinstance(check, SlowCheck):
            return slow if self.slow_takes > check.bounds.get(arm.name, math.inf) else 0.0
        return errors

    def _mirror(self, pod: SimulatedPod, version: int, pairs_here: float) -> None:
        """Pairs, a tenth of them with stable itself, too."""
        assert pod.table is not None
        pairs = self._arrived(pod, names.ARM_SHADOW, pairs_here * len(self.by_name))
        again = self._arrived(pod, "again", pairs_here * len(self.by_name) / 10)
        errors, _ = self.behaviour(version, self.now)
        differs, itself = self.disagreeing
        for check in pod.table.checks:
            compared = isinstance(check, DisagreementCheck)
            self._count(pod, check, names.ARM_SHADOW, pairs, differs if compared else errors)
            if compared:
                self._count(pod, check, names.ARM_STABLE, again, itself)

    def _count(
        self, pod: SimulatedPod, check: Check, arm: str, requests: int, share: float
    ) -> None:
        if arm in _arms(check):
            for cell, part in self._cells(pod, requests):
                bad = int(self._random.binomial(part, share)) if share else 0
                for counts, amount in (("requests", part), ("bad", bad)):
                    key = arm, check.id, counts, cell
                    pod.counters[key] = pod.counters.get(key, 0.0) + amount

    def _cells(self, pod: SimulatedPod, requests: int) -> list[tuple[str, int]]:
        """By bucket of users where they are assigned."""
        if pod.table is None or pod.table.assignment is None:
            return [("", requests)]
        parts = self._random.multinomial(requests, [1 / names.BUCKETS] * names.BUCKETS)
        return [(str(bucket), int(part)) for bucket, part in enumerate(parts)]

    def _scrape(self) -> None:
        for pod in self.by_name.values():
            if not (pod.scraped and pod.ready):
                continue
            for key, value in pod.counters.items():
                self._samples.setdefault((pod.name, *key), []).append((self.now, value))


def _arms(check: Check) -> list[str]:
    match check:
        case ErrorCheck(arms=arms):
            return arms
        case SlowCheck(bounds=bounds):
            return list(bounds)
        case DisagreementCheck(baseline=baseline):
            return [names.ARM_SHADOW, names.ARM_STABLE] if baseline else [names.ARM_SHADOW]


@dataclass
class _ApiServer:
    world: Simulation

    async def pages(self, kind: str) -> AsyncIterator[Listed]:
        if not self.world.api_up:
            raise ClusterError("connection refused")
        items = [raw for (k, _), raw in self.world.objects.items() if k == kind]
        yield Listed(items[:1], self.world._revision)
        yield Listed(items[1:], self.world._revision)

    async def write_status(self, kind: str, meta: Metadata, before: Raw, after: Raw) -> Raw:
        self.world.count_write(f"status {kind} {meta.name} {after.get('phase')}")
        raw = self._judged(kind, meta.name, meta.uid, meta.resource_version)
        return self.world.store(kind, raw, patched(raw["status"], merge_patch(before, after)))

    async def write_table(
        self, content: RoutingTable, uid: str | None, resource_version: str | None
    ) -> Raw:
        self.world.count_write("table")
        contract.check(content)
        name = names.routing_table_name(content.model)
        text, digest = contract.encode(content)
        if uid is None:
            if (CONFIG_MAP, name) in self.world.objects:
                raise ConflictError("already exists")
            meta = {**self.world._new(name), "labels": {names.LABEL_MODEL: content.model}}
        else:
            meta = self._judged(CONFIG_MAP, name, uid, resource_version)["metadata"]
        self.world.tables.append(content)
        data = {names.TABLE_KEY: text, names.DIGEST_KEY: digest}
        return self.world.store(CONFIG_MAP, {"metadata": meta, "data": data})

    async def get(self, kind: str, namespace: str, name: str) -> Raw:
        try:
            return self.world.objects[kind, name]
        except KeyError:
            raise GoneError(name) from None

    async def delete_table(self, namespace: str, name: str, uid: str) -> None:
        self.world.count_write("delete table")
        self.world.delete(CONFIG_MAP, name)

    async def remove_annotation(
        self, kind: str, meta: Metadata, key: str, value: str
    ) -> Raw | None:
        self.world.count_write(f"annotation {kind} {meta.name} {key}")
        raw = self.world.objects.get((kind, meta.name))
        if raw is None or raw["metadata"].get("annotations", {}).get(key) != value:
            return None
        kept = {k: v for k, v in raw["metadata"]["annotations"].items() if k != key}
        return self.world.store(kind, {**raw, "metadata": {**raw["metadata"], "annotations": kept}})

    async def ensure_secret(self, namespace: str, name: str, model: str) -> None:
        self.world.secrets.add(name)

    async def post_event(self, involved: Raw, type_: str, reason: str, message: str) -> None:
        told = Told(involved["kind"], involved["name"], type_, reason, message)
        self.world.events.append(told)

    def _judged(self, kind: str, name: str, uid: str, resource_version: str | None) -> Raw:
        raw = self.world.objects.get((kind, name))
        if raw is None:
            raise GoneError(f"{kind} {name} not found")
        if (raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]) != (uid, resource_version):
            raise ConflictError(f"{kind} {name} has been modified")
        return raw


@dataclass
class _Prometheus:
    world: Simulation

    async def time(self) -> float | Unreadable:
        return self.world.now if self.world.prometheus_up else Unreadable("connection refused")

    async def samples(
        self, models: Collection[tuple[str, str]], at: float, span: float, silence: float
    ) -> Readings | Unreadable:
        assert list(models) == [("default", "digits")]
        self.world.asked.append(self.world.now)
        if not self.world.prometheus_up:
            return Unreadable("connection refused")
        return Readings(at, {("default", "digits"): self.world.samples(span)})

    async def rates(self) -> Rates | Unreadable:
        return self.world.rates if self.world.prometheus_up else Unreadable("connection refused")

    async def before(
        self, models: Sequence[tuple[str, str]], rates: Rates
    ) -> Mapping[tuple[str, str], Before] | Unreadable:
        if not self.world.prometheus_up:
            return Unreadable("connection refused")
        return dict.fromkeys(models, self.world.before) if self.world.before else {}


@dataclass
class _Queries:
    world: Simulation

    async def ask(self, namespace: str, query: str) -> Answer:
        answer = self.world.answers.get(query)
        return answer(self.world.now) if answer else NoValue(self.world.now, "no series")


@dataclass
class _Sidecars:
    world: Simulation

    async def ask(self, address: str) -> PodReport | None:
        return self.world.report(address)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2: what an API server makes of a JSON merge patch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), value)
    return result


def two_versions(**settings: Any) -> Simulation:
    """Version 1 has the traffic, version 2 is there; both known to the pods."""
    world = Simulation(**settings)
    world.version(1, lifecycle="Active", trafficPercent=100)
    world.version(2)
    return world.run(10)
