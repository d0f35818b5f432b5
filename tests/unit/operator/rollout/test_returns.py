"""``rollbackWindow``: back at once to what was stable a while ago."""

from canaries import analysis, started, steps, weights, where
from simulation import Simulation, two_versions

MINUTE = 60.0


def promoted(**spec: object) -> Simulation:
    """Version 2 took over from version 1."""
    world = two_versions()
    world.rollout("forward", analysis=analysis(), **{**steps(50, 100), **spec})
    world.run_to("Succeeded", name="forward")
    return world.run(5)


def test_what_was_stable_within_the_window_gets_everything_at_once() -> None:
    world = promoted()
    world.run(5 * MINUTE)
    before = len(world.tables)
    world.rollout("back", canary=1)
    status = world.run_to("Succeeded", name="back", within=20)
    assert {arm.weight for table in world.tables[before:] for arm in table.split} == {10_000}
    assert [arm.version for arm in world.table.split] == [1]
    assert status["reason"] == "FastReturn"
    reasons = [entry["reason"] for entry in status["history"]]
    assert reasons[-2:] == ["FastReturn", "FastReturn"]
    told = [one.message for one in world.events if one.name == "back"]
    assert any("it was stable until 1970-" in one and "rollbackWindow" in one for one in told)
    assert world.condition("CanaryRollout", "back", "Promoted")["status"] == "True"


def test_what_was_stable_longer_ago_takes_its_steps() -> None:
    world = promoted()
    world.run(10 * MINUTE)
    world.rollout("back", canary=1, rollbackWindow="10m", analysis=analysis(), **steps(50, 100))
    world.run_to("Progressing", name="back")
    assert world.weight == 50


def test_a_window_of_nothing_is_never() -> None:
    world = promoted()
    world.rollout("back", canary=1, rollbackWindow="0s", analysis=analysis(), **steps(50, 100))
    world.run_to("Progressing", name="back")


def test_it_must_be_loaded_first() -> None:
    world = promoted(unloadDelay="1m")
    world.run(200)
    assert [row.version for row in world.table.versions] == [2]
    world.load_time = 30
    world.rollout("back", canary=1)
    world.run(10)
    assert where(world, "back") == ("Gating", "Loading")
    world.run_to("Succeeded", name="back", within=60)


def test_what_was_gone_back_from_is_not_gone_forward_to_without_steps() -> None:
    world = promoted()
    world.rollout("back", canary=1)
    world.run_to("Succeeded", name="back")
    world.rollout("again", canary=2, analysis=analysis(), **steps(50, 100))
    world.run_to("Progressing", name="again")
    assert world.weight == 50


def test_what_was_only_restored_is_no_proof_of_having_been_stable() -> None:
    world = two_versions()
    world.rollout("restored", canary=1, stableVersion=2)
    world.run_to("Succeeded", name="restored")
    assert world.status("restored")["reason"] == "AlreadyPromoted"
    world.rollout(canary=2, analysis=analysis(), **steps(50, 100))
    world.run_to("Progressing")
    assert world.weight == 50


def test_a_rollout_is_no_proof_for_itself() -> None:
    world = started()
    world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]


def test_a_rolled_back_one_was_never_stable() -> None:
    world = started()
    world.behaviour = lambda v, _now: (0.9 if v == 2 else 0.0, 0.0)
    world.run_to("RolledBack")
    world.behaviour = lambda _v, _now: (0.0, 0.0)
    world.rollout("again", canary=2, analysis=analysis(), **steps(50, 100))
    world.run_to("Progressing", name="again")
    assert world.weight == 50
