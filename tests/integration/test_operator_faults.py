"""What happens to a rollout when the operator, Prometheus or the API server dies on the way.

Each test has a namespace and an operator of its own, so that those that kill or hinder nothing but
their own go on side by side. Whatever dies, and between whichever two writes: no step is skipped,
doubled or shortened, and no rollback is undone.
"""

import copy
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from abreast import Begun, Case, abreast, ended, let_go, under_way
from killing_proxy import Body, Doom, KillingProxy
from operator_world import GROUP, ROOT, World, install, observed, until, weight

from tidegate_contract import names
from tidegate_operator.__main__ import CRD_SCHEMA
from tidegate_operator.adapters.cluster import CRD_SCHEMA_ANNOTATION
from tidegate_operator.api.quantity import epoch
from tidegate_tools.api import ApiError
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.pods import ScrapeTargets
from tidegate_tools.prometheus import Prometheus

pytestmark = pytest.mark.timeout(900)
"""The first test waits until the cases of all others have ended."""
STEP_SECONDS = 2.0
UNSEEN = {"observedGeneration": -1}
"""Status of what no operator has looked at."""
WAITS = "CRDs older than this operator: canaryrollouts.tidegate.dev"


@pytest.fixture(scope="module")
def parts(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ControlPlane, Prometheus, ScrapeTargets]]:
    install(control_plane)
    with observed(control_plane, tmp_path_factory.mktemp("faults")) as (prometheus, targets):
        yield control_plane, prometheus, targets


@pytest.fixture(scope="module")
def begun(
    parts: tuple[ControlPlane, Prometheus, ScrapeTargets], request: pytest.FixtureRequest
) -> Iterator[Begun]:
    def carry_out(case: Case, parameters: dict[str, Any]) -> None:
        with (
            World(*parts, name="faults") as world,
            KillingProxy(world.plane, world.kubeconfig) as proxy,
        ):
            proxy.kill = world.operator.kill
            world.versions("digits", 2)
            let_go(case, parameters, world=world, proxy=proxy)

    with under_way(request, carry_out) as made:
        yield made


@pytest.fixture
def world(parts: tuple[ControlPlane, Prometheus, ScrapeTargets], begun: Begun) -> Iterator[World]:
    """While nothing else goes on: what all share may die."""
    ended(begun)
    with World(*parts, name="faults") as made:
        made.versions("digits", 2)
        yield made


def test_one_newer_than_its_crds_waits_for_them_and_goes_on(world: World) -> None:
    crd = yaml.safe_load((ROOT / "crds" / "canaryrollout.yaml").read_text())
    older = copy.deepcopy(crd)
    older["metadata"]["annotations"][CRD_SCHEMA_ANNOTATION] = str(CRD_SCHEMA - 1)
    spec = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["rollbackWindow"]
    forced = ("apply", "--server-side", "--force-conflicts", "--filename=-")
    world.kubectl(*forced, stdin=json.dumps(older))
    try:
        until(lambda: cut(world, rollbackWindow="1h"), "the older schema cuts what it knows not")
        world.operator.start()
        until(lambda: WAITS in world.operator.log.read_text(), "the operator says why it waits")
        assert world.operator.healthy
        assert world.status("cut") == world.status("digits-1", "modelversions") == UNSEEN
        with pytest.raises(ApiError, match="404"):
            world.table("digits")
    finally:
        world.kubectl(*forced, stdin=json.dumps(crd))
    until(lambda: not cut(world, rollbackWindow="1h"), "the schema knows it again")
    world.await_table("digits", lambda table: table.baseline)


def cut(world: World, **fields: str) -> bool:
    """Whether fields of a rollout are lost when it is written."""
    world.kubectl("delete", "cro", "cut", "--ignore-not-found")
    made = {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": "CanaryRollout",
        "metadata": {"name": "cut"},
        "spec": {"model": "digits", "canaryVersion": 2, "suspend": True, **fields},
    }
    path = f"{GROUP}/{world.namespace}/canaryrollouts"
    return not fields.items() <= world.plane.api.request("POST", path, made)["spec"].items()


def began(world: World, percent: int = 50) -> None:
    """A rollout whose step has gathered evidence for a moment."""
    world.rollout("to-2", "digits")
    world.await_weight("digits", percent)
    until(lambda: world.status("to-2").get("stepElapsed", 0) >= 1, "a second of evidence")


def ended_well(world: World) -> None:
    """The whole plan, each step for as long as it should be."""
    status = world.await_phase("to-2", "Succeeded")
    assert world.weights("to-2") == [0, 50, 75, 100]
    reached: dict[int, float] = {}
    for entry in status["history"]:
        reached.setdefault(entry["weight"], epoch(entry["time"]))
    times = [reached[weight] for weight in (50, 75, 100)]
    assert all(b - a >= STEP_SECONDS for a, b in itertools.pairwise(times))
    assert [arm.version for arm in world.table("digits").split] == [2]
    assert world.reasons("to-2").count("TrafficWeightUpdated") <= 3


@abreast
def test_killed_in_the_middle_of_a_step(world: World) -> None:
    world.operator.start()
    began(world)
    world.operator.kill()
    world.operator.start()
    ended_well(world)


def status_of_step(number: int) -> Doom:
    def doom(_method: str, path: str, body: Body) -> bool:
        return path.endswith("canaryrollouts/to-2/status") and (
            body["status"].get("currentStep") == number
        )

    return doom


def table_with(percent: int) -> Doom:
    def doom(_method: str, path: str, body: Body) -> bool:
        if "/configmaps" not in path:
            return False
        split = json.loads(body["data"][names.TABLE_KEY])["split"]
        return [arm["weight"] for arm in split if arm["name"] == "canary"] == [percent * 100]

    return doom


def status_in(phase: str) -> Doom:
    return lambda _method, path, body: (
        path.endswith("canaryrollouts/to-2/status") and body["status"].get("phase") == phase
    )


def back_to_baseline(method: str, path: str, body: Body) -> bool:
    if "/configmaps" not in path:
        return False
    return json.loads(body["data"][names.TABLE_KEY])["latch"] is not None


@pytest.mark.parametrize(
    "doom",
    [
        pytest.param(status_of_step(2), id="before the status of the next step"),
        pytest.param(table_with(75), id="between its status and its table"),
        pytest.param(status_in("Promoting"), id="before the promotion"),
        pytest.param(status_in("Succeeded"), id="before the end"),
    ],
)
@abreast
def test_killed_between_the_writes_of_going_on(
    world: World, proxy: KillingProxy, doom: Doom
) -> None:
    killed_at(world, proxy, doom)
    world.rollout("to-2", "digits")
    until(lambda: not world.operator.process.alive, "the operator's end")
    world.operator.start()
    ended_well(world)


@pytest.mark.parametrize(
    "doom",
    [
        pytest.param(back_to_baseline, id="before the table"),
        pytest.param(status_in("RollingBack"), id="between the table and its status"),
        pytest.param(status_in("RolledBack"), id="before the end"),
    ],
)
@abreast
def test_killed_between_the_writes_of_going_back(
    world: World, proxy: KillingProxy, doom: Doom
) -> None:
    killed_at(world, proxy, doom)
    world.model("digits").errors[2] = 0.5
    world.rollout("to-2", "digits")
    until(lambda: not world.operator.process.alive, "the operator's end")
    if doom is not back_to_baseline:
        assert weight(world.table("digits")) == 0
        world.model("digits").errors.clear()  # no new evidence: the decision was taken
    world.operator.start()
    status = world.await_phase("to-2", "RolledBack")
    assert world.weights("to-2") == [0, 50, 0]
    assert "canary requests failed" in status["message"]
    assert [arm.version for arm in world.table("digits").split] == [1]
    until(lambda: "RolledBack" in world.reasons("to-2"), "its event")
    assert world.reasons("to-2").count("RolledBack") == 1


def killed_at(world: World, proxy: KillingProxy, doom: Doom) -> None:
    proxy.doom = doom
    world.operator.start(proxy.kubeconfig)


@abreast
def test_two_operators_do_no_harm(world: World) -> None:
    world.operator.start()
    world.new_operator("second").start()
    world.rollout("to-2", "digits")
    ended_well(world)
    world.versions("other", 2)
    world.model("other").errors[2] = 0.5
    world.rollout("to-other", "other")
    world.await_phase("to-other", "RolledBack")
    assert world.weights("to-other") == [0, 50, 0]
    until(lambda: "RolledBack" in world.reasons("to-other"), "its event")
    assert world.reasons("to-other").count("RolledBack") == 1


def test_prometheus_killed_in_a_step(world: World) -> None:
    world.operator.start()
    world.rollout("to-2", "digits", stepPercent=50, stepDuration="8s")
    world.await_weight("digits", 50)
    until(lambda: world.status("to-2").get("stepElapsed", 0) >= 1, "a second of evidence")
    world.prometheus.kill()
    status = world.await_phase("to-2", "Holding")
    assert status["reason"] == "Error"
    assert "Prometheus cannot be read" in status["message"]
    assert "clockRunningSince" not in status
    assert world.condition("canaryrollouts", "to-2", "Paused")["status"] == "True"
    assert weight(world.table("digits")) == 50
    elapsed = status["stepElapsed"]
    world.prometheus.start()
    world.await_phase("to-2", "Progressing")
    assert world.status("to-2")["stepElapsed"] >= elapsed
    world.await_phase("to-2", "Succeeded")
    assert world.weights("to-2") == [0, 50, 100]
    told = [one for one in world.reasons("to-2") if one in {"RolloutHeld", "RolloutResumed"}]
    # Back again, it has no fresh samples for a moment: another reason to hold.
    assert (told[0], told[-1]) == ("RolloutHeld", "RolloutResumed")


def test_the_api_server_killed_in_a_step(world: World) -> None:
    world.operator.start()
    began(world)
    world.plane.stop_api_server()
    lines = world.operator.log.read_text().count("cannot be reached")
    until(
        lambda: world.operator.log.read_text().count("cannot be reached") > lines + 8,
        "the operator noticing",
    )
    world.plane.start_api_server()
    ended_well(world)
    # The watches are there again, too.
    highest = world.table("digits").revision
    world.kubectl("delete", "configmap", names.routing_table_name("digits"))
    world.await_table("digits", lambda table: table.revision > highest)


@pytest.mark.parametrize(
    ("what", "often", "status"),
    [
        ("/", 1, 429),
        ("/apis/tidegate.dev", 3, 429),
        ("/api/v1", 3, 429),
        pytest.param("configmaps?watch=", 2, 404, id="ends all of kopf's watches"),
    ],
)
@abreast
def test_started_while_the_api_server_is_not_ready(
    world: World, proxy: KillingProxy, what: str, often: int, status: int
) -> None:
    """It answers some paths before others; watches and lists meet it alike."""
    proxy.starting_status = status
    proxy.starting = lambda path: what in path
    world.operator.start(proxy.kubeconfig)
    until(lambda: proxy.refused >= often, "refusals")
    proxy.starting = lambda _path: False
    world.rollout("to-2", "digits", stepDuration="1h")
    world.await_weight("digits", 50)
    assert world.operator.process.alive


class Refusing:
    """Refuses the writes that ``these`` names, and counts how often they were tried."""

    def __init__(self, proxy: KillingProxy, these: Doom, status: int) -> None:
        self._proxy, self._these, self._status = proxy, these, status
        self.tries = 0
        proxy.refuse = self._refuse

    def _refuse(self, method: str, path: str, body: Body) -> int | None:
        if not self._these(method, path, body):
            return None
        self.tries += 1
        return self._status

    def relent(self) -> None:
        self._proxy.refuse = lambda _method, _path, _body: None

    def holds_for(self, seconds: float) -> None:
        """It is tried again, but not without a pause."""
        until(lambda: self.tries >= 2, "a second try")
        before = self.tries
        time.sleep(seconds)
        assert self.tries - before < 20 * seconds, "tried again and again without a pause"


def any_status(_method: str, path: str, _body: Body) -> bool:
    return path.endswith("canaryrollouts/to-2/status")


@pytest.mark.parametrize("status", [409, 422])
@pytest.mark.parametrize(
    "these",
    [
        pytest.param(table_with(50), id="the table"),
        pytest.param(any_status, id="the status"),
    ],
)
@abreast
def test_writes_refused_for_a_while(
    world: World, proxy: KillingProxy, these: Doom, status: int
) -> None:
    refusing = Refusing(proxy, these, status)
    world.operator.start(proxy.kubeconfig)
    world.await_table("digits", lambda table: table.split)
    world.rollout("to-2", "digits")
    refusing.holds_for(3)
    assert weight(world.table("digits")) == 0
    refusing.relent()
    ended_well(world)


@pytest.mark.parametrize("status", [409, 422])
@pytest.mark.parametrize(
    ("these", "applied"),
    [
        pytest.param(back_to_baseline, False, id="its table"),
        pytest.param(status_in("RollingBack"), True, id="its status"),
        pytest.param(status_in("RolledBack"), True, id="its end"),
    ],
)
@abreast
def test_a_rollback_refused_for_a_while_is_not_lost(
    world: World, proxy: KillingProxy, these: Doom, applied: bool, status: int
) -> None:
    refusing = Refusing(proxy, these, status)
    world.operator.start(proxy.kubeconfig)
    world.model("digits").errors[2] = 0.5
    world.rollout("to-2", "digits")
    until(lambda: refusing.tries, "the rollback")
    world.model("digits").errors.clear()  # no new evidence: the decision was taken
    refusing.holds_for(3)
    assert weight(world.table("digits")) == (0 if applied else 50)
    refusing.relent()
    status_ = world.await_phase("to-2", "RolledBack")
    assert world.weights("to-2") == [0, 50, 0]
    assert "canary requests failed" in status_["message"]
    until(lambda: "RolledBack" in world.reasons("to-2"), "its event")
    assert world.reasons("to-2").count("RolledBack") == 1


@abreast
def test_one_refused_model_does_not_keep_others_back(world: World, proxy: KillingProxy) -> None:
    refusing = Refusing(proxy, any_status, 422)
    world.operator.start(proxy.kubeconfig)
    world.rollout("to-2", "digits")
    until(lambda: refusing.tries, "a refusal")
    world.versions("other", 2)
    world.await_phase("other-2", "Ready", plural="modelversions")
