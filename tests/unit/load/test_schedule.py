"""Schedules: as many requests as asked for, at random times, of whom, and the same for one seed."""

import numpy as np
import pytest

from tidegate_cli.errors import CommandError
from tidegate_load.schedule import Burst, Schedule, drawn, replayed
from tidegate_load.users import DEFAULT, User

TWO = (User(name="few", share=1, priority=1, rows=3), User(name="many", share=3, priority=2))


def draw(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def near(count: float, expected: float) -> bool:
    """Within six standard deviations of a Poisson count."""
    return abs(count - expected) < 6 * expected**0.5


def within(schedule: Schedule, begin: float, end: float) -> np.ndarray:
    return (schedule.times >= begin) & (schedule.times < end)


def test_arrivals_are_a_poisson_process() -> None:
    made = drawn(TWO, 1000, 20, None, draw())

    assert near(made.times.size, 20_000)
    gaps = np.diff(made.times)
    assert (gaps >= 0).all()
    assert made.times.min() >= 0
    assert made.times.max() < 20
    # The gaps of a Poisson process vary by as much as they are long.
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)


def test_users_come_by_their_shares_with_their_rows() -> None:
    made = drawn(TWO, 1000, 20, None, draw())

    assert near(np.count_nonzero(made.users == 0), 5_000)
    assert set(made.rows[made.users == 0]) == {3}
    assert set(made.rows[made.users == 1]) == {1}


def test_a_spike_is_of_everybody() -> None:
    burst = Burst(begin=4, seconds=2, factor=5, flood=False)
    made = drawn(TWO, 1000, 10, burst, draw())

    assert (np.diff(made.times) >= 0).all()
    assert near(np.count_nonzero(within(made, 4, 6)), 10_000)
    assert near(np.count_nonzero(within(made, 0, 4)), 4_000)
    assert near(np.count_nonzero(within(made, 4, 6) & (made.users == 0)), 2_500)


def test_a_flood_is_of_the_highest_priority() -> None:
    burst = Burst(begin=4, seconds=2, factor=5, flood=True)
    made = drawn(TWO, 1000, 10, burst, draw())

    assert near(np.count_nonzero(within(made, 4, 6) & (made.users == 0)), 8_500)
    assert near(np.count_nonzero(within(made, 4, 6) & (made.users == 1)), 1_500)


def test_a_burst_ends_with_the_run() -> None:
    burst = Burst(begin=9, seconds=5, factor=5, flood=False)

    assert drawn(TWO, 1000, 10, burst, draw()).times.max() < 10


def test_one_seed_makes_one_schedule() -> None:
    burst = Burst(begin=1, seconds=1, factor=2, flood=True)
    one, same, other = (drawn(DEFAULT, 500, 3, burst, draw(seed)) for seed in (1, 1, 2))

    assert (one.times == same.times).all()
    assert (one.users == same.users).all()
    assert one.times.size != other.times.size or (one.times != other.times).any()


def test_a_trace_is_replayed_from_its_first_request_on() -> None:
    lines = ["at,level,rows", "100.5,2,1", "100,1,4", "102,6,2"]
    made, users = replayed(lines, TWO)

    assert made.times.tolist() == [0, 0.5, 2]
    assert made.rows.tolist() == [4, 1, 2]
    assert [users[i].name for i in made.users] == ["few", "many", "level-6"]
    assert users[-1].deadline is None
    assert made.seconds == 2


def test_columns_of_a_trace_may_stand_in_any_order() -> None:
    made, _ = replayed(["level,rows,at", "1,4,0.5"], TWO)

    assert made.rows.tolist() == [4]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "begins with the line"),
        (["1,2,3"], "begins with the line"),
        (["at,level,rows"], "no requests"),
        (["at,level,rows", "0,1,1", "0,high,1"], "line 3"),
        (["at,level,rows", "0,1"], "line 2"),
        (["at,level,rows", "0,0,1"], "at least 1"),
        (["at,level,rows", "0,1,0"], "at least 1"),
        (["at,level,rows", "inf,1,1"], "must be numbers"),
    ],
)
def test_traces_that_are_none(lines: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says):
        replayed(lines, TWO)
