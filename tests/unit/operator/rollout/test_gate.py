"""Before any weight: every obstacle has its name, and nothing moves while it stands."""

from typing import Any

import pytest
from simulation import TENSOR, Simulation, two_versions

from tidegate_contract.acknowledgement import Tensor, VersionState
from tidegate_operator.rollout.gate import differences


def gated(world: Simulation, **spec: Any) -> dict[str, Any]:
    """What a rollout to version 3 says after a while; no traffic has moved."""
    world.rollout(canary=3, **spec)
    world.run(20)
    assert world.weight == 0
    assert [arm.version for arm in world.table.split] == [1]
    return world.status()


def test_an_undeclared_version() -> None:
    world = two_versions()
    status = gated(world)
    assert (status["phase"], status["reason"]) == ("Pending", "VersionNotDeclared")
    assert status["message"] == "No ModelVersion declares version 3 of digits; apply one"
    world.version(3)
    world.run_to("Progressing", within=5)


def test_an_undeclared_stable_version() -> None:
    world = two_versions()
    world.rollout(canary=2, stableVersion=3)
    world.run(5)
    assert world.status()["reason"] == "VersionNotDeclared"
    assert world.status()["message"] == "No ModelVersion declares version 3 of digits; apply one"


@pytest.mark.parametrize("lifecycle", ["Inactive", "Deprecated"])
def test_a_version_that_may_not_have_traffic(lifecycle: str) -> None:
    world = two_versions()
    world.version(3, lifecycle=lifecycle)
    status = gated(world)
    assert (status["phase"], status["reason"]) == ("Pending", "VersionNotEligible")
    assert f"Version 3 is {lifecycle}" in status["message"]


def test_no_baseline() -> None:
    world = Simulation()
    world.version(1)
    world.version(3)
    world.rollout(canary=3)
    world.run(5)
    assert world.status()["reason"] == "NoBaseline"
    assert "must add up to 100" in world.status()["message"]


def test_no_pods() -> None:
    world = two_versions()
    for name in list(world.by_name):
        world.remove_pod(name)
    world.version(3)
    status = gated(world)
    assert (status["phase"], status["reason"]) == ("Gating", "NoReadyPods")
    assert status["message"] == (
        "No pod matches tidegate.dev/model=digits; deploy Triton with the sidecar, or mend "
        "podSelector"
    )
    condition = world.condition("ModelVersion", "digits-1", "SelectorMatches")
    assert (condition["status"], condition["reason"]) == ("False", "NoPods")
    assert "InvalidSpec" in world.reasons("digits-1")


def test_a_version_that_does_not_load() -> None:
    world = two_versions()
    world.load_error[3] = "no such file"
    world.version(3)
    status = gated(world, gatingDeadline="1m")
    assert (status["phase"], status["reason"]) == ("Gating", "VersionLoadFailed")
    assert "Pod triton-0 cannot load version 3: no such file" in status["message"]
    assert [row.pods for row in world.table.versions if row.version == 3] == [
        [world.by_name["triton-0"].uid]
    ]
    version = world.status("digits-3", "ModelVersion")
    assert version["phase"] == "Failed"
    assert world.condition("ModelVersion", "digits-3", "Loaded")["reason"] == "LoadFailed"
    assert world.condition("ModelVersion", "digits-3", "Compatible")["status"] == "Unknown"
    assert world.reasons("digits-3") == ["VersionLoadFailed"]
    status = world.run_to("Failed", within=60)
    assert status["reason"] == "GatingDeadlineExceeded"
    assert "Not ready within 1m, no traffic was moved: Pod triton-0" in status["message"]
    assert world.reasons().count("VersionLoadFailed") == 2
    conditions = {one["type"]: one["status"] for one in status["conditions"]}
    assert (conditions["Stalled"], conditions["Promoted"]) == ("True", "False")


def test_a_version_that_loads_at_last_goes_on() -> None:
    world = two_versions()
    world.load_error[3] = "no such file"
    world.version(3)
    gated(world)
    world.load_error.clear()
    world.run_to("Progressing", within=5)
    assert world.run(5).status("digits-3", "ModelVersion")["phase"] == "Ready"


@pytest.mark.parametrize("how", ["deleted", "Inactive"])
def test_a_version_that_goes_while_it_is_being_loaded(how: str) -> None:
    world = two_versions(load_time=60)
    world.run(60)
    world.version(3)
    world.rollout(canary=3, gatingDeadline="5m")
    world.run(10)
    assert world.status()["phase"] == "Gating"
    if how == "deleted":
        world.delete("ModelVersion", "digits-3")
    else:
        world.version(3, lifecycle="Inactive")
    world.run(5)
    expected = "VersionNotDeclared" if how == "deleted" else "VersionNotEligible"
    assert (world.status()["phase"], world.status()["reason"]) == ("Gating", expected)
    world.run_to("Failed", within=300)


def test_an_incompatible_version_is_refused_before_any_weight() -> None:
    world = two_versions()
    world.tensors[3] = [Tensor(name="INPUT", datatype="FP32", shape=[8, 8])]
    world.version(3)
    status = gated(world)
    assert (status["phase"], status["reason"]) == ("Failed", "Incompatible")
    assert "input INPUT is FP32[8,8], not FP32[64]; no traffic was moved" in status["message"]
    assert "Incompatible" in world.reasons()
    assert world.condition("ModelVersion", "digits-3", "Compatible")["status"] == "False"


def test_compatibility_ignore_lets_it_through() -> None:
    world = two_versions()
    world.tensors[3] = [Tensor(name="OTHER", datatype="INT8", shape=[])]
    world.version(3, compatibility="Ignore")
    world.rollout(canary=3)
    world.run_to("Progressing", within=10)


def test_a_selector_that_differs_changes_nothing_and_says_so() -> None:
    world = two_versions()
    revision = world.table.revision
    world.version(3, podSelector={"matchLabels": {"app": "other"}})
    status = gated(world)
    assert (status["phase"], status["reason"]) == ("Pending", "SelectorMismatch")
    assert "digits-3: app=other" in status["message"]
    assert world.table.revision == revision
    condition = world.condition("ModelVersion", "digits-3", "SelectorMatches")
    assert (condition["status"], condition["reason"]) == ("False", "SelectorMismatch")
    world.version(3)
    world.run_to("Progressing", within=5)


def test_a_selector_that_differs_does_not_shield_a_bad_canary() -> None:
    world = two_versions()
    world.rollout(initialPercent=50)
    world.run_to("Progressing")
    world.run(20)
    world.version(3, podSelector={"matchLabels": {"app": "other"}})
    world.run(5)
    world.behaviour = lambda v, _now: (0.9 if v == 2 else 0.0, 0.0)
    world.run_to("RolledBack", within=60)


def test_edited_selectors_wait_until_nobody_owns_the_model() -> None:
    world = two_versions()
    world.rollout(initialPercent=50)
    world.run_to("Progressing")
    world.run(5)
    elsewhere = {"matchLabels": {"app": "other"}}
    world.version(1, lifecycle="Active", trafficPercent=100, podSelector=elsewhere)
    world.version(2, podSelector=elsewhere)
    world.run(5)
    assert world.status()["phase"] == "Progressing"
    condition = world.condition("ModelVersion", "digits-1", "SelectorMatches")
    assert (condition["status"], condition["reason"]) == ("True", "EditWaits")
    assert condition["message"].startswith("the traffic is split in the pods of tidegate.dev/model")
    world.kill()
    world.run_to("Succeeded")
    assert world.status("digits-1", "ModelVersion")["pods"]["total"] == 2
    world.run(60)
    condition = world.condition("ModelVersion", "digits-1", "SelectorMatches")
    assert (condition["status"], condition["reason"]) == ("False", "NoPods")
    assert "app=other" in condition["message"]


X, Y = TENSOR, Tensor(name="Y", datatype="INT64", shape=[-1, 3])


@pytest.mark.parametrize(
    ("old", "new", "report"),
    [
        ([X], [X], ""),
        ([X, Y], [Y, X], ""),
        ([X, Y], [X], "input Y is missing"),
        ([X], [X, Y], "input Y is new"),
        (
            [Y],
            [Tensor(name="Y", datatype="INT64", shape=[3])],
            "input Y is INT64[3], not INT64[-1,3]",
        ),
        ([X], [Y], "input INPUT is missing; input Y is new"),
    ],
)
def test_differences(old: list[Tensor], new: list[Tensor], report: str) -> None:
    stable, canary = (VersionState(state="Ready", inputs=one) for one in (old, new))
    assert differences(stable, canary) == report


def test_differences_of_outputs() -> None:
    stable = VersionState(state="Ready", outputs=[X])
    canary = VersionState(
        state="Ready", outputs=[Tensor(name="INPUT", datatype="FP16", shape=[64])]
    )
    assert differences(stable, canary) == "output INPUT is FP16[64], not FP32[64]"
