"""Trials in virtual time tell good policies from bad ones, and equal ones alike."""

import numpy as np
import pytest

from tidegate_load import users
from tidegate_load.schedule import drawn
from tidegate_tune.score import Weights, parts
from tidegate_tune.simulated import Cost, Simulated
from tidegate_tune.space import Candidate

COST = Cost(fixed=0.004, per_row=0.0002, most=32, slots=1)


def trial(rate: float) -> Simulated:
    schedule = drawn(users.DEFAULT, rate, 5.0, None, np.random.default_rng(1))
    return Simulated(
        model="digits", cost=COST, schedule=schedule, users=users.DEFAULT, target=1.0, seed=1
    )


def candidate(size: int, wait: float = 0.005) -> Candidate:
    return Candidate(
        max_batch_size=size,
        max_wait=wait,
        optimize="Throughput",
        strategy="Adaptive",
        aging_reserve=0.05,
    )


def score(rate: float, tried: Candidate) -> float:
    return parts(trial(rate)(tried)).weigh(Weights())


def test_every_request_is_offered_by_its_level() -> None:
    asked = trial(1000)
    found = asked(candidate(32))
    assert sum(one.offered for one in found.classes) == asked.schedule.times.size
    assert [one.target for one in found.classes] == [one.deadline for one in users.DEFAULT]


def test_requests_of_more_rows_than_the_model_takes_are_worked_off_whole() -> None:
    who = (users.User(name="jobs", rows=100),)
    schedule = drawn(who, 1, 5.0, None, np.random.default_rng(1))
    asked = Simulated(model="m", cost=COST, schedule=schedule, users=who, target=1.0, seed=1)
    found = asked(candidate(32))
    assert found.classes[0].answered == found.classes[0].offered > 0
    assert found.classes[0].p99 > 4 * COST.fixed + 100 * COST.per_row / 2


def test_batches_that_are_too_small_for_the_load_score_worse() -> None:
    assert score(1000, candidate(32)) > score(1000, candidate(2)) + 0.1


def test_equal_trials_have_equal_outcomes() -> None:
    assert trial(500)(candidate(8)) == trial(500)(candidate(8))


@pytest.mark.parametrize(("rows", "efficiency"), [(0, 0.0), (32, 1.0), (1, (0.0104 / 32) / 0.0042)])
def test_efficiency_is_to_the_largest_batch(rows: int, efficiency: float) -> None:
    assert COST.efficiency(rows) == pytest.approx(efficiency)
