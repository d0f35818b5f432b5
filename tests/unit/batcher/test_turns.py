"""Lanes of one device: who sends beside whom, and what an equal lane costs another.

Virtual time; the device divides itself among the batches in flight, up to its number of cores each.
"""

from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.item import Item
from tidegate_batcher.latency import Latency
from tidegate_batcher.scheduler import Batch, Scheduler
from tidegate_batcher.turns import ENOUGH, KEPT, LEARNT, Turns
from tidegate_contract.table import BatchSettings

STABLE, CANARY = 1, 2
FIXED, PER_ROW, MOST = 0.002, 0.0005, 16
CAPACITY = MOST / (FIXED + PER_ROW * MOST)
WARM = 5.0


class Device:
    """Batches in flight, each with the seconds of work that are left of it."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.left: dict[Batch, float] = {}
        self.overlaps = 0

    @property
    def speed(self) -> float:
        return min(1.0, self.cores / len(self.left)) if self.left else 0.0

    def end(self, now: float) -> float:
        return now + min(self.left.values()) / self.speed if self.left else float("inf")

    def work(self, seconds: float) -> list[Batch]:
        done = seconds * self.speed
        self.left = {batch: left - done for batch, left in self.left.items()}
        return [batch for batch, left in self.left.items() if left <= 1e-9]


def run(
    share: float, *, load: float, cores: int = 1, slower: float = 1.0, seconds: float = 60.0
) -> tuple[dict[int, list[float]], Device]:
    """Poisson arrivals at a share of the capacity, in part for the canary; latencies by lane."""
    draw, number = Random(7), count()
    scheduler = Scheduler()
    settings = BatchSettings(deadline=None)
    scheduler.configure(settings, Adaptive(), {CANARY: max(2 * share, 0.1)} if share else {})
    for lane in (STABLE, CANARY):
        scheduler.open(lane, slots=1, most=MOST)
    device = Device(cores)
    arrivals: list[tuple[float, int, int]] = []
    time = 0.0
    while time < seconds:
        time += draw.expovariate(load * CAPACITY)
        lane = CANARY if draw.random() < share else STABLE
        heappush(arrivals, (time, next(number), lane))
    latencies: dict[int, list[float]] = {STABLE: [], CANARY: []}
    now = 0.0
    while arrivals or scheduler.waiting or device.left:
        wake = scheduler.next_wake()
        due = min(
            device.end(now),
            arrivals[0][0] if arrivals else float("inf"),
            float("inf") if wake is None else max(wake, now),
        )
        ended, now = device.work(due - now), due
        for batch in ended:
            del device.left[batch]
            scheduler.finished(batch, now)
            if now > WARM:
                latencies[batch.lane] += [now - item.arrived for item in batch.members]
        while arrivals and arrivals[0][0] <= now:
            _, _, lane = heappop(arrivals)
            scheduler.offer(Item(3, 1, None, now), lane, now)
        for batch in scheduler.poll(now):
            device.overlaps += bool(device.left)
            cost = (FIXED + PER_ROW * batch.rows) * (slower if batch.lane == CANARY else 1.0)
            device.left[batch] = cost
    return latencies, device


def p95(latencies: list[float]) -> float:
    return sorted(latencies)[int(0.95 * len(latencies))]


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_an_equal_lane_costs_what_its_batches_do_and_looks_equal(load: float, share: float) -> None:
    """On one core; dividing it made stable's p95 1.8 of what it is alone, and the canary look a
    third faster than stable.
    """
    alone, _ = run(0.0, load=load)
    beside, device = run(share, load=load)
    assert device.overlaps < 200
    assert p95(beside[STABLE]) < 1.55 * p95(alone[STABLE])
    if load < 0.9:
        assert p95(beside[STABLE]) < 1.4 * p95(alone[STABLE])
    assert 0.85 < p95(beside[CANARY]) / p95(beside[STABLE]) < 1.1


def test_two_cores_are_both_used() -> None:
    _, device = run(0.2, load=0.6, cores=2)
    assert device.overlaps > 2000


def test_nobody_waits_for_a_lane_that_is_much_slower() -> None:
    alone, _ = run(0.0, load=0.4)
    beside, device = run(0.05, load=0.4, slower=10.0)
    assert device.overlaps > 2000
    assert p95(beside[STABLE]) < 3.0 * p95(alone[STABLE])


def judge(turns: Turns, now: float) -> Latency:
    """Show a device that does no more with two batches than with one; returns what one takes."""
    solo = Latency()
    for _ in range(LEARNT):
        turns.learn(solo, 4, 0.01, 0.01, now)
    for _ in range(ENOUGH):
        turns.learn(solo, 4, 0.02, 0.01, now)
    return solo


@pytest.fixture
def taking_turns() -> Scheduler:
    """Two lanes, of which the first has two slots."""
    scheduler = Scheduler()
    judge(scheduler._turns, 0.0)
    scheduler.configure(BatchSettings(deadline=None, max_wait=0.0), Adaptive(), {})
    scheduler.open(STABLE, slots=2, most=1)
    scheduler.open(CANARY, slots=1, most=1)
    return scheduler


def offer(scheduler: Scheduler, lane: int, now: float) -> None:
    scheduler.offer(Item(3, 1, None, now), lane, now)


def test_a_lane_with_slots_left_lets_one_go_that_came_before(taking_turns: Scheduler) -> None:
    offer(taking_turns, STABLE, 0.0)
    (first,) = taking_turns.poll(0.0)
    offer(taking_turns, CANARY, 0.001)
    offer(taking_turns, STABLE, 0.002)
    assert taking_turns.poll(0.003) == []
    taking_turns.finished(first, 0.004)
    (second,) = taking_turns.poll(0.004)
    assert second.lane == CANARY


def test_a_batch_that_does_not_end_stops_no_other_lane(taking_turns: Scheduler) -> None:
    offer(taking_turns, CANARY, 0.0)
    taking_turns.poll(0.0)
    offer(taking_turns, STABLE, 0.1)
    assert taking_turns.poll(0.1) == []
    wake = taking_turns.next_wake()
    assert wake is not None
    (sent,) = taking_turns.poll(wake)
    assert sent.lane == STABLE


def test_a_device_is_judged_anew() -> None:
    turns = Turns()
    solo = judge(turns, 1.0)
    assert turns.kept(1.0 + KEPT - 0.1)
    assert not turns.kept(1.0 + KEPT)
    for _ in range(4 * ENOUGH):
        turns.learn(solo, 4, 0.01, 0.005, 1.0 + KEPT)
    assert not turns.kept(1.1 + KEPT)


def test_batches_get_the_device_to_themselves_until_something_is_known() -> None:
    turns = Turns()
    for _ in range(ENOUGH):
        turns.learn(Latency(), 4, 0.02, 0.01, 0.0)
    assert turns.kept(0.5)
