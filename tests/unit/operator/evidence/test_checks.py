"""From metrics to checks."""

import msgspec
import pytest

from tidegate_contract.table import ErrorCheck, SlowCheck
from tidegate_operator.api.canaryrollout import ErrorRate, Latency, Metric
from tidegate_operator.evidence.checks import compile_metric

ERRORS = Metric(name="errors", error_rate=ErrorRate(success=0.01, rollback=0.05))
LATENCY = Metric(
    name="slow", latency=Latency(quantile=0.95, success="100ms", rollback="1s", priorities=[1])
)


def test_an_error_rate_bounds_the_share_of_errors() -> None:
    compiled = compile_metric(ERRORS, "u")
    success, rollback = compiled.bounds
    assert (success.allowed, rollback.allowed) == (0.01, 0.05)
    assert isinstance(rollback.check, ErrorCheck)
    assert rollback.check.arms == ["stable", "canary"]
    assert success.id.startswith("errors/success@")


def test_a_latency_bounds_the_share_of_slower_requests() -> None:
    success, rollback = compile_metric(LATENCY, "u").bounds
    assert success.allowed == rollback.allowed == pytest.approx(0.05)
    assert isinstance(success.check, SlowCheck)
    assert success.check.bounds == {"stable": 0.1, "canary": 0.1}
    assert success.check.priorities == [1]
    assert isinstance(rollback.check, SlowCheck)
    assert rollback.check.bounds["canary"] == 1.0


@pytest.mark.parametrize("part", ["success", "rollback"])
def test_a_bound_that_is_not_given_is_not_counted(part: str) -> None:
    only = Metric(name="errors", error_rate=ErrorRate(**{part: 0.02}))
    (bound,) = compile_metric(only, "u").bounds
    assert bound.part == part


def test_ids_change_with_the_definition_and_the_rollout_and_with_nothing_else() -> None:
    def ids(metric: Metric, uid: str) -> set[str]:
        return {bound.id for bound in compile_metric(metric, uid).bounds}

    same = ids(ERRORS, "u")
    edited = msgspec.structs.replace(ERRORS, error_rate=ErrorRate(success=0.01, rollback=0.06))
    assert ids(ERRORS, "u") == same
    assert ids(ERRORS, "v").isdisjoint(same)
    assert ids(edited, "u").isdisjoint(same)
