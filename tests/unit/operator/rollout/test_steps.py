"""Plans: from four numbers to steps."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.api.canaryrollout import Spec
from tidegate_operator.rollout.steps import replan, resolve


def spec(**fields: Any) -> Spec:
    return Spec(model="digits", canary_version=2, **fields)


@pytest.mark.parametrize(
    ("fields", "percents"),
    [
        ({}, [5, 20, 35, 50, 65, 80, 95, 100]),
        ({"initial_percent": 10, "step_percent": 30, "max_percent": 60}, [10, 40, 60, 100]),
        ({"initial_percent": 50, "max_percent": 20}, [20, 100]),
        ({"initial_percent": 99, "step_percent": 1}, [99, 100]),
        ({"initial_percent": 1, "step_percent": 100}, [1, 100]),
    ],
)
def test_worked_plans(fields: dict[str, int], percents: list[int]) -> None:
    plan = resolve(spec(**fields, step_duration="1m"))
    assert [step.percent for step in plan] == percents
    assert [step.duration for step in plan] == ["1m"] * (len(plan) - 1) + [None]


SPECS = st.builds(
    spec,
    initial_percent=st.none() | st.integers(1, 99),
    step_percent=st.none() | st.integers(1, 100),
    max_percent=st.none() | st.integers(1, 100),
)


@given(SPECS)
def test_weights_rise_to_everything(one: Spec) -> None:
    percents = [step.percent for step in resolve(one)]
    assert all(a < b for a, b in itertools.pairwise(percents))
    assert percents[-1] == 100
    assert all(percent <= (one.max_percent or 100) for percent in percents[:-1])
    assert len(percents) >= 2


@given(SPECS, SPECS, st.data())
def test_an_edit_keeps_what_is_behind_and_rises_from_there(
    old: Spec, new: Spec, data: st.DataObject
) -> None:
    plan = resolve(old)
    step = data.draw(st.integers(0, len(plan) - 2))
    edited = replan(plan, step, new)
    percents = [one.percent for one in edited]
    assert edited[: step + 1] == plan[: step + 1]
    assert all(a < b for a, b in itertools.pairwise(percents))
    assert percents[-1] == 100
    assert (edited == plan) or old != new
