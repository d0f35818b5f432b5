"""What a rollout does while Prometheus fails: it holds, says why, and resumes where it was.

Operators ask through proxies that fail in the ways in which a Prometheus does, a few side by side;
each test has a model of its own. What was counted is compared with the pods' own books.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import pytest
from abreast import AT_ONCE, Begun, Case, abreast, let_go, under_way
from operator_world import Raw, World, install, observed, until, weight
from prometheus_faults import Fault, FaultyPrometheus

from tidegate_contract import names
from tidegate_tools.controlplane import ControlPlane

GAP_SECONDS = 4.0
SLACK_SECONDS = 3.0
"""Between a request and the status that counts it, and between a fault and its being noticed."""
SKEWS = (30.0, -30.0)
ENOUGH_BAD = 20
_numbers = itertools.count()


@pytest.fixture(scope="module")
def begun(
    control_plane: ControlPlane,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Begun]:
    """Each case has one of a few worlds, with its operator and its proxy, to itself for a while."""
    install(control_plane)
    free: SimpleQueue[tuple[World, FaultyPrometheus]] = SimpleQueue()
    with (
        observed(control_plane, tmp_path_factory.mktemp("failing")) as (prometheus, targets),
        ExitStack() as stack,
    ):
        for _ in range(AT_ONCE):
            proxy = stack.enter_context(FaultyPrometheus(prometheus.url))
            world = World(control_plane, prometheus, targets, "failing")
            stack.enter_context(world)
            world.operator.prometheus = proxy.url
            world.operator.start()
            free.put((world, proxy))

        def carry_out(case: Case, parameters: dict[str, Any]) -> None:
            world, proxy = free.get()
            try:
                alone(case, parameters, world, proxy)
            finally:
                free.put((world, proxy))

        yield stack.enter_context(under_way(request, carry_out))


def alone(case: Case, parameters: dict[str, Any], world: World, proxy: FaultyPrometheus) -> None:
    """With a model of its own."""
    model = f"failing-{next(_numbers)}"
    world.versions(model, 2)
    try:
        let_go(case, parameters, world=world, proxy=proxy, model=model)
    finally:
        proxy.fault = None
        proxy.skew = 0.0
        world.kubectl("delete", "cro", model, "--ignore-not-found")


def begin(world: World, model: str) -> None:
    """A rollout named as its model, whose first step has gathered evidence for a moment."""
    world.rollout(model, model, stepPercent=50, stepDuration="6s")
    world.await_weight(model, 50)
    until(lambda: world.status(model).get("stepElapsed", 0) >= 1, "a second of evidence")


def held(world: World, model: str) -> Raw:
    """The status once it holds; it is the same, and so is the weight, as long as nothing comes."""
    status = world.await_phase(model, "Holding")
    time.sleep(GAP_SECONDS)
    later = world.status(model)
    assert (later["phase"], later["reason"]) == ("Holding", status["reason"])
    assert later["stepElapsed"] == status["stepElapsed"], "a gap is not watched"
    assert "clockRunningSince" not in later
    assert weight(world.table(model)) == 50
    return later


def goes_on(world: World, model: str, elapsed: float) -> None:
    """From where it was to its end, each weight once."""
    status = world.await_phase(model, "Progressing", "Succeeded")
    assert status["phase"] == "Succeeded" or status["stepElapsed"] >= elapsed
    world.await_phase(model, "Succeeded")
    assert world.weights(model) == [0, 50, 100]
    told = [one for one in world.reasons(model) if one in {"RolloutHeld", "RolloutResumed"}]
    assert (told[0], told[-1]) == ("RolloutHeld", "RolloutResumed")


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("503", "Error", "HTTP status 503"),
        ("refused", "Error", "refused"),
        ("hanging", "Error", "no answer within"),
        ("HTML", "Error", "no Prometheus"),
        ("truncated", "Error", "Prometheus cannot be read"),
        ("empty", "NoData", "no samples of pod triton-"),
        ("NaN", "NoData", "no samples of pod triton-"),
        ("stale", "NoData", "no samples of pod triton-"),
        ("frozen", "Error", "stands still"),
    ],
)
@abreast
def test_it_holds_and_resumes(
    world: World, proxy: FaultyPrometheus, model: str, fault: Fault, reason: str, words: str
) -> None:
    begin(world, model)
    served = world.fleet.served(model, names.ARM_CANARY)
    proxy.fault = fault
    status = held(world, model)
    assert status["reason"] == reason
    assert words in status["message"]
    assert "resumes when" in status["message"]
    assert world.condition("canaryrollouts", model, "Paused")["status"] == "True"
    gap = world.fleet.served(model, names.ARM_CANARY) - served
    proxy.fault = None
    world.await_phase(model, "Progressing")
    counted = world.status(model)["stepRequests"]["canary"]
    slack = SLACK_SECONDS * world.model(model).rate / 2
    assert counted <= world.fleet.served(model, names.ARM_CANARY) - gap + slack, "the gap counts"
    goes_on(world, model, status["stepElapsed"])


@pytest.mark.parametrize("fault", ["503", "refused", "hanging", "empty", "stale", "NaN"])
@abreast
def test_a_breach_seen_just_before_still_rolls_back(
    world: World, proxy: FaultyPrometheus, model: str, fault: Fault
) -> None:
    """The canary breaks right after one look, the fault begins right after the next one."""
    begin(world, model)
    bad = f'{names.METRIC_CHECK_BAD}_total{{model="{model}",arm="{names.ARM_CANARY}"}}'

    def answered(query: str, at: float) -> None:
        if names.METRIC_CHECK_BAD not in query:
            return
        world.model(model).errors[2] = 1.0
        if world.read(f"sum({bad})", at=at) >= ENOUGH_BAD:
            proxy.answered = lambda _query, _asked: None
            proxy.fault = fault

    proxy.answered = answered
    until(lambda: proxy.fault == fault, "the breach")
    status = world.await_phase(model, "RolledBack")
    assert "canary requests failed" in status["message"]
    assert world.weights(model) == [0, 50, 0]


@abreast
def test_late_answers_are_answers(world: World, proxy: FaultyPrometheus, model: str) -> None:
    proxy.fault = "slow"
    begin(world, model)
    status = world.await_phase(model, "Succeeded")
    assert [one["to"] for one in status["history"]] == [
        *("Gating", "Progressing", "Promoting", "Succeeded")
    ]


@pytest.mark.parametrize("skew", SKEWS)
@abreast
def test_another_clock_promotes(
    world: World, proxy: FaultyPrometheus, model: str, skew: float
) -> None:
    proxy.skew = skew
    begin(world, model)
    requests = world.status(model)["stepRequests"]["canary"]
    assert 0 < requests <= world.fleet.served(model, names.ARM_CANARY)
    status = world.await_phase(model, "Succeeded")
    assert "Holding" not in [one["to"] for one in status["history"]]


@pytest.mark.parametrize("skew", SKEWS)
@abreast
def test_another_clock_rolls_back(
    world: World, proxy: FaultyPrometheus, model: str, skew: float
) -> None:
    proxy.skew = skew
    begin(world, model)
    world.model(model).errors[2] = 0.5
    world.await_phase(model, "RolledBack")


@abreast
def test_a_pod_that_is_not_scraped_is_named(world: World, model: str) -> None:
    begin(world, model)
    world.fleet.pods[1].scrapable = False
    try:
        status = held(world, model)
    finally:
        world.fleet.pods[1].scrapable = True
    assert status["reason"] == "NoData"
    assert "no samples of pod triton-1 since" in status["message"]
    goes_on(world, model, status["stepElapsed"])


@abreast
def test_counters_that_begin_anew_are_no_evidence_against_anybody(world: World, model: str) -> None:
    begin(world, model)
    for pod in world.fleet.pods:
        pod.restart()
    time.sleep(2)
    status = world.status(model)
    assert 0 < status["stepRequests"]["canary"] <= world.fleet.served(model, names.ARM_CANARY)
    status = world.await_phase(model, "Succeeded")
    assert "Holding" not in [one["to"] for one in status["history"]]


@abreast
def test_a_restart_does_not_hide_errors(world: World, model: str) -> None:
    begin(world, model)
    world.model(model).errors[2] = 0.5
    for pod in world.fleet.pods:
        pod.restart()
    world.await_phase(model, "RolledBack")
