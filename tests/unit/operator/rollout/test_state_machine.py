"""Random faults and edits at random times: what must hold of every rollout, whatever happens."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulation import Simulation, failing, healthy, two_versions

from tidegate_operator.adapters.cluster import CONFIG_MAP
from tidegate_operator.api.canaryrollout import FINISHED
from tidegate_operator.evidence.counters import Series
from tidegate_operator.evidence.queries import Answer, NoValue, Value

TABLE = (CONFIG_MAP, "tidegate-routing-digits")
ERRORS = {"name": "errors", "errorRate": {"success": 0.01, "rollback": 0.05}}
LATENCY = {"name": "latency", "latency": {"quantile": 0.95, "success": "1s", "rollback": "2s"}}
REVENUE = {"name": "revenue", "prometheus": {"query": "revenue", "success": {"min": 1}}}
METRICS = ([ERRORS], [ERRORS, LATENCY], [{**ERRORS, "errorRate": {"rollback": 0.1}}], [REVENUE])


def analysis(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    common = {"interval": "5s", "warmup": "0s", "minRequests": 20, "ackTimeout": "10s"}
    return {**common, "metrics": metrics}


def plan(gates: set[int]) -> list[dict[str, Any]]:
    return [
        {"percent": percent}
        | ({"duration": "20s"} if percent < 100 else {})
        | ({"gate": "Manual"} if percent in gates else {})
        for percent in (20, 60, 100)
    ]


Fault = Callable[[Series], Series | None]
"""What a bad Prometheus makes of a series; None: it is not there."""


def empty(_one: Series) -> None:
    return None


def stale(one: Series) -> Series:
    """The last half minute is missing."""
    kept = [
        pair for pair in zip(one.times, one.values, strict=True) if pair[0] < one.times[-1] - 30
    ]
    return msgspec.structs.replace(
        one, times=tuple(t for t, _ in kept), values=tuple(v for _, v in kept)
    )


def restarted(one: Series) -> Series:
    """Every counter begins at nothing again with the last sample."""
    return msgspec.structs.replace(one, values=(*one.values[:-1], 0.0))


def without_the_canary(one: Series) -> Series | None:
    return None if one.arm == "canary" else one


def without_the_bad(one: Series) -> Series | None:
    return None if one.counts == "bad" else one


FAULTS: tuple[Fault, ...] = (empty, stale, restarted, without_the_canary, without_the_bad)


class Rollout(RuleBasedStateMachine):
    """One rollout, and everything that can befall it."""

    world: Simulation

    @initialize(pods=st.integers(1, 3), gates=st.sets(st.sampled_from([20, 60, 100]), max_size=2))
    def begin(self, pods: int, gates: set[int]) -> None:
        self.world = two_versions(pods=pods)
        self.world.answers["revenue"] = lambda now: Value(now, 2.0)
        self.plan = [20, 60, 100]
        self.finished: dict[str, Any] | None = None
        self.latched = self.lost = False
        self.world.rollout(steps=plan(gates), analysis=analysis([ERRORS]))

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        still = {"Holding", "WaitingPromotion"}
        for _ in range(seconds):
            held = self.status.get("phase") in still and not self.world.said()
            before = self.world.weight
            self.world.tick()
            if held and self.status.get("phase") in still:
                assert self.world.weight <= before, "no weight rises in a hold"

    @rule(share=st.sampled_from([0.0, 0.03, 0.3, 1.0]))
    def the_canary_behaves(self, share: float) -> None:
        self.world.behaviour = failing(2, share) if share else healthy

    @rule(up=st.booleans())
    def prometheus(self, up: bool) -> None:
        self.world.prometheus_up = up

    @rule(fault=st.sampled_from([None, *FAULTS]))
    def samples_are(self, fault: Fault | None) -> None:
        self.world.distorted = fault

    @rule(answer=st.sampled_from([Value(0.0, 2.0), Value(0.0, 0.0), NoValue(0.0, "no series")]))
    def the_query_gives(self, answer: Answer) -> None:
        self.world.answers["revenue"] = lambda _now: answer

    @rule(suspend=st.booleans())
    def suspended(self, suspend: bool) -> None:
        self.world.edit(suspend=suspend)

    @rule(gates=st.sets(st.sampled_from([20, 60, 100]), max_size=2))
    def gates_are_edited(self, gates: set[int]) -> None:
        self.world.edit(steps=plan(gates))

    @rule(metrics=st.sampled_from(METRICS))
    def metrics_are_edited(self, metrics: list[dict[str, Any]]) -> None:
        self.world.edit(analysis=analysis(metrics))

    @rule(word=st.sampled_from(["step", "step@0", "step@1", "step@2", "nonsense"]))
    def somebody_says_go_on(self, word: str) -> None:
        self.world.say("promote", word)

    @precondition(lambda self: self.latched)
    @rule()
    def somebody_says_abort_too_late(self) -> None:
        self.world.say("abort", "late")

    @rule(up=st.booleans())
    def api_server(self, up: bool) -> None:
        self.world.api_up = up

    @rule(number=st.integers(0, 2), silent=st.booleans())
    def sidecar(self, number: int, silent: bool) -> None:
        if pod := self.world.by_name.get(f"triton-{number}"):
            pod.silent = silent

    @rule(number=st.integers(0, 2), ready=st.booleans())
    def pod(self, number: int, ready: bool) -> None:
        if f"triton-{number}" in self.world.by_name:
            self.world.set_ready(f"triton-{number}", ready=ready)

    @rule(number=st.integers(0, 2), scraped=st.booleans())
    def scrape(self, number: int, scraped: bool) -> None:
        if pod := self.world.by_name.get(f"triton-{number}"):
            pod.scraped = scraped

    @rule(writes=st.integers(0, 4), down_for=st.sampled_from([0.0, 7.0, 100.0]))
    def kill(self, writes: int, down_for: float) -> None:
        self.world.down_for = down_for
        self.world.kill_at_write = len(self.world.writes) + writes

    @precondition(lambda self: TABLE in self.world.objects and not self.latched)
    @rule()
    def somebody_edits_the_table(self) -> None:
        raw = self.world.objects[TABLE]
        text = raw["data"]["table.json"].replace('"weight": ', '"weight": 1')
        self.world.store(CONFIG_MAP, {**raw, "data": {**raw["data"], "table.json": text}})
        self.lost = True

    @precondition(lambda self: TABLE in self.world.objects and not self.latched)
    @rule()
    def somebody_deletes_the_table(self) -> None:
        self.world.delete(*TABLE)
        self.lost = True

    @rule()
    def somebody_annotates_the_rollout(self) -> None:
        self.world.store("CanaryRollout", self.world.objects["CanaryRollout", "rollout"])

    @rule()
    def a_second_operator_starts(self) -> None:
        world = self.world
        if world.api_up and world.now >= world.up_at and len(world.operators) < 2:
            world.start_operator()

    @property
    def status(self) -> dict[str, Any]:
        return self.world.status()

    @invariant()
    def what_was_written_keeps_the_rules(self) -> None:
        revisions = [table.revision for table in self.world.tables]
        assert self.lost or revisions == sorted(set(revisions))
        for table in self.world.tables:
            canary = sum(arm.weight for arm in table.split if arm.name == "canary")
            assert canary // 100 in {0, *self.plan[:-1]}
            if table.latch:
                self.latched = True
                assert canary == 0, "a latched rollout has no weight"

    @invariant()
    def weights_rise_or_go_back_for_good(self) -> None:
        shares = [
            sum(arm.weight for arm in table.split if arm.name == "canary")
            for table in self.world.tables
        ]
        started = [share for share in shares if share]
        assert started == sorted(started)
        if started and self.status.get("phase") not in {"", None, "Gating"}:
            last = max(i for i, share in enumerate(shares) if share)
            first = shares.index(started[0])
            assert all(shares[first:last]), "no weight after it was taken away"

    @invariant()
    def finished_is_final(self) -> None:
        if self.finished is not None:
            assert self.status["phase"] == self.finished["phase"]
            assert self.status["history"] == self.finished["history"]
        elif self.status.get("phase") in FINISHED:
            self.finished = self.status

    @invariant()
    def history_goes_through_the_plan(self) -> None:
        reached = [entry["weight"] for entry in self.status.get("history", [])]
        rising = [weight for weight in reached if weight]
        assert rising == sorted(rising)
        steps = sorted(set(rising))
        assert steps == self.plan[: len(steps)]

    def teardown(self) -> None:
        """Whatever happened, it ends once the faults are gone."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.prometheus_up = world.api_up = True
        world.distorted = world.kill_at_write = None
        world.behaviour = healthy
        world.answers["revenue"] = lambda now: Value(now, 2.0)
        world.edit(suspend=False, steps=plan(set()), analysis=analysis([ERRORS]))
        for pod in world.by_name.values():
            pod.silent, pod.scraped = False, True
            world.set_ready(pod.name, ready=True)
        world.run_to(*FINISHED, within=2000)
        world.run(30)
        applied = {pod.table.revision for pod in world.by_name.values() if pod.table}
        assert applied == {world.table.revision}, "all pods apply the table in force"
        self.finished_is_final()
        self.what_was_written_keeps_the_rules()
        self.history_goes_through_the_plan()
        world.run(700)  # until what nobody needs was unloaded
        assert world.said() == {}, "every word was heard"
        writes = len(world.writes)
        world.run(400)
        assert len(world.writes) == writes, "at rest nothing is written"


TestRollout = Rollout.TestCase
TestRollout.settings = settings(
    max_examples=35, stateful_step_count=25, deadline=None, derandomize=True
)
