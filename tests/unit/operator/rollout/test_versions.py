"""ModelVersion statuses: where a version is loaded, what it serves, what is wrong."""

from canaries import started
from simulation import Simulation, two_versions

from tidegate_operator.adapters.metrics import Rates
from tidegate_operator.rollout.observation import LiveMetrics


def test_it_serves() -> None:
    world = two_versions()
    status = world.status("digits-1", "ModelVersion")
    assert (status["phase"], status["message"]) == ("Ready", "Serving")
    assert status["trafficPercent"] == 100
    assert status["pods"] == {"ready": 2, "total": 2}
    assert status["inputs"] == [
        {"name": "INPUT", "datatype": "FP32", "shape": [64], "optional": False}
    ]
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Loaded": "True",
        "Compatible": "True",
        "TrafficSplitValid": "True",
        "SelectorMatches": "True",
        "SpecBehind": "False",
    }


def test_its_traffic_is_what_is_live() -> None:
    world = two_versions()
    world.rollout(initialPercent=20)
    world.run_to("Progressing")
    world.run(5)
    assert world.status("digits-1", "ModelVersion")["trafficPercent"] == 80
    assert world.status("digits-2", "ModelVersion")["display"]["traffic"] == "20%"
    assert world.status("digits-2", "ModelVersion")["message"] == "Serving"


def test_it_loads_in_turns_then_is_told_once() -> None:
    world = two_versions(pods=4)
    world.load_time = 5
    world.version(3)
    seen = set()
    for _ in range(60):
        world.tick()
        status = world.status("digits-3", "ModelVersion")
        if status.get("phase"):
            seen.add((status["phase"], status["pods"]["ready"]))
    assert seen == {("Loading", n) for n in range(4)} | {("Ready", 4)}
    assert world.reasons("digits-3") == ["VersionLoaded"]


def test_it_says_what_it_waits_for() -> None:
    world = two_versions()
    world.load_time = 1000
    world.load_waits[3] = "it waits for memory: the GPU's memory is 93% used"
    world.version(3)
    world.run(5)
    status = world.status("digits-3", "ModelVersion")
    assert status["phase"] == "Loading"
    assert status["message"] == (
        "0 of 2 pods have version 3 ready; pod triton-0: "
        "it waits for memory: the GPU's memory is 93% used"
    )


def test_it_is_degraded_where_a_pod_is_gone() -> None:
    world = two_versions()
    world.set_ready("triton-1", ready=False)
    world.run(5)
    status = world.status("digits-2", "ModelVersion")
    assert (status["phase"], status["message"]) == (
        "Degraded",
        "1 of 2 pods have version 2 ready",
    )


def test_inactive_is_unloaded() -> None:
    world = two_versions()
    world.version(2, lifecycle="Inactive")
    world.run(5)
    assert [row.version for row in world.table.versions] == [1]
    status = world.status("digits-2", "ModelVersion")
    assert (status["phase"], status["trafficPercent"]) == ("Unloaded", 0)


def test_before_there_is_a_baseline() -> None:
    world = Simulation()
    world.version(1)
    world.run(5)
    status = world.status("digits-1", "ModelVersion")
    assert status["phase"] == "Pending"
    assert "No version of digits has the traffic yet" in status["message"]


def test_two_objects_for_one_version_do_not_shake_it() -> None:
    world = two_versions()
    world.apply("ModelVersion", "twin", model="digits", version=1, lifecycle="Testing")
    world.run(40)
    assert [arm.version for arm in world.table.split] == [1]
    writes = len(world.writes)
    world.run(100)
    assert len(world.writes) == writes


def test_a_deprecated_version_serves_on_and_warns_once() -> None:
    world = two_versions()
    world.version(1, lifecycle="Deprecated", trafficPercent=100)
    world.run(40)
    status = world.status("digits-1", "ModelVersion")
    assert (status["phase"], status["trafficPercent"]) == ("Ready", 100)
    assert status["message"] == (
        "Deprecated: serves what it has and takes no new rollout; move off it"
    )
    told = [one for one in world.events if one.reason == "Deprecated"]
    assert [one.message for one in told] == [status["message"]]


def test_a_deprecated_version_without_traffic_warns_of_nothing() -> None:
    world = two_versions()
    world.version(2, lifecycle="Deprecated")
    world.run(40)
    assert "Deprecated" not in world.reasons("digits-2")


def test_a_promoted_version_is_active_whatever_its_spec_says() -> None:
    world = two_versions()
    world.rollout(initialPercent=50, stepPercent=50)
    world.run_to("Succeeded")
    world.run(5)
    assert world.status("digits-2", "ModelVersion")["lifecycle"] == "Active"
    behind = world.condition("ModelVersion", "digits-2", "SpecBehind")
    assert behind["status"] == "True"
    assert behind["message"] == (
        "live 100%, spec 0%: a rollout moved it; the live split holds until trafficPercent or "
        "lifecycle is edited"
    )


def live(requests: float, errors: float = 0.0) -> dict[int, LiveMetrics]:
    quantiles = {"p50": 0.01, "p95": 0.02, "p99": 0.03}
    return {1: LiveMetrics(requests_per_second=requests, error_rate=errors, **quantiles)}


def test_what_is_set_inactive_while_it_has_the_traffic_serves_on_and_warns_once() -> None:
    world = started()
    world.run_to("Succeeded")
    world.version(2, lifecycle="Inactive")
    world.run(60)
    assert [arm.version for arm in world.table.split] == [2]
    status = world.status("digits-2", "ModelVersion")
    assert (status["phase"], status["lifecycle"]) == ("Ready", "Active")
    told = (
        "Inactive, but it has 100% of the traffic: it stays loaded and serves on until other "
        "versions ask for that"
    )
    assert status["message"] == told
    warned = [one for one in world.events if one.name == "digits-2" and one.type == "Warning"]
    assert [(one.reason, one.message) for one in warned] == [("InvalidSpec", told)]
    world.version(1, lifecycle="Active", trafficPercent=50)
    world.version(3, lifecycle="Active", trafficPercent=50)
    world.run(60)
    assert world.status("digits-2", "ModelVersion")["phase"] == "Unloaded"


def test_live_figures_are_shown_and_written_when_they_have_moved() -> None:
    world = two_versions()
    world.rates = Rates(live={("default", "digits"): live(100.0, 0.004)})
    world.run(130)
    status = world.status("digits-1", "ModelVersion")
    assert status["metrics"] == {
        "requestsPerSecond": 100.0,
        "errorRate": 0.004,
        "p50": 0.01,
        "p95": 0.02,
        "p99": 0.03,
    }
    assert status["display"]["requests"] == "100/s"
    assert (status["display"]["errors"], status["display"]["p95"]) == ("0.40%", "20ms")
    writes = len(world.writes)
    world.rates = Rates(live={("default", "digits"): live(120.0, 0.004)})
    world.run(130)
    assert len(world.writes) == writes, "a fifth is breathing"
    world.rates = Rates(live={("default", "digits"): live(200.0, 0.004)})
    world.run(130)
    assert world.status("digits-1", "ModelVersion")["metrics"]["requestsPerSecond"] == 200.0


def test_figures_of_long_ago_do_not_pass_for_those_of_now() -> None:
    world = two_versions()
    figures = {("default", "digits"): live(100.0, 0.004)}
    world.rates = Rates(live=figures)
    world.run(130)
    world.prometheus_up = False
    world.run(100)
    assert shown(world), "an outage may be short"
    world.kill()
    world.run(100)
    assert shown(world), "it may be about to answer"
    world.run(200)
    assert not shown(world)
    world.prometheus_up = True
    world.run(130)
    assert shown(world)
    world.rates = Rates()
    world.run(130)
    assert not shown(world), "nothing is known of it any more"


def shown(world: Simulation) -> bool:
    """Whether a version's figures are shown, in all places."""
    status = world.status("digits-1", "ModelVersion")
    places = [bool(status.get("metrics"))]
    places += [name in status["display"] for name in ("requests", "errors", "p95")]
    assert len(set(places)) == 1
    return places[0]
