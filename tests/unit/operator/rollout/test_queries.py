"""Rollouts that a user's own PromQL has a say in."""

from collections.abc import Callable
from typing import Any

import pytest
from canaries import ERRORS, analysis, started, steps, where
from simulation import Simulation

from tidegate_operator.evidence.queries import Answer, NoValue, QueryError, Value

REVENUE: dict[str, Any] = {
    "name": "revenue",
    "prometheus": {
        "query": "revenue",
        "success": {"min": 3},
        "rollback": {"max": 1},
        "failureLimit": 3,
    },
}


def gives(value: float) -> Callable[[float], Answer]:
    return lambda now: Value(now, value)


def nothing(now: float) -> Answer:
    return NoValue(now, "no series")


def refused(now: float) -> Answer:
    return QueryError(now, "bad_data: parse error")


def asking(
    answer: Callable[[float], Answer], *metrics: dict[str, Any], **fields: Any
) -> Simulation:
    world = started(analysis=analysis(*(metrics or (ERRORS, REVENUE)), **fields), **steps(20, 100))
    world.answers["revenue"] = answer
    return world


def test_a_value_within_success_passes() -> None:
    world = asking(gives(3.0))
    (_, metric) = world.run_to("Succeeded")["metrics"]
    assert (metric["verdict"], metric["canary"]) == ("Pass", 3.0)


def test_a_query_may_be_the_only_metric() -> None:
    world = asking(gives(5.0), REVENUE)
    world.run_to("Succeeded")


def test_a_value_between_success_and_rollback_holds_and_is_asked_again_at_each_look() -> None:
    world = asking(gives(2.0))
    status = world.run_to("Holding")
    assert where(world) == ("Holding", "Inconclusive")
    assert status["message"] == (
        "Holding at 20% (step 1/2): revenue: its value is not within success (at least 3)"
    )
    assert status["metrics"][1]["canary"] == 2.0
    world.run(100)
    assert world.status()["phase"] == "Holding"
    world.answers["revenue"] = gives(4.0)
    world.run_to("Promoting", "Succeeded", within=10)


def test_a_value_that_moves_while_it_holds_is_not_written_at_every_look() -> None:
    world = asking(lambda now: Value(0, 2.0 + now % 7 / 10))
    world.run_to("Holding")
    writes = len(world.writes)
    world.run(300)
    assert len(world.writes) - writes <= 6, "progress once a minute"


def test_so_many_bad_values_in_a_row_roll_back() -> None:
    world = asking(gives(1.0))
    status = world.run_to("RolledBack")
    assert "revenue: 1 is within rollback (at most 1), 3 times in a row" in status["message"]


@pytest.mark.parametrize("between", [gives(1.5), gives(9.0)])
def test_a_good_value_between_starts_the_count_anew(between: Callable[[float], Answer]) -> None:
    world = asking(gives(5.0))
    world.run_to("Progressing")
    looks = iter([0.5, 0.5, None, 0.5, 0.5, None])

    def answer(now: float) -> Answer:
        value = next(looks, 9.0)
        return between(now) if value is None else Value(now, value)

    world.answers["revenue"] = answer
    world.run_to("Succeeded")


def test_what_is_no_value_neither_counts_nor_starts_anew() -> None:
    world = asking(gives(5.0))
    world.run_to("Progressing")
    looks = iter([gives(0.0), nothing, gives(0.0), refused, gives(0.0)])

    def answer(now: float) -> Answer:
        return next(looks, gives(5.0))(now)

    world.answers["revenue"] = answer
    world.run_to("RolledBack")


def test_without_a_rollback_range_no_value_rolls_back() -> None:
    metric = {"name": "revenue", "prometheus": {"query": "revenue", "success": {"min": 3}}}
    world = asking(gives(0.0), metric)
    world.run(300)
    assert where(world) == ("Holding", "Inconclusive")


def test_without_a_success_range_it_passes_by_not_failing() -> None:
    metric = {"name": "revenue", "prometheus": {"query": "revenue", "rollback": {"max": 1}}}
    world = asking(gives(1.1), metric)
    world.run_to("Succeeded")


def test_one_bad_value_is_enough_where_the_limit_is_one() -> None:
    one = {**REVENUE, "prometheus": {**REVENUE["prometheus"], "failureLimit": 1}}
    world = asking(gives(0.0), one)
    message = world.run_to("RolledBack")["message"]
    assert "revenue: 0 is within rollback (at most 1);" in message


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (nothing, "NoData", "revenue: its query gives no series; resumes when it gives a number"),
        (refused, "Error", "revenue: its query fails: bad_data: parse error; resumes when"),
    ],
)
def test_no_value_holds(answer: Callable[[float], Answer], reason: str, words: str) -> None:
    world = asking(answer)
    world.run_to("Holding")
    assert where(world) == ("Holding", reason)
    assert world.status()["verdict"] == reason
    assert words in world.status()["message"]
    assert world.status()["stepElapsed"] == 0
    world.answers["revenue"] = gives(5.0)
    world.run_to("Succeeded")


@pytest.mark.parametrize(
    ("answer", "field", "other"),
    [(nothing, "onNoData", "onError"), (refused, "onError", "onNoData")],
)
def test_what_is_done_about_no_value_is_the_users_choice(
    answer: Callable[[float], Answer], field: str, other: str
) -> None:
    world = asking(answer, **{field: "Continue", other: "Rollback"})
    status = world.run_to("Succeeded")
    assert status["metrics"][1]["verdict"] in {"NoData", "Error"}
    world = asking(answer, **{field: "Rollback", other: "Continue"})
    status = world.run_to("RolledBack")
    assert status["reason"] == ("NoData" if answer is nothing else "Error")


def test_continue_does_not_replace_one_metric_that_passes() -> None:
    world = asking(nothing, REVENUE, onNoData="Continue")
    world.run(400)
    assert where(world) == ("Holding", "Inconclusive")
    assert world.weight == 20


def test_continue_does_not_replace_the_requests_that_a_step_asks_for() -> None:
    world = asking(nothing, onNoData="Continue", minRequests=100_000)
    world.run(400)
    assert "fewer than 100000 requests" in world.status()["message"]


def test_continue_for_one_query_does_not_hide_another_that_holds() -> None:
    second = {"name": "second", "prometheus": {**REVENUE["prometheus"], "query": "second"}}
    world = asking(refused, ERRORS, REVENUE, second, onError="Continue")
    world.answers["second"] = nothing
    world.run_to("Holding")
    assert where(world) == ("Holding", "NoData")
    assert "second: " in world.status()["message"]


def test_a_query_decides_on_while_the_counters_cannot_be_read() -> None:
    """Whoever wants to go on without the counters still has the query to pass by."""
    world = asking(gives(5.0), onError="Continue")
    world.run_to("Progressing")
    world.run(10)
    world.prometheus_up = False
    status = world.run_to("Succeeded")
    assert [one["verdict"] for one in status["metrics"]] == ["Error", "Pass"]


def test_where_only_counters_decide_going_on_without_them_is_holding() -> None:
    world = started(analysis=analysis(onError="Continue"), **steps(20, 100))
    world.run_to("Progressing")
    world.run(15)
    world.prometheus_up = False
    world.run(600)
    assert where(world) == ("Holding", "Error")
    assert world.status()["stepElapsed"] <= 20
    world.prometheus_up = True
    world.run_to("Succeeded")


def test_one_pod_that_is_not_scraped_may_be_gone_on_without() -> None:
    world = started(analysis=analysis(onNoData="Continue"), **steps(20, 100, duration="60s"))
    world.run_to("Progressing")
    world.by_name["triton-1"].scraped = False
    world.run_to("Succeeded", within=120)
    world = started(analysis=analysis(onNoData="Continue"), **steps(20, 100, duration="60s"))
    world.run_to("Progressing")
    for pod in world.by_name.values():
        pod.scraped = False
    world.run(300)
    assert where(world) == ("Holding", "NoData")


@pytest.mark.parametrize("answer", [gives(0.0), nothing, refused])
def test_a_dry_run_decides_nothing(answer: Callable[[float], Answer]) -> None:
    world = asking(answer, ERRORS, {**REVENUE, "dryRun": True})
    (_, metric) = world.run_to("Succeeded")["metrics"]
    assert metric["dryRun"] is True
    assert metric["verdict"] != "Pass"


def test_an_edited_query_is_counted_anew() -> None:
    world = asking(gives(5.0))
    world.run_to("Progressing")
    looks = iter([0.0, 0.0])
    world.answers["revenue"] = lambda now: Value(now, next(looks, 5.0))
    world.run(10)
    other = {**REVENUE, "prometheus": {**REVENUE["prometheus"], "query": "other"}}
    world.edit(analysis=analysis(ERRORS, other))
    world.answers["other"] = gives(0.0)
    world.run(6)
    assert world.status()["phase"] == "Progressing"
    world.run_to("RolledBack", within=20)
