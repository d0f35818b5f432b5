"""Plans: from four numbers to steps."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.api.canaryrollout import Spec, Step
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


def listed(*percents: int, gates: tuple[int, ...] = ()) -> list[Step]:
    return [
        Step(
            percent=percent,
            duration="1m" if percent < 100 else None,
            gate="Manual" if percent in gates else None,
        )
        for percent in percents
    ]


def told(plan: list[Step]) -> list[str]:
    """Such as ``100 1m gate``."""
    return [
        " ".join([str(one.percent), *filter(None, [one.duration, one.gate and "gate"])])
        for one in plan
    ]


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({"steps": listed(5, 50, 100)}, ["5 1m", "50 1m", "100"]),
        ({"steps": listed(5, 50)}, ["5 1m", "50 1m", "100"]),
        (
            {"steps": listed(5, 50, 100, gates=(5, 100))},
            ["5 1m gate", "50 1m", "100 gate"],
        ),
        (
            {"steps": [*listed(5), Step(percent=100, duration="9m")]},
            ["5 1m", "100"],
        ),
        (
            {"steps": listed(5, 50, 100), "auto_promote": False},
            ["5 1m", "50 1m", "100 1m", "100 gate"],
        ),
        (
            {"steps": listed(5, 100, gates=(100,)), "auto_promote": False},
            ["5 1m", "100 1m gate", "100 gate"],
        ),
        (
            {"steps": [*listed(5), Step(percent=100, duration="9m")], "auto_promote": False},
            ["5 1m", "100 9m", "100 gate"],
        ),
        ({"steps": listed(5, 50), "auto_promote": False}, ["5 1m", "50 1m", "100 gate"]),
        (
            {"initial_percent": 40, "step_percent": 60, "auto_promote": False},
            ["40 10m", "100 10m", "100 gate"],
        ),
        (
            {"initial_percent": 10, "step_percent": 30, "max_percent": 60, "auto_promote": False},
            ["10 10m", "40 10m", "60 10m", "100 gate"],
        ),
        ({"max_percent": 0, "mirror_percent": 10}, ["0 10m"]),
        ({"max_percent": 0, "mirror_percent": 10, "auto_promote": False}, ["0 10m"]),
    ],
)
def test_explicit_steps_gates_and_ends(fields: dict[str, Any], plan: list[str]) -> None:
    assert told(resolve(spec(**fields))) == plan


@pytest.mark.parametrize(
    ("step", "fields", "plan"),
    [
        (-1, {"steps": listed(7, 100)}, ["7 1m", "100"]),
        (0, {"steps": listed(7, 100)}, ["5 10m", "7 1m", "100"]),
        (0, {"steps": listed(3, 5, 9, 100)}, ["5 10m", "9 1m", "100"]),
        (1, {"steps": listed(3, 9)}, ["5 10m", "20 10m", "100"]),
        (0, {"steps": listed(5, 9), "auto_promote": False}, ["5 10m", "9 1m", "100 gate"]),
    ],
)
def test_an_edit_applies_above_the_live_weight(
    step: int, fields: dict[str, Any], plan: list[str]
) -> None:
    assert told(replan(resolve(spec()), step, spec(**fields))) == plan


def test_an_end_that_is_watched_already_is_not_watched_twice() -> None:
    watched = resolve(spec(steps=listed(5, 100), auto_promote=False))
    assert told(replan(watched, 1, spec(steps=listed(5, 100)))) == ["5 1m", "100 1m", "100"]
    again = replan(watched, 1, spec(steps=listed(5, 100), auto_promote=False))
    assert again == watched


def test_a_shadow_has_nothing_behind_its_step() -> None:
    shadow = spec(max_percent=0, mirror_percent=10)
    assert replan(resolve(shadow), 0, shadow) == resolve(shadow)


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
