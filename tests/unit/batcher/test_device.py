"""What the models of a pod share: low levels are cut while a higher one is alive anywhere."""

from math import inf
from typing import Any

from tidegate_batcher.device import ALIVE, Device
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.item import Item
from tidegate_batcher.scheduler import MAKES_WAY, Batch, Scheduler
from tidegate_contract.table import BatchSettings, Level

LEVELS = (Level(level=1, name="high"), Level(level=2, name="low", max_slice=0.0105))
A, B = 0.001, 0.001


def model(device: Device, *, most: int = 1024, slots: int = 1, **more: Any) -> Scheduler:
    made = Scheduler(device)
    policy = BatchSettings(levels=LEVELS, default_level=2, max_wait=0.0, **more)
    made.configure(policy, Fixed(), {})
    made.open(1, slots=slots, most=most)
    return made


def offer(made: Scheduler, now: float, *, level: int, rows: int = 1) -> Item:
    one = Item(level, rows, "a", now)
    assert made.offer(one, 1, now) == []
    return one


def one(batches: list[Batch]) -> Batch:
    (batch,) = batches
    return batch


def taught(made: Scheduler, now: float = 0.0) -> float:
    for i in range(30):
        offer(made, now, level=2, rows=1 + 19 * (i % 2))
        batch = one(made.poll(now))
        now += A + B * batch.rows
        made.finished(batch, now)
    return now


def test_full_size_while_nobody_higher_is_alive() -> None:
    made = model(Device())
    now = taught(made)
    offer(made, now, level=2, rows=1000)
    assert one(made.poll(now)).rows == 1000


def test_slices_while_a_higher_level_of_any_model_is_alive() -> None:
    device = Device()
    low, high = model(device), model(device)
    now = taught(low)
    big = offer(low, now, level=2, rows=25)
    offer(high, now, level=1)
    answered = one(high.poll(now))
    assert low.poll(now) == []  # it makes way
    assert low.explain(now)[0].reason == MAKES_WAY
    high.finished(answered, now)
    begins = []
    for rows in (9, 9):
        batch = one(low.poll(now))
        assert (batch.rows, batch.sliced) == (rows, True)
        begins.append(batch.begin)
        now += A + B * rows
        low.finished(batch, now)
    assert begins == [0, 9]
    now += ALIVE  # the high level is gone
    last = one(low.poll(now))
    assert (last.members, last.begin, last.rows) == ((big,), 18, 7)


def test_one_slice_at_a_time_in_the_whole_pod() -> None:
    device = Device()
    first, second, high = model(device, slots=3), model(device), model(device)
    offer(first, 0.0, level=2, rows=40)
    offer(second, 0.0, level=2)
    offer(high, 0.0, level=1)
    high.finished(one(high.poll(0.0)), 0.001)
    slice_ = one(first.poll(0.0))
    assert slice_.rows == 1  # nothing is known yet
    assert second.poll(0.0) == []
    assert second.explain(0.0)[0].reason == MAKES_WAY
    first.finished(slice_, 0.002)
    one(second.poll(0.002))
    assert first.poll(0.002) == []


def test_who_makes_way_looks_again_as_the_other_may_leave_without_a_word() -> None:
    device = Device()
    low, high = model(device), model(device, min_batch_size=2)
    waits = offer(high, 0.0, level=1)
    offer(low, 0.0, level=2)
    assert low.poll(0.0) == []
    assert high.withdraw(waits)
    wake = low.next_wake()
    assert wake is not None
    assert one(low.poll(wake)).rows == 1


def test_who_joins_one_that_waits_is_alive() -> None:
    made = model(Device())
    joined = offer(made, 0.0, level=2)
    made.urge(joined, 0.0, level=1, send_by=inf, answer_by=inf)
    made.finished(one(made.poll(0.0)), 0.001)
    offer(made, 0.001, level=2, rows=40)
    assert one(made.poll(0.001)).sliced


def test_many_small_requests_of_a_low_level_are_cut_too() -> None:
    device = Device()
    low, high = model(device), model(device)
    now = taught(low)
    for _ in range(50):
        offer(low, now, level=2)
    offer(high, now, level=1)
    high.finished(one(high.poll(now)), now)
    assert one(low.poll(now)).rows == 9


def test_who_makes_way_for_long_goes_by_age() -> None:
    device = Device()
    low, high = model(device), model(device)
    now = taught(low)
    offer(low, now, level=2, rows=50)
    offer(high, now, level=1)
    one(high.poll(now))  # and it hangs
    assert low.poll(now + 1.9) == []
    assert low.poll(now + 2.0) == []
    assert one(low.poll(now + 2.1)).rows == 9


def test_low_rows_beside_a_high_one_are_bounded_as_well() -> None:
    made = model(Device())
    now = taught(made)
    for _ in range(50):
        offer(made, now, level=2)
    high = offer(made, now, level=1)
    batch = one(made.poll(now))
    assert (batch.members[0], batch.rows) == (high, 9)


def test_a_model_that_left_keeps_nobody_alive() -> None:
    device = Device()
    low, high = model(device), model(device)
    now = taught(low)
    offer(high, now, level=1)
    assert device.alive_above(2, now)
    device.leave(high)
    assert not device.alive_above(2, now)
    assert not device.alive_above(1, now)
