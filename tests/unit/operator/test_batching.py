"""Following policies: whom it asks, how much it writes, and what it survives."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tidegate_contract import names
from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import Acknowledgement, BatchLive, PodReport
from tidegate_contract.table import Arm, LoadedVersion, RoutingTable, Share
from tidegate_operator.adapters.cluster import CONFIG_MAP, POD, ClusterError
from tidegate_operator.batching import Policies
from tidegate_operator.cache import Cache
from tidegate_operator.rollout.model import StatusWrite
from tidegate_operator.rollout.policies import Applied


@dataclass
class World:
    """Models ``m0``, ``m1``.. in one pod, all of them applied, and what is asked and written."""

    policies: list[list[str]]
    now: float = 1000.0
    p99: float = 0.01
    refusals: int = 0
    cache: Cache = field(default_factory=Cache)
    asked: Counter[str] = field(default_factory=Counter)
    written: list[StatusWrite] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = sorted({model for models in self.policies for model in models})
        self.shell = Policies(cache=self.cache, pods=self, write=self._write, now=lambda: self.now)
        self._put(POD, "pod", labels={}, **pod("10.0.0.1"))
        for model in self.models:
            self._put("ModelVersion", f"{model}-1", spec=version(model))
            self._put(
                CONFIG_MAP,
                names.routing_table_name(model),
                labels={names.LABEL_MODEL: model},
                data=table(model),
            )
        for number, models in enumerate(self.policies):
            self._put("BatchPolicy", f"p{number}", spec={"models": models})
            for model in models:
                part = Applied(holder=f"p{number}", pods=1, total=1, revision=3)
                self.shell.note(("default", model), part)

    def follow(self, policy: int = 0) -> int:
        """Has one policy followed."""
        one = list(self.cache.batch_policies())[policy]
        return asyncio.run(self.shell.follow(one))

    def run(self, until: Callable[[], bool]) -> None:
        """Goes through the policies for ever, until something is so."""
        asyncio.run(asyncio.wait_for(self._run(until), 60))

    async def _run(self, until: Callable[[], bool]) -> None:
        running = asyncio.create_task(self.shell.run())
        while not until():
            self.now += 1.0
            await asyncio.sleep(0.01)
        running.cancel()

    async def ask(self, address: str) -> PodReport | None:
        self.asked[address] += 1
        live = BatchLive(strategy="Adaptive", batch_size=4.0, p99=self.p99)
        acks = {m: Acknowledgement(table_uid="u", revision=3, live=live) for m in self.models}
        return PodReport(pod="pod", pod_uid="u", ready=True, models=acks)

    def _put(
        self, kind: str, name: str, *, labels: dict[str, str] | None = None, **rest: Any
    ) -> None:
        meta = {"name": name, "namespace": "default", "uid": "u", "resourceVersion": "1"}
        meta |= {"labels": labels or {}, "generation": 1}  # type: ignore[dict-item]
        self.cache.put(kind, {"metadata": meta, **rest})

    async def _write(self, write: StatusWrite) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ClusterError("not now")
        self.written.append(write)
        spec = {"models": self.policies[int(write.metadata.name[1:])]}
        meta = {
            "name": write.metadata.name,
            "namespace": "default",
            "uid": "u",
            "resourceVersion": str(len(self.written) + 1),
            "generation": 1,
        }
        self.cache.put(write.kind, {"metadata": meta, "spec": spec, "status": write.after})


def pod(address: str) -> dict[str, Any]:
    since = "2026-12-01T09:00:00Z"
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": since}
    return {"status": {"phase": "Running", "podIP": address, "conditions": [ready]}}


def version(model: str) -> dict[str, Any]:
    anything = {"matchExpressions": [{"key": "other", "operator": "DoesNotExist"}]}
    return {"model": model, "version": 1, "podSelector": anything}


def table(model: str) -> dict[str, str]:
    text, digest = contract.encode(
        RoutingTable(
            namespace="default",
            model=model,
            revision=3,
            split_revision=3,
            split=[Arm(name="stable", version=1, weight=10_000)],
            versions=[LoadedVersion(version=1)],
            baseline=[Share(version=1, weight=10_000)],
        )
    )
    return {names.TABLE_KEY: text, names.DIGEST_KEY: digest}


def test_a_pod_of_several_models_is_asked_once() -> None:
    world = World([["m0", "m1", "m2"]])
    assert world.follow() == 1
    assert world.asked == {"10.0.0.1": 1}
    assert [row["model"] for row in world.written[0].after["live"]] == ["m0", "m1", "m2"]


def test_a_policy_whose_models_were_not_all_looked_at_is_left_alone() -> None:
    world = World([["m0"]])
    world.shell = Policies(cache=world.cache, pods=world, write=world._write, now=lambda: 0.0)
    assert (world.follow(), world.written) == (0, [])


def test_of_many_whose_figures_move_at_once_a_few_are_written_and_in_the_end_all() -> None:
    world = World([[f"m{number}"] for number in range(20)])
    for second in range(1, 15):
        for number in range(20):
            world.follow(number)
        assert len(world.written) <= 2 * second
        world.now += 1.0
    assert {one.metadata.name for one in world.written} == {f"p{n}" for n in range(20)}
    assert len(world.written) == 20


def test_all_are_gone_through() -> None:
    world = World([["m0"], ["m1"], ["m2"]])
    world.run(lambda: len(world.written) == 3)


def test_a_defect_and_refused_writes_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def ask(self, address: str) -> PodReport | None:
            world.shell.pods = world
            raise ZeroDivisionError(address)

    caplog.set_level("INFO")
    world = World([[f"m{number}"] for number in range(4)])
    world.shell.pods, world.refusals = Broken(), 1
    world.run(lambda: len(world.written) == 2)
    assert [one.metadata.name for one in world.written] == ["p2", "p3"]
    assert "p0: a defect of the operator" in caplog.text
    assert "live figures of p1 not written: not now" in caplog.text
