"""Random faults and edits at random times: what must hold of every rollout, whatever happens."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from simulation import Simulation, failing, healthy, two_versions

from tidegate_operator.adapters.cluster import CONFIG_MAP
from tidegate_operator.api.canaryrollout import FINISHED

TABLE = (CONFIG_MAP, "tidegate-routing-digits")
PLAN: dict[str, Any] = {
    "initialPercent": 20,
    "stepPercent": 40,
    "stepDuration": "20s",
    "analysis": {"interval": "5s", "warmup": "0s", "minRequests": 20, "ackTimeout": "10s"},
}


class Rollout(RuleBasedStateMachine):
    """One rollout, and everything that can befall it."""

    world: Simulation

    @initialize(pods=st.integers(1, 3))
    def begin(self, pods: int) -> None:
        self.world = two_versions(pods=pods)
        self.plan = [20, 60, 100]
        self.finished: dict[str, Any] | None = None
        self.latched = self.lost = False
        self.world.rollout(**PLAN)

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            held = self.status.get("phase") == "Holding"
            before = self.world.weight
            self.world.tick()
            if held and self.status.get("phase") == "Holding":
                assert self.world.weight <= before, "no weight rises in a hold"

    @rule(share=st.sampled_from([0.0, 0.03, 0.3, 1.0]))
    def the_canary_behaves(self, share: float) -> None:
        self.world.behaviour = failing(2, share) if share else healthy

    @rule(up=st.booleans())
    def prometheus(self, up: bool) -> None:
        self.world.prometheus_up = up

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
        world.kill_at_write = None
        world.behaviour = healthy
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
        world.run(400)
        writes = len(world.writes)
        world.run(400)
        assert len(world.writes) == writes, "at rest nothing is written"


TestRollout = Rollout.TestCase
TestRollout.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True
)
