"""The loop: order of writes, conflicts, foreign writes, rest, many models, many operators."""

import pytest
from simulation import Simulation, failing, two_versions

from tidegate_operator.adapters.cluster import CONFIG_MAP, ConflictError

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
    world.run(100)
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
        assert operator.cache.raw("CanaryRollout", "default", "rollout") is not None
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
    world.run(60)
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
            operator.cache.replace(CONFIG_MAP, [], world._revision)
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
    world.run(30, lambda w: (w.now + 1) % 10 == 0)
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
    assert all(at % 10 == 0 for at in looks)
    assert world.now - begin == 40


def test_a_status_that_is_not_understood_returns_to_the_baseline() -> None:
    """As an operator would see it that is older than the one which wrote it."""
    world = running()
    raw = world.objects["CanaryRollout", "rollout"]
    world.store("CanaryRollout", raw, {**raw["status"], "phase": "WaitingPromotion"})
    world.run(5)
    assert world.weight == 0
    assert "InvalidSpec" in world.reasons()
    world.store("CanaryRollout", raw, raw["status"])
    world.run_to("Succeeded")


def test_fields_of_a_newer_operator_do_not_keep_this_one_writing() -> None:
    world = running()
    raw = world.objects["CanaryRollout", "rollout"]
    world.store("CanaryRollout", raw, {**raw["status"], "lastVerb": "promote"})
    world.run_to("Succeeded")
    world.run(60)
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
