"""Nobody starves, and nobody pays more for that than the reserve."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_batcher.aging import MOST, Reserve
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.item import Item
from tidegate_batcher.scheduler import Scheduler
from tidegate_contract.table import BatchSettings

MOST_ROWS = 8


def test_the_reserve_saves_only_while_an_aged_item_waits() -> None:
    reserve = Reserve(0.1, 2.0)
    reserve.save(10.0, 8.0)
    assert reserve.saved == pytest.approx(0.2)
    reserve.save(20.0, 19.0)  # nobody aged waited from 10 to 19
    assert reserve.saved == pytest.approx(0.1)
    reserve.save(21.0, 19.0)
    assert reserve.saved == pytest.approx(0.2)


def test_a_debt_is_paid_off_before_anybody_goes_again() -> None:
    reserve = Reserve(0.1, 2.0)
    reserve.save(1.0, 0.0)
    assert reserve.may_go()
    reserve.pay(0.5)
    reserve.save(4.9, 0.0)
    assert not reserve.may_go()
    reserve.save(6.0, 0.0)  # paid off at 5.0
    assert reserve.may_go()
    assert reserve.saved == pytest.approx(0.1)
    reserve.save(1_000.0, 0.0)
    assert reserve.saved == pytest.approx(0.1 * MOST)


def flooded(
    low: int,
    *,
    seconds: float,
    a: float,
    b: float,
    same_group: bool,
    share: float = 0.05,
    after: float = 2.0,
) -> dict[str, Any]:
    """Level 1 has more than the device can do, all the time; some of level 5 wait beside it."""
    made = Scheduler()
    made.configure(
        BatchSettings(
            max_wait=0.0,
            aging_after=after,
            aging_reserve=share,
            queue_max_size=10**6,
            deadline=None,
        ),
        Fixed(),
        {},
    )
    made.open(1, slots=1, most=MOST_ROWS)
    now, aged_time, high_rows = 0.0, 0.0, 0
    lows: list[Item] = []
    waits: list[float] = []
    for _ in range(low):
        lows.append(Item(5, 1, "a" if same_group else "b", 0.0))
        made.offer(lows[-1], 1, 0.0)
    while now < seconds and len(waits) < low:
        while made.counts[1] < 2 * MOST_ROWS:
            made.offer(Item(1, 1, "a", now), 1, now)
        (batch,) = made.poll(now)
        took = a + b * batch.rows
        mine = [one for one in batch.members if one.level == 5]
        waits += [now - one.arrived for one in mine]
        aged_time += took * len(mine) / batch.rows
        high_rows += batch.rows - len(mine)
        now += took
        made.finished(batch, now)
    return {"waits": waits, "share": aged_time / now, "high": high_rows, "now": now}


@settings(max_examples=30, deadline=None)
@given(
    low=st.integers(1, 60),
    a=st.floats(0.001, 0.1),
    b=st.floats(0.0001, 0.05),
    same_group=st.booleans(),
)
def test_the_worst_wait_of_the_lowest_under_a_flood_of_the_highest_is_bounded(
    low: int, a: float, b: float, same_group: bool
) -> None:
    share, after = 0.05, 2.0
    batches = -(-low // MOST_ROWS)
    work = batches * (a + b * MOST_ROWS)
    bound = 4 * after + work / share
    got = flooded(low, seconds=2 * bound, a=a, b=b, same_group=same_group)
    assert len(got["waits"]) == low
    assert max(got["waits"]) <= bound


@pytest.mark.parametrize("same_group", [False, True])
def test_the_flood_loses_the_reserve_and_no_more(same_group: bool) -> None:
    a, b, seconds = 0.01, 0.002, 120.0
    got = flooded(10**5, seconds=seconds, a=a, b=b, same_group=same_group)
    aged = seconds - 2.0  # the first two seconds nobody is
    assert 0.05 * aged / seconds * 0.98 <= got["share"] <= 0.10
    alone = MOST_ROWS * seconds / (a + b * MOST_ROWS)
    assert got["high"] >= (1 - 0.10) * alone


def test_a_reserve_that_is_taken_away_has_no_debts() -> None:
    reserve = Reserve(0.05, 2.0)
    reserve.save(1.0, 0.0)
    reserve.pay(1.0)
    reserve.share = 0.0
    reserve.save(5.0, 0.0)
    assert not reserve.may_go()
