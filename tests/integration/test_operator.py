"""The operator as a process with the chart's rights, on a real API server and Prometheus."""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from operator_world import World, install, observed, until

from tidegate_contract import names
from tidegate_contract.acknowledgement import BatchLive, Tensor
from tidegate_tools.controlplane import ControlPlane


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One operator for all tests here: each has a model of its own."""
    install(control_plane)
    with (
        observed(control_plane, tmp_path_factory.mktemp("observed")) as (prometheus, targets),
        World(control_plane, prometheus, targets, "calm") as made,
    ):
        made.operator.start()
        yield made


def columns(world: World, *arguments: str) -> dict[str, str]:
    """The one row of a `kubectl get`, by column."""
    head, row = world.kubectl("get", *arguments).splitlines()
    starts = [i for i, c in enumerate(head) if c != " " and (i == 0 or head[i - 1] == " ")]
    ends = [*starts[1:], None]
    return {head[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def conditions(status: dict[str, object]) -> dict[str, str]:
    found = status["conditions"]
    assert isinstance(found, list)
    return {one["type"]: one["status"] for one in found}


def test_a_good_version_is_promoted_as_people_see_it(world: World) -> None:
    world.versions("good", 2)
    world.rollout("to-2", "good")
    world.kubectl("wait", "--for=condition=Promoted", "cro/to-2", "--timeout=60s")
    status = world.status("to-2")
    assert (status["phase"], status["reason"], status["stableVersion"]) == (
        "Succeeded",
        "Promoted",
        1,
    )
    assert world.weights("to-2") == [0, 50, 75, 100]
    assert conditions(status) == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Progressing": "False",
        "Paused": "False",
        "Promoted": "True",
    }
    world.await_reasons(
        "to-2",
        *("VersionLoaded", "TrafficWeightUpdated", "StepCompleted"),
        *("TrafficWeightUpdated", "StepCompleted", "TrafficWeightUpdated", "Promoted"),
    )
    row = columns(world, "cro", "to-2", "-o", "wide")
    shown = [
        row[name] for name in ("MODEL", "PHASE", "STEP", "WEIGHT", "STABLE", "CANARY", "ACKED")
    ]
    assert shown == ["good", "Succeeded", "3/3", "100%", "1", "2", "2/2"]
    assert row["MESSAGE"].startswith("Version 2 has all the traffic of good")
    table = world.await_table("good", lambda table: table.owner is None)
    assert [(arm.version, arm.weight) for arm in table.split] == [(2, 10_000)]
    assert [(one.version, one.weight) for one in table.baseline] == [(2, 10_000)]
    until(
        lambda: world.condition("modelversions", "good-1", "SpecBehind")["status"] == "True",
        "version 1 behind its spec",
    )


def test_a_bad_version_is_rolled_back_and_then_nothing_more_is_written(world: World) -> None:
    world.versions("bad", 2)
    world.model("bad").errors[2] = 0.5
    world.rollout("to-bad", "bad")
    status = world.await_phase("to-bad", "RolledBack")
    assert "canary requests failed" in status["message"]
    assert conditions(status)["Stalled"] == "True"
    assert conditions(status)["Promoted"] == "False"
    assert world.weights("to-bad") == [0, 50, 0]
    assert [arm.version for arm in world.table("bad").split] == [1]
    world.await_reasons("to-bad", "VersionLoaded", "TrafficWeightUpdated", "RolledBack")
    (event,) = [one for one in world.events("to-bad") if one["reason"] == "RolledBack"]
    assert event["type"] == "Warning"
    until(lambda: _quiet(world), "some seconds without a write")


def _quiet(world: World) -> bool:
    before = _revisions(world)
    time.sleep(4)
    return _revisions(world) == before


def _revisions(world: World) -> dict[str, str]:
    listed = world.kubectl("get", "cro,mver,bpol,cm", "-o", "json")
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for one in json.loads(listed)["items"]
    }


def test_an_incompatible_version_is_refused_before_any_weight(world: World) -> None:
    world.model("shape").tensors[4] = [Tensor(name="INPUT", datatype="FP32", shape=[8, 8])]
    world.versions("shape", 4)
    world.rollout("to-4", "shape", canary=4)
    status = world.await_phase("to-4", "Failed")
    assert status["reason"] == "Incompatible"
    assert "input INPUT is FP32[8,8], not FP32[64]; no traffic was moved" in status["message"]
    assert world.weights("to-4") == [0]
    world.await_reasons("to-4", "Incompatible")
    assert world.condition("modelversions", "shape-4", "Compatible")["status"] == "False"


def test_a_version_that_is_not_on_disk(world: World) -> None:
    world.model("missing").load_error[2] = "no such version directory"
    world.versions("missing", 2)
    world.rollout("to-missing", "missing", gatingDeadline="5s")
    status = world.await_phase("to-missing", "Failed")
    assert status["reason"] == "GatingDeadlineExceeded"
    assert "no such version directory" in status["message"]
    version = world.await_phase("missing-2", "Failed", plural="modelversions")
    assert "it tries again" in version["message"]
    world.await_reasons("missing-2", "VersionLoadFailed")
    assert world.weights("to-missing") == [0]


def test_the_second_rollout_of_a_model_waits_for_the_first(world: World) -> None:
    world.versions("shared", 2, 3)
    world.rollout("first", "shared", canary=2)
    world.await_phase("first", "Gating", "Progressing")
    world.rollout("second", "shared", canary=3, stableVersion=None)
    status = world.await_phase("second", "Waiting")
    assert "Waits for CanaryRollout first, which owns the traffic of shared" in status["message"]
    world.await_reasons("second", "WaitingForOwner")
    world.await_phase("second", "Succeeded")
    assert world.status("first")["phase"] == "Succeeded"
    assert world.status("second")["stableVersion"] == 2


def test_a_deleted_table_comes_back_above_what_pods_apply(world: World) -> None:
    world.versions("deleted", 2)
    world.await_phase("deleted-2", "Ready", plural="modelversions")
    before = world.table("deleted").revision
    uid = world.config_map("deleted")["metadata"]["uid"]
    world.kubectl("delete", "configmap", names.routing_table_name("deleted"))
    fresh = until(
        lambda: _config_map_or_none(world, "deleted", uid), "the table after its deletion"
    )
    assert world.table("deleted").revision > before
    assert fresh["metadata"]["annotations"] == {names.ANNOTATION_RELOADER_IGNORE: "true"}


def _config_map_or_none(world: World, model: str, old_uid: str) -> dict[str, object] | None:
    name = names.routing_table_name(model)
    found = json.loads(
        world.kubectl("get", "cm", "-o", "json", "--field-selector", f"metadata.name={name}")
    )
    for one in found["items"]:
        if one["metadata"]["uid"] != old_uid:
            return dict(one)
    return None


def test_a_hand_edited_table_is_repaired(world: World) -> None:
    world.versions("edited", 2)
    world.await_phase("edited-2", "Ready", plural="modelversions")
    before = world.table("edited")
    name = names.routing_table_name("edited")
    text = world.config_map("edited")["data"][names.TABLE_KEY].replace("10000", "9000")
    world.kubectl(
        "patch", "cm", name, "--type=merge", "-p", json.dumps({"data": {names.TABLE_KEY: text}})
    )
    until(lambda: "TableRepaired" in world.reasons(name), "an event")
    after = world.table("edited")
    assert after.revision > before.revision
    assert after.split == before.split


def test_a_table_whose_label_was_taken_away_goes_on(world: World) -> None:
    world.versions("bare", 2)
    world.await_phase("bare-2", "Ready", plural="modelversions")
    name = names.routing_table_name("bare")
    world.kubectl("label", "cm", name, f"{names.LABEL_MODEL}-")
    world.rollout("to-bare", "bare")
    world.await_phase("to-bare", "Succeeded")
    assert world.config_map("bare")["metadata"]["labels"][names.LABEL_MODEL] == "bare"


@pytest.mark.parametrize("phase", ["Gating", "Progressing"])
def test_a_deleted_rollout_returns_to_the_baseline(world: World, phase: str) -> None:
    model = f"leaving-{phase.lower()}"
    if phase == "Gating":
        world.model(model).load_error[2] = "no"
    world.versions(model, 2)
    world.rollout(model, model, stepDuration="1h")
    world.await_phase(model, phase)
    world.kubectl("delete", "cro", model)
    table = world.await_table(model, lambda table: table.owner is None)
    assert [(arm.name, arm.version) for arm in table.split] == [("stable", 1)]


def test_a_batch_policy_is_applied_hot_and_a_second_one_waits(world: World) -> None:
    world.versions("batched", 2)
    world.rollout("to-batched", "batched", stepDuration="1h")
    world.await_weight("batched", 50)
    split = world.table("batched").split_revision
    world.apply("BatchPolicy", "older", models=["batched"], maxBatchSize=8, maxWait="3ms")
    status = world.await_phase("older", "Applied", plural="batchpolicies")
    assert (status["appliedPods"], status["totalPods"]) == (2, 2)
    table = world.table("batched")
    assert (table.batch.max_batch_size, table.batch.max_wait) == (8, 0.003)
    assert table.split_revision == split
    time.sleep(1.1)  # creation times are whole seconds, and equal ones are settled by uid
    world.apply("BatchPolicy", "younger", models=["batched"], maxBatchSize=2)
    status = world.await_phase("younger", "Waiting", plural="batchpolicies")
    assert "batched by older" in status["message"]
    world.await_reasons("younger", "WaitingForOwner")
    world.kubectl("delete", "bpol", "older")
    world.await_phase("younger", "Applied", plural="batchpolicies")
    assert world.table("batched").batch.max_batch_size == 2
    world.await_reasons("older", "PolicyApplied")
    assert world.status("to-batched")["phase"] == "Progressing"
    world.kubectl("delete", "cro", "to-batched")


def test_a_policy_that_cannot_be_met_is_applied_and_says_what_is_so(world: World) -> None:
    world.versions("policed")
    world.model("policed").batching = BatchLive(
        strategy="Adaptive",
        batch_size=12.0,
        fixed_seconds=0.004,
        seconds_per_row=0.0002,
        queue_length=20,
        dropped=3,
        p99=0.0314,
        notes=["strategy learned is not installed here; Adaptive decides"],
    )
    spec = {"strategy": "learned", "targetLatency": "3ms", "maxBatchSize": 32}
    world.apply("BatchPolicy", "wishful", models=["policed"], memoryLimit="1.5Gi", **spec)
    status = world.await_phase("wishful", "Degraded", plural="batchpolicies")
    assert "Adaptive runs for policed in place of learned" in status["message"]
    assert (
        "targetLatency 3ms cannot be met: a batch of 1 of policed takes 4.2ms" in status["message"]
    )
    assert {"Ready": "False", "Stalled": "True", "TargetMet": "False"}.items() <= conditions(
        status
    ).items()
    row = columns(world, "bpol", "wishful")
    assert {**row, "AGE": ""} == {
        "NAME": "wishful",
        "MODELS": "policed",
        "STRATEGY": "Adaptive",
        "BATCH": "12/32",
        "APPLIED": "2/2",
        "P99": "31.4ms",
        "AGE": "",
    }
    world.await_reasons("wishful", "PolicyApplied", "InvalidSpec", "InvalidSpec")
    batch = world.table("policed").batch
    assert (batch.strategy, batch.target_latency, batch.max_wait) == ("learned", 0.003, 0.0015)
    assert batch.memory_limit == 3 * 2**29
    assert status["revision"] == world.table("policed").revision
    world.apply("BatchPolicy", "wishful", models=["policed"], targetLatency="50ms")
    until(
        lambda: (
            conditions(world.status("wishful", plural="batchpolicies")).get("TargetMet") == "True"
        ),
        "the new target is met",
    )
    assert world.status("wishful", plural="batchpolicies")["phase"] == "Applied"


def test_versions_that_select_other_pods_change_nothing(world: World) -> None:
    world.versions("selected", 2)
    world.await_phase("selected-2", "Ready", plural="modelversions")
    revision = world.table("selected").revision
    world.apply("ModelVersion", "selected-3", model="selected", version=3)
    world.rollout("to-selected", "selected", canary=3)
    status = world.await_phase("to-selected", "Pending")
    assert status["reason"] == "SelectorMismatch"
    until(lambda: "InvalidSpec" in world.reasons("selected-3"), "an event")
    condition = world.condition("modelversions", "selected-3", "SelectorMatches")
    assert (condition["status"], condition["reason"]) == ("False", "SelectorMismatch")
    assert world.table("selected").revision == revision


def test_a_split_that_does_not_add_up_says_so_and_moves_nothing(world: World) -> None:
    world.versions("split", 2)
    world.await_phase("split-2", "Ready", plural="modelversions")
    world.kubectl(
        "patch",
        "mver",
        "split-2",
        "--type=merge",
        "-p",
        json.dumps({"spec": {"lifecycle": "Active", "trafficPercent": 30}}),
    )
    until(lambda: "InvalidSpec" in world.reasons("split-2"), "an event")
    condition = world.condition("modelversions", "split-2", "TrafficSplitValid")
    assert "must add up to 100, not 130" in condition["message"]
    assert [arm.weight for arm in world.table("split").split] == [10_000]


def test_a_version_deleted_while_it_has_the_traffic_keeps_it(world: World) -> None:
    world.versions("orphan", 2)
    world.await_phase("orphan-2", "Ready", plural="modelversions")
    world.kubectl("delete", "mver", "orphan-1")
    until(lambda: "InvalidSpec" in world.reasons("orphan-1"), "an event")
    assert "serves on until" in world.events("orphan-1")[-1]["message"]
    assert [arm.version for arm in world.table("orphan").split] == [1]


def test_no_such_pods(world: World) -> None:
    selector = {"matchLabels": {"app": "nowhere"}}
    spec = {"model": "nowhere", "version": 1, "lifecycle": "Active", "podSelector": selector}
    world.apply("ModelVersion", "nowhere-1", **spec)
    status = world.await_phase("nowhere-1", "Pending", plural="modelversions")
    assert "No pod matches app=nowhere" in status["message"]
    until(lambda: "InvalidSpec" in world.reasons("nowhere-1"), "an event")


def test_nothing_is_current_before_the_operator_looked(world: World) -> None:
    """A controller that is not there yet must not look like one that is content."""
    world.operator.kill()
    try:
        world.versions("early", 2)
        assert world.status("early-1", "modelversions") == {"observedGeneration": -1}
        with pytest.raises(subprocess.CalledProcessError):
            world.kubectl("wait", "--for=condition=Ready", "mver/early-1", "--timeout=1s")
    finally:
        told = {name: world.reasons(name) for name in ("to-2", "to-bad", "to-4")}
        world.operator.start()
    world.kubectl("wait", "--for=condition=Ready", "mver/early-1", "--timeout=60s")
    assert {name: world.reasons(name) for name in told} == told, "nothing is told again"


def test_it_ends_when_it_is_told_to(world: World) -> None:
    until(lambda: world.operator.healthy, "a sign of health")
    assert world.operator.process.stop(grace=60.0) == 0
    assert "Traceback" not in world.operator.log.read_text()
    world.operator.start()
