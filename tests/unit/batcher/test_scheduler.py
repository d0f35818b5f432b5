"""The scheduler: the right one first, nobody late, nobody starved, bounds kept."""

from typing import Any

import pytest

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.item import Item
from tidegate_batcher.scheduler import PATIENCE, Batch, Full, Late, Scheduler
from tidegate_batcher.strategy import Decision, View
from tidegate_contract.table import BatchSettings, Level


def item(
    arrived: float = 0.0, *, group: object = "a", rows: int = 1, level: int = 3, **more: Any
) -> Item:
    return Item(level, rows, group, arrived, **more)


PLAIN = tuple(Level(level=i, name=f"l{i}") for i in range(1, 6))


def scheduler(lanes: dict[int, Any] | None = None, **settings: Any) -> Scheduler:
    """With the Fixed strategy, and levels that all wait alike."""
    made = Scheduler()
    shares = settings.pop("shares", {})
    plain: dict[str, Any] = {"max_wait": 0.0, "levels": PLAIN}
    made.configure(BatchSettings(**(plain | settings)), Fixed(), shares)
    for key, sizes in (lanes or {1: {}}).items():
        made.open(key, **({"slots": 1, "most": 4} | sizes))
    return made


def offer(made: Scheduler, *many: Item, lane: int = 1) -> list[Item]:
    for one in many:
        assert made.offer(one, lane, one.arrived) == []
    return list(many)


def poll_one(made: Scheduler, now: float = 0.0) -> Batch:
    (batch,) = made.poll(now)
    return batch


def test_a_free_slot_takes_what_is_there_at_once() -> None:
    made = scheduler()
    (only,) = offer(made, item())
    assert poll_one(made).members == [only]
    assert made.next_wake() is None


def test_one_batch_in_flight_for_each_slot() -> None:
    made = scheduler({1: {"slots": 2, "most": 1}})
    offer(made, *(item(i) for i in range(5)))
    first = made.poll(0)
    assert len(first) == 2
    assert made.poll(0) == []
    made.finished(first[0], 1.0)
    assert [batch.members[0].arrived for batch in made.poll(1.0)] == [2]


def test_a_batch_that_is_not_full_waits_for_its_oldest() -> None:
    made = scheduler(max_wait=0.005)
    offer(made, item(1.0))
    assert made.poll(1.001) == []
    assert made.next_wake() == 1.005
    offer(made, item(1.003))
    assert made.poll(1.003) == []
    assert made.next_wake() == 1.005
    assert len(poll_one(made, 1.005).members) == 2
    assert made.next_wake() is None


def test_nobody_is_woken_for_who_has_gone() -> None:
    made = scheduler(max_wait=1.0)
    (gone, _) = offer(made, item(1.0), item(1.25))
    assert made.poll(1.25) == []
    made.withdraw(gone)
    assert made.poll(1.5) == []
    assert made.next_wake() == 2.25


def test_nobody_is_woken_for_a_wait_that_is_over() -> None:
    made = scheduler(max_wait=1.0, max_batch_size=2)
    offer(made, item())
    assert made.poll(0) == []
    offer(made, item(), item())
    assert len(poll_one(made).members) == 2
    assert made.poll(0) == []
    assert made.next_wake() is None


def test_one_that_goes_alone_ends_the_wait_of_others() -> None:
    made = scheduler(max_wait=1.0)
    first = offer(made, item(group="a"))
    assert made.poll(0) == []
    offer(made, item(group="b", alone=True))
    assert poll_one(made).members == first


def test_a_group_that_fills_up_ends_the_wait_of_another() -> None:
    made = scheduler(max_wait=1.0, max_batch_size=3)
    (first,) = offer(made, item(group="a"))
    for _ in range(2):
        assert made.poll(0) == []
        offer(made, item(group="b"))
    assert made.poll(0) == []
    offer(made, item(group="b"))
    assert made.stirs(1, 0)
    assert poll_one(made).members == [first]


def test_a_full_batch_does_not_wait() -> None:
    made = scheduler(max_wait=1.0)
    offer(made, *(item() for _ in range(5)))
    batch = poll_one(made)
    assert len(batch.members) == 4
    made.finished(batch, 0.1)
    assert made.poll(0.1) == []
    assert made.next_wake() == 1.0


def test_a_changed_policy_holds_at_once() -> None:
    made = scheduler(max_wait=1.0)
    offer(made, item(), item())
    assert made.poll(0) == []
    made.configure(BatchSettings(max_wait=1.0, max_batch_size=2), Fixed(), {})
    assert len(poll_one(made).members) == 2


def test_a_limit_above_the_models_is_cut() -> None:
    made = scheduler({1: {"most": 2}}, max_batch_size=100)
    offer(made, *(item() for _ in range(3)))
    assert len(poll_one(made).members) == 2


def test_rows_count_not_requests_and_nobody_overtakes() -> None:
    made = scheduler()
    many = offer(made, item(rows=2), item(rows=3), item(rows=1))
    batch = poll_one(made)
    assert batch.members == many[:1]  # the third would fit, but it came after the second
    made.finished(batch, 0)
    assert poll_one(made).members == many[1:]


def test_one_larger_than_the_policy_goes_alone() -> None:
    made = scheduler({1: {"most": 8}}, max_batch_size=2, max_wait=1.0)
    big, small = offer(made, item(rows=5), item())
    batch = poll_one(made)
    assert (batch.members, batch.rows) == ([big], 5)
    made.finished(batch, 1.0)
    assert poll_one(made, 1.0).members == [small]


def test_highest_level_first_and_lower_ones_fill_its_batch() -> None:
    made = scheduler(aging_after=100.0)
    low = offer(made, *(item(i, level=5) for i in range(3)))
    other = offer(made, item(3, level=4, group="b"))
    high = offer(made, item(4, level=1), item(5, level=1))
    batch = poll_one(made, 5.0)
    assert batch.members == [*high, *low[:2]]
    made.finished(batch, 0)
    batch = poll_one(made, 5.0)
    assert batch.members == other
    made.finished(batch, 0)
    assert poll_one(made, 5.0).members == low[2:]


def test_the_oldest_head_goes_first_never_the_fullest() -> None:
    made = scheduler(max_wait=1.0)
    (old,) = offer(made, item(0.0, group="a"))
    offer(made, *(item(0.1, group="b") for _ in range(4)))
    assert poll_one(made, 0.1).members == [old]


def test_what_must_go_alone_goes_alone_and_at_once() -> None:
    made = scheduler(max_wait=1.0)
    many = offer(made, *(item(alone=True) for _ in range(3)))
    for one in many:
        batch = poll_one(made)
        assert batch.members == [one]
        made.finished(batch, 0)


def test_who_cancels_leaves_the_queue() -> None:
    made = scheduler(max_wait=1.0)
    many = offer(made, *(item() for _ in range(4)))
    assert made.withdraw(many[1])
    assert not made.withdraw(many[1])
    assert made.waiting == 3
    assert made.poll(0) == []  # not full any more
    batch = poll_one(made, 1.0)
    assert batch.members == [many[0], *many[2:]]
    assert not made.withdraw(many[0])


def test_a_lane_that_closes_gives_its_queue_back_and_ends_its_batches() -> None:
    made = scheduler({1: {"most": 1}})
    sent, *waiting = offer(made, *(item(i) for i in range(3)))
    batch = poll_one(made)
    assert batch.members == [sent]
    assert made.close(1) == waiting
    assert made.waiting == 0
    assert made.in_use(1)
    assert list(made.sent()) == [batch]
    made.finished(batch, 1.0)
    assert not made.in_use(1)
    assert made.poll(1.0) == []


def test_a_bounded_lane_that_is_slower_pauses_while_others_wait() -> None:
    made = scheduler({1: {"most": 1}, 2: {"most": 1}}, shares={2: 0.1})

    def run(lane: int, seconds: float, now: float) -> float:
        offer(made, item(now), lane=lane)
        (batch,) = [one for one in made.poll(now) if one.lane == lane]
        made.finished(batch, now + seconds)
        return now + seconds

    now = run(1, 1.0, 0.0)
    now = run(2, 2.0, now)  # nobody else waits
    offer(made, item(now), item(now))
    offer(made, item(now), lane=2)
    (stable,) = made.poll(now)
    assert stable.lane == 1  # one of stable's still waits
    assert made.next_wake() == pytest.approx(now + 9 * 2.0)
    made.finished(stable, now + 0.1)
    # The last of stable's is sent, nobody else waits: now it may.
    assert [batch.lane for batch in made.poll(now + 0.1)] == [1, 2]


def test_a_pause_ends_though_others_wait_on() -> None:
    made = scheduler({1: {"most": 1}, 2: {"most": 1}}, shares={2: 0.25})
    for lane, sent, ended in ((1, 0.0, 1.0), (2, 1.0, 2.5)):
        offer(made, item(sent), lane=lane)
        made.finished(poll_one(made, sent), ended)
    offer(made, *(item(2.5) for _ in range(2)))
    offer(made, item(2.5), lane=2)
    assert [batch.lane for batch in made.poll(2.5)] == [1]  # and it hangs
    assert made.next_wake() == 7.0  # three times 1.5 s after its end
    assert [batch.lane for batch in made.poll(7.0)] == [2]


def test_a_bounded_lane_takes_its_turn() -> None:
    made = scheduler({1: {}, 2: {}}, shares={2: 0.1})
    offer(made, item(0.0))
    stable = poll_one(made)
    (first,) = offer(made, item(0.1))
    offer(made, item(0.2), lane=2)
    (last,) = offer(made, item(0.3))
    assert made.poll(0.4) == []  # its slot is free, but stable's next request came before
    assert made.next_wake() == 0.2 + PATIENCE
    made.finished(stable, 0.5)
    (stable, canary) = made.poll(0.5)
    assert stable.members == [first, last]
    assert canary.lane == 2
    offer(made, item(0.6), lane=2)
    offer(made, item(0.7))
    made.finished(canary, 0.8)
    assert poll_one(made, 0.8).lane == 2  # stable's waits too, but came after


def test_a_turn_is_not_waited_for_below_a_higher_level_nor_for_ever() -> None:
    made = scheduler({1: {}, 2: {}}, shares={2: 0.1})
    offer(made, item(0.0))
    poll_one(made)  # and it hangs
    offer(made, item(0.1))
    offer(made, item(0.2, level=2), lane=2)
    canary = poll_one(made, 0.2)
    offer(made, item(0.3), lane=2)
    made.finished(canary, 0.4)
    assert made.poll(0.4) == []
    assert made.next_wake() == 0.3 + PATIENCE
    assert poll_one(made, 0.3 + PATIENCE).lane == 2


def test_a_main_lane_waits_for_nobody() -> None:
    made = scheduler({1: {}, 2: {}}, shares={2: 0.1})
    offer(made, item(0.0), lane=2)
    poll_one(made)  # and it hangs
    offer(made, item(0.1), lane=2)
    offer(made, item(0.2))
    assert poll_one(made, 0.2).lane == 1


def test_a_guest_takes_a_slot() -> None:
    made = scheduler()
    guest = object()
    made.occupy(1, guest)
    assert not made.lanes[1].free
    assert (made.busy, made.in_use(1)) == (1, True)
    offer(made, item())
    assert made.poll(0) == []
    made.vacate(guest)
    poll_one(made)


def test_full_says_when_to_come_back() -> None:
    made = scheduler(queue_max_size=3)
    offer(made, *(item() for _ in range(3)))
    with pytest.raises(Full, match="Exceeds maximum queue size") as full:
        made.offer(item(), 1, 0.0)
    assert full.value.retry_after == 1
    # Batches of 4, 10 s each: what waits leaves at 0.4 rows a second.
    now = 0.0
    for _ in range(3):
        batch = poll_one(made, now)
        offer(made, *(item(now) for _ in range(3)))
        now += 10.0
        made.finished(batch, now)
    with pytest.raises(Full) as full:
        made.offer(item(now), 1, now)
    assert full.value.retry_after == 10


def test_a_level_has_a_queue_of_its_own() -> None:
    levels = (*PLAIN[:4], Level(level=5, name="low", max_queue=1))
    made = scheduler(levels=levels, on_full="DropLowest")
    offer(made, item(level=5), item(level=4))
    with pytest.raises(Full, match="level 5"):
        made.offer(item(level=5), 1, 0.0)
    assert made.waiting == 2


def test_the_newest_of_the_lowest_level_makes_room() -> None:
    made = scheduler(queue_max_size=3, on_full="DropLowest")
    _, newest, _ = offer(made, item(0, level=5), item(1, level=5, group="b"), item(2, level=4))
    assert made.offer(item(3, level=3), 1, 3.0) == [newest]
    assert newest.withdrawn
    assert not made.withdraw(newest)
    with pytest.raises(Full):
        made.offer(item(3, level=5), 1, 3.0)
    assert made.waiting == 3


def test_who_is_too_late_is_taken_out_and_the_poll_is_due_then() -> None:
    made = scheduler()
    offer(made, item(0.0))
    batch = poll_one(made)
    first, odd, kept = offer(
        made, item(0.0, answer_by=5.0), item(0.0, answer_by=9.0, send_by=2.0), item(0.0)
    )
    assert made.next_wake() == 2.0
    assert made.poll(2.0) == []
    assert made.expired(2.0) == [odd]
    assert made.next_wake() == 5.0
    assert made.expired(5.0) == [first]
    assert made.next_wake() is None
    made.finished(batch, 6.0)
    assert poll_one(made, 6.0).members == [kept]


class Waits:
    """A strategy that never has enough."""

    def decide(self, view: View) -> Decision:
        return Decision(0, "more may come", view.now + 9.0)


@pytest.mark.parametrize("strategy", [Fixed(), Waits()])
@pytest.mark.parametrize("limits", [{"send_by": 0.2}, {"answer_by": 0.2}])
def test_nobody_waits_for_company_until_it_is_too_late(
    strategy: Any, limits: dict[str, Any]
) -> None:
    made = scheduler()
    made.configure(BatchSettings(max_wait=1.0, levels=PLAIN), strategy, {})
    (hurried,) = offer(made, item(**limits))
    assert made.poll(0.0) == []
    assert made.next_wake() == 0.1  # half of its time, as nothing is known of what that takes
    assert poll_one(made, 0.1).members == [hurried]


def test_who_waits_is_sent_with_a_hurried_one_that_comes_later() -> None:
    made = scheduler(max_wait=1.0)
    many = offer(made, item(0.0))
    assert made.poll(0.0) == []
    many += offer(made, item(0.2, send_by=0.6))
    assert made.poll(0.2) == []
    assert made.next_wake() == 0.4
    assert poll_one(made, 0.4).members == many


def test_what_is_known_of_the_cost_says_how_long_may_be_waited() -> None:
    made = scheduler()
    now = learn(made, a=0.1, b=0.0)
    made.configure(BatchSettings(max_wait=9.0, levels=PLAIN), Fixed(), {})
    offer(made, item(now, answer_by=now + 1.0))
    assert made.poll(now) == []
    wake = made.next_wake()
    assert wake
    assert now + 0.5 < wake < now + 0.9
    assert poll_one(made, wake)
    assert made.expired(wake) == []


def test_who_comes_too_late_is_refused() -> None:
    made = scheduler()
    with pytest.raises(Late):
        made.offer(item(0.0, answer_by=1.0), 1, 1.0)
    with pytest.raises(Late):
        made.offer(item(0.0, send_by=1.0), 1, 1.1)
    assert made.waiting == 0


def learn(made: Scheduler, *, a: float = 0.01, b: float = 0.01, now: float = 0.0) -> float:
    """Have twenty batches of one and of four rows finish."""
    for i in range(24):
        offer(made, *(item(now) for _ in range(1 + 3 * (i % 2))))
        batch = poll_one(made, now)
        now += a + b * batch.rows
        made.finished(batch, now)
    return now


def test_who_would_be_late_is_refused_once_the_cost_is_known() -> None:
    made = scheduler()
    offer(made, *(item(answer_by=0.001) for _ in range(9)))  # nothing known yet
    made.expired(1.0)
    now = learn(made, now=1.0)  # 20 ms for one row, 50 ms for four
    offer(made, item(now))
    poll_one(made, now)
    offer(made, *(item(now) for _ in range(8)))  # 20 ms, then twice 50 ms, then its own 20 ms
    with pytest.raises(Late, match="deadline"):
        made.offer(item(now, answer_by=now + 0.135), 1, now)
    offer(made, item(now, answer_by=now + 0.145))
    # Those of a lower level are not ahead.
    offer(made, item(now, level=2, answer_by=now + 0.045))


def test_nobody_is_refused_by_what_another_group_has_taught() -> None:
    made = scheduler()
    now = learn(made)
    for _ in range(19):
        offer(made, item(now, group="b"))
        batch = poll_one(made, now)
        now += 1.0
        made.finished(batch, now)
    offer(made, item(now, group="b", answer_by=now + 0.05))  # nineteen are too few to judge by
    batch = poll_one(made, now)
    made.finished(batch, now + 1.0)
    with pytest.raises(Late):
        made.offer(item(now + 1.0, group="b", answer_by=now + 1.5), 1, now + 1.0)


def test_the_one_who_cannot_be_met_is_given_up_before_it_costs_anything() -> None:
    made = scheduler()
    now = learn(made)
    offer(made, item(now))
    batch = poll_one(made, now)
    hopeless, other = offer(made, item(now, answer_by=now + 0.1), item(now))
    now += 0.09  # the one before it took longer than usual
    made.finished(batch, now, ok=False)
    assert poll_one(made, now).members == [other]
    assert made.expired(now) == [hopeless]


def test_a_long_queue_of_hopeless_ones_is_given_up_at_once() -> None:
    made = scheduler({1: {"most": 4}}, queue_max_size=10_000)
    now = learn(made)
    made.configure(
        BatchSettings(max_batch_size=1, early_drop=False, queue_max_size=10_000), Fixed(), {}
    )
    made.occupy(1, "guest")
    many = offer(made, *(item(now, answer_by=now + 0.1) for _ in range(5_000)))
    made.configure(BatchSettings(max_batch_size=1, queue_max_size=10_000), Fixed(), {})
    made.vacate("guest")
    assert made.poll(now + 0.09) == []
    assert made.expired(now + 0.09) == many


def test_a_deadline_is_met_by_a_smaller_batch() -> None:
    made = scheduler(max_wait=1.0)
    made.configure(BatchSettings(max_wait=1.0, levels=PLAIN), Adaptive(), {})
    now = learn(made)
    tight, *rest = (item(now, answer_by=now + 0.035), *(item(now) for _ in range(3)))
    offer(made, tight, *rest)
    batch = poll_one(made, now)
    assert batch.rows < 4  # four take 50 ms
    assert tight in batch.members
    assert made.expired(now) == []


def test_a_waiting_item_is_urged() -> None:
    made = scheduler(max_wait=9.0)
    many = offer(made, *(item(level=5) for _ in range(6)))
    made.urge(many[5], 0.0, level=1, send_by=3.0, answer_by=8.0)
    made.urge(many[4], 0.0, level=6, send_by=9.0, answer_by=7.0)
    assert (many[4].level, many[5].level, many[5].send_by) == (5, 1, 3.0)
    batch = poll_one(made)
    assert batch.members == [many[5], *many[:3]]
    assert made.next_wake() == 7.0
    assert made.expired(7.0) == [many[4]]
    assert made.waiting == 1


def test_what_the_model_cannot_take_at_once_goes_in_slices() -> None:
    made = scheduler()
    big, small = offer(made, item(rows=9), item())
    for begin, rows in ((0, 4), (4, 4), (8, 1)):
        batch = poll_one(made)
        assert (batch.members, batch.begin, batch.rows, batch.sliced) == ((big,), begin, rows, True)
        made.finished(batch, 0.0)
    assert poll_one(made).members == [small]
    assert made.waiting == 0


def test_of_a_sliced_item_that_is_withdrawn_no_more_goes() -> None:
    made = scheduler()
    big, small = offer(made, item(rows=9), item())
    batch = poll_one(made)
    assert made.waiting == 2
    assert made.withdraw(big)
    made.finished(batch, 0.0)
    assert poll_one(made).members == [small]


def test_a_batch_stays_within_its_memory() -> None:
    made = scheduler({1: {"most": 8, "row_bytes": 6.0}}, memory_limit=32)
    many = offer(made, *(item(size=10) for _ in range(3)))
    batch = poll_one(made)
    assert batch.members == many[:2]
    made.finished(batch, 0.0)
    made.withdraw(many[2])
    offer(made, item(rows=5, size=50))  # by itself too large: in slices of two
    for rows in (2, 2, 1):
        batch = poll_one(made)
        assert (batch.rows, batch.sliced) == (rows, True)
        made.finished(batch, 0.0)


def test_batches_shrink_under_pressure_and_grow_back() -> None:
    made = scheduler({1: {"slots": 9, "most": 8}})
    made.press(0.5)
    offer(made, *(item() for _ in range(8)))
    assert [batch.rows for batch in made.poll(0)] == [4, 4]
    made.press(1.0)
    offer(made, *(item() for _ in range(8)))
    assert [batch.rows for batch in made.poll(0)] == [8]


class _Stubborn:
    """Says to wait until a time that is over."""

    def decide(self, view: View) -> Decision:
        return Decision(0, "stubborn", view.now)


def test_a_strategy_that_waits_for_what_is_over_sends() -> None:
    scheduler = Scheduler()
    scheduler.configure(BatchSettings(), _Stubborn(), {})
    scheduler.open(1, slots=1, most=8)
    scheduler.offer(Item(3, 1, "g", 1.0), 1, 1.0)
    (batch,) = scheduler.poll(1.0)
    assert batch.rows == 1
