"""From metrics to checks."""

from typing import Any

import msgspec
import pytest

from tidegate_contract.table import DisagreementCheck, ErrorCheck, SlowCheck
from tidegate_operator.api.canaryrollout import Disagreement, ErrorRate, Latency, Metric, Query
from tidegate_operator.evidence.checks import (
    ARMS,
    Agreement,
    Compiled,
    Counted,
    Definition,
    Queried,
    compile_metric,
    compile_metrics,
    counted,
)

ERRORS = Metric(
    name="errors", error_rate=ErrorRate(success=0.01, rollback=0.05, max_ratio_to_stable=1.5)
)
LATENCY = Metric(
    name="slow",
    latency=Latency(
        quantile=0.95, success="100ms", rollback="1s", max_ratio_to_stable=2.0, priorities=[1]
    ),
)
AGREEMENT = Metric(name="same", disagreement=Disagreement(max=0.02, baseline=True))
QUERY = Metric(name="revenue", prometheus=Query(query="up"))
TO = Definition("u", 1, "canary", 1.25, 0.03)


def compiled(metric: Metric, **to: Any) -> Compiled:
    return compile_metric(metric, Definition("u", 1, **{"arm": "canary", "slowdown": 1.25, **to}))


def counting(metric: Metric, **to: Any) -> Counted:
    found = compiled(metric, **to)
    assert isinstance(found, Counted)
    return found


def test_an_error_rate_is_one_check_for_all_its_bounds() -> None:
    found = counting(ERRORS)
    assert found.success is not None
    assert found.rollback is not None
    assert found.ratio is not None
    (check,) = found.checks
    assert isinstance(check, ErrorCheck)
    assert check.arms == ["stable", "canary"]
    assert {found.success.id, found.rollback.id, found.ratio.id} == {check.id}
    assert (found.success.allowed, found.rollback.allowed, found.ratio.allowed) == (0.01, 0.05, 1.5)
    assert found.shown == check
    assert not found.unpinned


def test_of_a_shadow_only_its_own_errors_are_counted() -> None:
    found = counting(ERRORS, arm="shadow")
    (check,) = found.checks
    assert isinstance(check, ErrorCheck)
    assert check.arms == ["shadow"]
    assert (found.arm, found.ratio, found.tests) == ("shadow", None, 1)
    assert found.rollback is not None
    assert found.rollback.arm == "shadow"


def test_a_latency_bounds_the_share_of_slower_requests() -> None:
    found = counting(LATENCY, pinned=0.03)
    bounds = {one.id.partition("@")[0]: one for one in found.checks}
    assert list(bounds) == ["slow/success", "slow/rollback", "slow/ratio", "slow/slowdown"]
    assert all(isinstance(one, SlowCheck) and one.priorities == [1] for one in found.checks)
    assert [one.bounds for one in found.checks] == [  # type: ignore[union-attr]
        {"stable": 0.1, "canary": 0.1},
        {"stable": 1.0, "canary": 1.0},
        {"stable": 0.03, "canary": 0.06},
        {"stable": pytest.approx(0.0375)},
    ]
    assert found.success is not None
    assert found.rollback is not None
    assert found.success.allowed == found.rollback.allowed == pytest.approx(0.05)


def test_a_ratio_of_latencies_is_tested_at_one() -> None:
    found = counting(LATENCY, pinned=0.03)
    assert found.ratio is not None
    assert found.ratio.allowed == 1.0


def test_without_stables_own_latency_there_is_no_ratio_and_no_neighbour() -> None:
    found = counting(LATENCY)
    assert (found.ratio, found.neighbour, found.unpinned) == (None, None, True)
    assert [one.id.partition("@")[0] for one in found.checks] == ["slow/success", "slow/rollback"]
    alone = Metric(name="slow", latency=Latency(quantile=0.9, max_ratio_to_stable=2.0))
    assert counting(alone).shown is None
    assert counting(alone).checks == []


def test_a_latency_that_is_not_compared_is_not_unpinned() -> None:
    absolute = Metric(name="slow", latency=Latency(quantile=0.9, success="1s"))
    assert not counting(absolute).unpinned
    assert not counting(LATENCY, pinned=0.03).unpinned


@pytest.mark.parametrize(("pinned", "met"), [(0.9, True), (1.0, True), (1.1, False)])
def test_stable_is_held_to_the_rollback_bound_only_if_it_met_it_before(
    pinned: float, met: bool
) -> None:
    neighbour = counting(LATENCY, pinned=pinned).neighbour
    assert neighbour is not None
    assert (neighbour.broken is not None) is met
    assert neighbour.slowed.arm == "stable"
    if neighbour.broken is not None:
        assert neighbour.broken.arm == "stable"
        assert neighbour.broken.allowed == pytest.approx(0.05)


@pytest.mark.parametrize("pinned", [None, 0.03, 2.0])
def test_the_level_is_shared_by_the_same_number_of_tests_whatever_is_known(
    pinned: float | None,
) -> None:
    assert counting(LATENCY, pinned=pinned).tests == 3


@pytest.mark.parametrize(
    ("rate", "tests"),
    [
        (ErrorRate(success=0.01), 0),
        (ErrorRate(rollback=0.05), 1),
        (ErrorRate(max_ratio_to_stable=2.0), 1),
        (ErrorRate(rollback=0.05, max_ratio_to_stable=2.0), 2),
    ],
)
def test_what_can_roll_back_is_counted(rate: ErrorRate, tests: int) -> None:
    assert counting(Metric(name="errors", error_rate=rate)).tests == tests


def test_disagreement_is_counted_of_pairs() -> None:
    found = compiled(AGREEMENT)
    assert isinstance(found, Agreement)
    (check,) = found.checks
    assert check == DisagreementCheck(id=found.bound.id, tolerance=0.001, baseline=True)
    assert (found.bound.arm, found.bound.allowed, found.baseline, found.tests) == (
        "shadow",
        0.02,
        True,
        1,
    )


def test_a_query_is_counted_by_nobody_and_known_by_its_definition() -> None:
    found = compiled(QUERY)
    assert isinstance(found, Queried)
    assert found.checks == []
    edited = msgspec.structs.replace(QUERY, prometheus=Query(query="down"))
    other = compiled(edited)
    assert isinstance(other, Queried)
    assert found.id != other.id


def test_requests_are_counted_whatever_is_judged() -> None:
    (extra,) = counted([compiled(QUERY)])
    assert extra == ErrorCheck(id="requests", arms=ARMS)
    assert counted([compiled(AGREEMENT)])[-1] == extra
    assert counted([counting(LATENCY)])[-1] == extra, "of all priorities"
    assert extra not in counted([counting(LATENCY), counting(ERRORS)])


def ids(metric: Metric, to: Definition = TO) -> set[str]:
    return {one.id for one in compile_metric(metric, to).checks}


@pytest.mark.parametrize("metric", [ERRORS, LATENCY, AGREEMENT])
def test_ids_change_with_the_definition_the_rollout_and_the_attempt(metric: Metric) -> None:
    same = ids(metric)
    assert ids(metric) == same
    assert ids(metric, Definition("v", 1, "canary", 1.25, 0.03)).isdisjoint(same)
    assert ids(metric, Definition("u", 2, "canary", 1.25, 0.03)).isdisjoint(same)
    dry = msgspec.structs.replace(metric, dry_run=True)
    assert ids(dry).isdisjoint(same)


def test_what_is_measured_changes_only_the_checks_that_rest_on_it() -> None:
    moved = ids(LATENCY, Definition("u", 1, "canary", 1.25, 0.04))
    kept = {one.partition("@")[0] for one in moved & ids(LATENCY)}
    assert kept == {"slow/success", "slow/rollback"}
    assert ids(ERRORS, Definition("u", 1, "canary", 1.25, 0.04)) == ids(ERRORS)


def test_metrics_of_a_rollout() -> None:
    errors, slow, same, revenue = compile_metrics(
        [ERRORS, LATENCY, AGREEMENT, QUERY],
        uid="u",
        attempt=1,
        shadow_only=False,
        slowdown=1.25,
        pinned={"slow": 0.03},
    )
    assert [one.name for one in (errors, slow, same, revenue)] == [
        "errors",
        "slow",
        "same",
        "revenue",
    ]
    assert slow == compile_metric(LATENCY, TO)
    (shadow,) = compile_metrics(
        [ERRORS], uid="u", attempt=1, shadow_only=True, slowdown=1.25, pinned={}
    )
    assert isinstance(shadow, Counted)
    assert shadow.arm == "shadow"
