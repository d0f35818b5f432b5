"""The loop: order of writes, conflicts, foreign writes, rest, many models, many operators."""

import asyncio
import math
from collections.abc import Collection

import pytest
from simulation import Simulation, _loop, failing, two_versions

from tidegate_contract.acknowledgement import PodReport
from tidegate_operator import reconciler
from tidegate_operator.adapters.cluster import CONFIG_MAP, ConflictError
from tidegate_operator.adapters.metrics import ModelKey, Rates, Readings
from tidegate_operator.budget import Budget
from tidegate_operator.observer import Unread
from tidegate_operator.readings import moment
from tidegate_operator.rollout.observation import LiveMetrics, Unreadable

TABLE = (CONFIG_MAP, "tidegate-routing-digits")


def running(**settings: object) -> Simulation:
    world = two_versions(**settings)
    world.rollout(initialPercent=50, stepPercent=25)
    world.run_to("Progressing")
    return world.run(20)


@pytest.mark.parametrize("end", ["Succeeded", "RolledBack", "Failed", None])
def test_at_rest_nothing_is_written(end: str | None) -> None:
    world = two_versions()
    if end == "RolledBack":
        world.behaviour = failing(2, 0.9)
    if end == "Failed":
        world.tensors[2] = []
    if end:
        world.rollout(initialPercent=50, stepPercent=50)
        world.run_to(end)
    world.run(700)  # what is idle is unloaded by then
    writes, told = len(world.writes), len(world.events)
    world.run(4000)
    world.kill()
    world.run(4000)
    assert world.writes[writes:] == []
    assert len(world.events) == told


def test_going_on_the_status_comes_first() -> None:
    world = running()
    writes = len(world.writes)
    world.run(200, lambda w: w.weight == 75)
    assert world.writes[writes:].index("table") > 0
    at = len(world.writes) - 1 - world.writes[::-1].index("table")
    assert world.writes[at - 1] == "status CanaryRollout rollout Progressing"


def test_going_back_the_table_comes_first() -> None:
    world = running()
    world.behaviour = failing(2, 0.9)
    world.run_to("RollingBack", within=30)
    at = world.writes.index("status CanaryRollout rollout RollingBack")
    assert world.writes[at - 1] == "table"


def conflict_once(world: Simulation, what: str) -> list[str]:
    met: list[str] = []

    def conflict(write: str) -> None:
        if write.startswith(what) and not met:
            met.append(write)
            raise ConflictError("somebody was faster")

    world.before_write = conflict
    return met


@pytest.mark.parametrize("what", ["table", "status CanaryRollout", "status ModelVersion"])
@pytest.mark.parametrize("bad", [False, True])
def test_a_conflict_changes_nothing_about_the_end(what: str, bad: bool) -> None:
    world = running()
    if bad:
        world.behaviour = failing(2, 0.9)
        world.prometheus_up = True
    met = conflict_once(world, what)
    status = world.run_to("RolledBack" if bad else "Succeeded")
    assert met
    assert next(entry["weight"] for entry in status["history"] if entry["weight"]) == 50
    reasons = world.reasons()
    assert reasons.count("RolledBack" if bad else "Promoted") == 1


def test_a_conflict_on_the_status_of_a_rollback_does_not_lose_its_event() -> None:
    world = running()
    world.behaviour = failing(2, 0.9)
    met = conflict_once(world, "status CanaryRollout rollout RollingBack")
    world.run_to("RolledBack", within=60)
    assert met
    assert world.reasons().count("RolledBack") == 1


def test_the_progress_of_a_second_operator_is_not_overwritten() -> None:
    """One decides, the other's memory is a step behind: it follows, it does not lead back."""
    world = running()
    second = world.start_operator()
    world.run(10)
    first = world.operators.pop(0)
    world.run(300, lambda w: w.weight == 75)
    world.operators[:] = [first, second]
    for operator in world.operators:
        assert operator.cache.rollouts(("default", "digits"))
        operator.observe("CanaryRollout", world.objects["CanaryRollout", "rollout"], deleted=False)
        operator.observe(CONFIG_MAP, world.objects[TABLE], deleted=False)
    world.run_to("Succeeded")
    shares = [t.split[-1].weight for t in world.tables if t.split[-1].name == "canary"]
    assert shares == sorted(shares)


@pytest.mark.parametrize("bad", [False, True])
def test_two_operators_do_no_harm(bad: bool) -> None:
    world = two_versions(behaviour=failing(2, 0.9) if bad else failing(2, 0.0))
    world.start_operator()
    world.rollout(initialPercent=50, stepPercent=25)
    status = world.run_to("RolledBack" if bad else "Succeeded")
    weights = [entry["weight"] for entry in status["history"] if entry["weight"]]
    assert weights == ([50] if bad else [50, 75, 100, 100])
    assert world.reasons().count("TrafficWeightUpdated") == (1 if bad else 3)
    if not bad:
        # no step is cut short, and neither keeps the other from counting
        assert 60 <= world.attended[50] <= 120
        assert 60 <= world.attended[75] <= 120
    world.run(700)
    writes = len(world.writes)
    world.run(1000)
    assert len(world.writes) == writes


@pytest.mark.parametrize("relisted", [False, True])
def test_a_table_that_lost_its_label_is_found_again(relisted: bool) -> None:
    world = running()
    raw = world.objects[TABLE]
    stripped = {**raw["metadata"], "labels": {}, "resourceVersion": str(world._revision + 1)}
    world.objects[TABLE] = {**raw, "metadata": stripped}  # no watch tells of it
    world._revision += 1
    if relisted:
        for operator in world.operators:
            operator.cache.retain(CONFIG_MAP, set(), world._revision)
    world.run_to("Succeeded")
    assert world.table.revision > 1


def test_the_api_server_away_in_a_step() -> None:
    world = running()
    world.api_up = False
    world.run(120)
    world.api_up = True
    status = world.run_to("Succeeded")
    assert [entry["weight"] for entry in status["history"]] == [0, 50, 75, 100, 100]


def test_a_decision_to_go_back_outlives_everything_that_fails_after_it() -> None:
    world = running()
    world.behaviour = failing(2, 0.9)
    world.run(30, lambda w: (w.now + 1 - moment(("default", "digits"), 10.0)) % 10 < 1)
    world.api_up = False
    world.run(1)  # it decides, and cannot write it
    assert world.weight == 50
    world.prometheus_up = False
    world.run(30)
    world.api_up = True
    world.run_to("RolledBack", within=10)


def test_evidence_is_read_once_in_an_interval_whatever_else_wakes_the_model() -> None:
    world = running()
    asked = len(world.asked)
    begin = world.now
    for _ in range(40):
        world.store("ModelVersion", world.objects["ModelVersion", "digits-1"])
        world.tick()
    looks = world.asked[asked:]
    assert len(looks) == 4
    assert len({at % 10 for at in looks}) == 1
    assert world.now - begin == 40


def test_a_status_that_is_not_understood_returns_to_the_baseline() -> None:
    """As an operator would see it that is older than the one which wrote it."""
    world = running()
    raw = world.objects["CanaryRollout", "rollout"]
    world.store("CanaryRollout", raw, {**raw["status"], "phase": "Dancing"})
    world.run(5)
    assert world.weight == 0
    assert "InvalidSpec" in world.reasons()
    world.store("CanaryRollout", raw, raw["status"])
    world.run_to("Succeeded")


def test_fields_of_a_newer_operator_do_not_keep_this_one_writing() -> None:
    world = running()
    raw = world.objects["CanaryRollout", "rollout"]
    world.store("CanaryRollout", raw, {**raw["status"], "mood": "good"})
    world.run_to("Succeeded")
    world.run(700)
    writes = len(world.writes)
    world.run(600)
    assert len(world.writes) == writes


def test_a_status_wiped_by_a_restore_starts_anew() -> None:
    world = running()
    raw = world.objects["CanaryRollout", "rollout"]
    world.store("CanaryRollout", raw, {"observedGeneration": -1})
    status = world.run_to("Succeeded")
    assert [entry["weight"] for entry in status["history"] if entry["weight"]] == [
        50,
        75,
        100,
        100,
    ]


def other_model(world: Simulation) -> None:
    """A second model in the same pods; they do not know it yet."""
    selector = {"matchLabels": {"tidegate.dev/model": "digits"}}
    shares = {1: {"lifecycle": "Active", "trafficPercent": 100}, 2: {}}
    for version, spec in shares.items():
        named = {"model": "other", "version": version, "podSelector": selector, **spec}
        world.apply("ModelVersion", f"other-{version}", **named)


@pytest.mark.parametrize("first", ["digits", "other"])
def test_models_that_share_pods_take_turns(first: str) -> None:
    world = two_versions()
    other_model(world)
    world.run(3)
    names = {"digits": "rollout", "other": "next"}
    for model in sorted(names, key=lambda one: one != first):
        spec = {"analysis": {"interval": "10s"}, "canaryVersion": 2}
        world.apply("CanaryRollout", names[model], model=model, **spec)
    for _ in range(5):
        world.run(1)
        begun = [n for n in names.values() if world.status(n)["phase"] not in {"", "Waiting"}]
        assert len(begun) == 1, "not even in the same round do both start"
    (started,) = begun
    (waiting,) = set(names.values()) - {started}
    assert started in world.status(waiting)["message"]
    world.delete("CanaryRollout", started)
    world.run(2)
    assert world.status(waiting)["phase"] == "Gating"


def test_a_pod_that_never_answers_delays_its_own_model_only() -> None:
    world = two_versions()
    operator = world.operators[0]
    answering = operator._observer.pods
    released = asyncio.Event()

    class Hanging:
        async def ask(self, address: str) -> PodReport | None:
            if address == "10.9.9.9":
                await released.wait()
            return await answering.ask(address)

    operator._observer.pods = Hanging()
    spec = {"model": "other", "version": 1, "lifecycle": "Active", "trafficPercent": 100}
    world.apply("ModelVersion", "other-1", **spec)
    labels = {"tidegate.dev/model": "other"}
    ready = [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    meta = {**world._new("hung"), "labels": labels}
    status = {"phase": "Running", "podIP": "10.9.9.9", "conditions": ready}
    world.store("Pod", {"metadata": meta}, status)
    world.version(3)

    async def both() -> None:
        looks = list(operator._begin())
        done, hanging = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        assert done
        assert world.status("digits-3", "ModelVersion")["phase"]
        assert len(hanging) == 1
        released.set()
        await asyncio.gather(*hanging)

    _loop.run_until_complete(both())
    assert world.status("other-1", "ModelVersion")["phase"]


def test_a_version_that_never_loads_is_not_asked_for_all_the_time() -> None:
    world = two_versions(load_error={3: "no such file"})
    operator = world.operators[0]
    asked: list[float] = []
    answering = operator._observer.pods

    class Counted:
        async def ask(self, address: str) -> PodReport | None:
            asked.append(world.now)
            return await answering.ask(address)

    operator._observer.pods = Counted()
    world.version(3)
    world.run(30)
    soon = len(asked)
    world.run(600)
    assert soon >= 20
    assert len(asked) - soon <= 2 * (600 / 5 + 5)
    world.load_error.clear()
    world.run(10, lambda w: w.status("digits-3", "ModelVersion")["phase"] == "Ready")
    assert world.status("digits-3", "ModelVersion")["phase"] == "Ready"


def test_metrics_of_versions_are_written_once_a_minute_at_most() -> None:
    world = two_versions()
    world.run(100)
    writes = len(world.writes)
    for second in range(600):
        moved = LiveMetrics(requests_per_second=float(second))
        world.rates = Rates({("default", "digits"): {1: moved}})
        world.run(1)
    assert 5 <= len(world.writes) - writes <= 10


def test_no_reading_is_of_all_models_where_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "_FEW", 3)
    operator = running().operators[0]
    taken: list[int] = []

    async def noted(models: Collection[ModelKey], at: float, *_: float) -> Readings | Unreadable:
        taken.append(len(models))
        return Readings(at)

    operator.evidence.metrics.samples = noted
    operator._to_judge = {("default", f"m-{n}"): (Unread(0.0, 10.0), 0.0) for n in range(8)}
    _loop.run_until_complete(operator._judge())
    assert taken == [3, 3, 2]


def test_a_pod_without_samples_does_not_make_everybody_read_its_whole_past() -> None:
    world = running()
    metrics = world.operators[0].evidence.metrics
    read = metrics.samples
    spans: list[float] = []

    async def noted(
        models: Collection[ModelKey], at: float, span: float, silence: float
    ) -> Readings | Unreadable:
        spans.append(span)
        return await read(models, at, span, silence)

    metrics.samples = noted
    world.by_name["triton-1"].scraped = False
    world.run(600)
    assert len(spans) >= 50
    assert max(spans[-10:]) <= 60


def test_of_many_holds_at_once_some_are_told_later_and_bind_at_once() -> None:
    world = two_versions()
    world.rollout(initialPercent=50, stepPercent=50, stepDuration="1h")
    world.run_to("Progressing")
    world.run(320)
    world.operators[0]._writer._passing = Budget(0.0)
    told = world.history()
    world.prometheus_up = False
    away_since = world.now
    world.run_to("Holding", within=90)
    assert world.now - away_since > 20, "at once, it would have been after the next look"
    elapsed = world.status()["stepElapsed"]
    assert elapsed <= 330, "the hold counts for nothing"
    world.run(600)
    assert world.status()["stepElapsed"] == elapsed
    world.prometheus_up = True
    world.run_to("Succeeded")
    assert world.history()[: len(told)] == told


def test_a_hold_that_was_not_told_counts_for_nothing_after_a_restart() -> None:
    world = two_versions()
    world.rollout(initialPercent=50, stepPercent=50, stepDuration="1h")
    world.run_to("Progressing")
    world.run(320)
    world.operators[0]._writer._passing = Budget(0.0)
    world.prometheus_up = False
    world.run(40)
    assert world.status()["phase"] == "Progressing"
    world.kill()
    world.start_operator()
    world.prometheus_up = True
    world.run(70)
    assert world.status()["stepElapsed"] <= 320 + 80


def test_of_many_versions_at_once_some_say_nothing_before_they_are_ready() -> None:
    world = Simulation(load_time=8.0)
    world.operators[0]._writer._passing = Budget(0.0)
    world.version(1, lifecycle="Active", trafficPercent=100)
    world.version(2)
    world.run(30)
    told = [write for write in world.writes if "ModelVersion" in write]
    assert sorted(told) == [f"status ModelVersion digits-{number} Ready" for number in (1, 2)]
    assert world.reasons("digits-1") == ["VersionLoaded"]


def test_of_many_versions_each_tells_its_share_with_the_next_progress() -> None:
    world = two_versions()
    world.rollout(initialPercent=50, stepPercent=50, stepDuration="24h")
    world.run_to("Gating")
    world.operators[0]._writer._passing = Budget(0.0)
    world.run_to("Progressing")
    world.run(90)
    for name in ("digits-1", "digits-2"):
        assert world.status(name, "ModelVersion")["trafficPercent"] == 50


def test_what_is_wrong_with_a_version_is_said_while_it_loads() -> None:
    world = Simulation(load_time=math.inf)
    world.operators[0]._writer._passing = Budget(0.0)
    world.version(1, lifecycle="Active", trafficPercent=90)
    world.run(5)
    assert world.status("digits-1", "ModelVersion")["phase"] == "Loading"
    assert world.reasons("digits-1") == ["InvalidSpec"]


@pytest.mark.parametrize(("many", "expected"), [(500.0, 30), (1 / 9, 10)])
def test_where_there_are_many_progress_is_written_less_often(
    monkeypatch: pytest.MonkeyPatch, many: float, expected: int
) -> None:
    monkeypatch.setattr(reconciler, "_MANY", many)
    world = two_versions()
    world.rollout(initialPercent=50, stepPercent=50, stepDuration="24h")
    world.run_to("Progressing")
    world.run(100)
    writes = len(world.writes)
    world.run(1800)
    told = [one for one in world.writes[writes:] if one.startswith("status CanaryRollout")]
    assert abs(len(told) - expected) <= 1
