"""The versions of one model and what goes to them: nobody lost, nobody twice, counted rightly.

What goes together and when is tested with the scheduler; here, that versions, instances, levels and
shares reach it as they should.
"""

import random
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tidegate_batcher.fixed import Fixed
from tidegate_contract.table import BatchSettings, Level
from tidegate_sidecar.core.batcher import Batch, Batcher
from tidegate_sidecar.core.counters import Counters
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Call, Decoded, Group, Input, Plan
from tidegate_sidecar.core.version import VersionInfo

COUNTERS = Counters()
LEVELS = tuple(Level(level=level, name=str(level)) for level in range(1, 6))


def pending(
    now: float = 0.0,
    *,
    shape: int = 2,
    rows: int = 1,
    level: int = 3,
    version: int = 1,
    alone: bool = False,
) -> Pending:
    """A request as it comes out of admission; its shape is its group."""
    call = Call((Input("x", "INT8", (rows, shape), rows * shape),))
    one = Pending(None, Decoded(b"", level, call, (), rows * shape), b"", 0, level, now)
    group = Group((("x", "INT8", (shape,)),), (), b"{}", batched=True, alone=alone)
    plan = Plan(call, group, rows)
    one.assign("stable", version, plan, COUNTERS.tally("stable", version, level))
    return one


def info(version: int = 1, *, max_batch_size: int = 4, instances: int = 1) -> VersionInfo:
    return VersionInfo(
        version=version,
        max_batch_size=max_batch_size,
        batchable=True,
        instances=instances,
        inputs=(),
        outputs=(),
    )


def batcher(*versions: VersionInfo, **settings_: Any) -> Batcher:
    made = Batcher()
    shares = settings_.pop("shares", {})
    configure(made, shares, **settings_)
    for one in versions or [info()]:
        made.serve(one)
    return made


def configure(
    made: Batcher, shares: Mapping[int, float] = MappingProxyType({}), **settings_: Any
) -> None:
    """Apply a policy under which nothing depends on what was learned, or on age."""
    given: dict[str, Any] = {"max_wait": 0.0, "levels": LEVELS, "aging_after": 1e9} | settings_
    made.configure(BatchSettings(**given), Fixed(), shares)


def offer(made: Batcher, *many: Pending) -> list[Pending]:
    for one in many:
        made.offer(one, one.arrived)
    return list(many)


def poll_one(made: Batcher, now: float = 0.0) -> Batch:
    (batch,) = made.poll(now)
    return batch


def test_one_batch_in_flight_for_each_instance() -> None:
    made = batcher(info(instances=2, max_batch_size=1))
    offer(made, *(pending(i) for i in range(5)))
    first = made.poll(0)
    assert len(first) == 2
    assert made.poll(0) == []
    made.finished(first[0], 1.0)
    assert [batch.members[0].arrived for batch in made.poll(1.0)] == [2]


def test_a_limit_above_the_models_is_cut() -> None:
    made = batcher(info(max_batch_size=2), max_batch_size=100)
    offer(made, *(pending() for _ in range(3)))
    assert len(poll_one(made).members) == 2


def test_highest_level_first_and_lower_ones_fill_its_batch() -> None:
    made = batcher()
    low = offer(made, *(pending(i, level=5) for i in range(3)))
    other = offer(made, pending(3, level=4, shape=9))
    high = offer(made, pending(4, level=1), pending(5, level=1))
    batch = poll_one(made, 9.0)
    assert batch.members == [*high, *low[:2]]
    made.finished(batch, 9.0)
    batch = poll_one(made, 9.0)
    assert batch.members == other
    made.finished(batch, 9.0)
    assert poll_one(made, 9.0).members == low[2:]


def test_what_must_go_alone_goes_alone_and_at_once() -> None:
    made = batcher(max_wait=1.0)
    many = offer(made, *(pending(alone=True) for _ in range(3)))
    for one in many:
        batch = poll_one(made)
        assert batch.members == [one]
        made.finished(batch, 0)


def test_who_cancels_leaves_the_queue() -> None:
    made = batcher(max_wait=1.0)
    many = offer(made, *(pending() for _ in range(4)))
    assert made.cancel(many[1])
    assert not made.cancel(many[1])
    assert made.waiting == 3
    assert made.poll(0) == []  # not full any more
    batch = poll_one(made, 1.0)
    assert batch.members == [many[0], *many[2:]]
    assert not made.cancel(many[0])


def test_a_version_that_stops_gives_its_queue_back_and_ends_its_batches() -> None:
    made = batcher(info(max_batch_size=1))
    sent, *waiting = offer(made, *(pending(i) for i in range(3)))
    batch = poll_one(made)
    assert batch.members == [sent]
    assert made.stop(1) == waiting
    assert made.waiting == 0
    assert made.in_use(1)
    assert list(made.unanswered()) == [sent]
    made.finished(batch, 1.0)
    assert not made.in_use(1)
    assert made.poll(1.0) == []


def test_a_bounded_version_that_is_slower_pauses_while_others_wait() -> None:
    made = batcher(info(1, max_batch_size=1), info(2, max_batch_size=1), shares={2: 0.1})

    def run(version: int, seconds: float, now: float) -> float:
        offer(made, pending(now, version=version))
        (batch,) = [one for one in made.poll(now) if one.version == version]
        made.finished(batch, now + seconds)
        return now + seconds

    now = run(1, 1.0, 0.0)
    now = run(2, 2.0, now)  # nobody else waits
    offer(made, pending(now, version=1), pending(now, version=1), pending(now, version=2))
    (stable,) = made.poll(now)
    assert stable.version == 1  # one of stable's still waits
    assert made.next_wake() == pytest.approx(now + 9 * 2.0)
    made.finished(stable, now + 0.1)
    # The last of stable's is sent, nobody else waits: now it may.
    assert [batch.version for batch in made.poll(now + 0.1)] == [1, 2]


class Batching(RuleBasedStateMachine):
    """Any arrivals, cancellations, policies and endings against a list that is looked through."""

    @initialize(instances=st.integers(1, 2), max_batch_size=st.integers(1, 5))
    def start(self, instances: int, max_batch_size: int) -> None:
        self.now = 0.0
        self.instances = instances
        self.model_limit = max_batch_size
        self.wait = 0.0
        self.limit = max_batch_size
        self.made = batcher(info(instances=instances, max_batch_size=max_batch_size))
        self.waiting: list[Pending] = []
        self.flying: list[Batch] = []
        self.ended: list[Pending] = []
        self.offered = 0

    @rule(
        shape=st.integers(1, 3),
        rows=st.integers(1, 5),
        level=st.integers(1, 5),
        alone=st.sampled_from([False, False, False, True]),
    )
    def arrive(self, shape: int, rows: int, level: int, alone: bool) -> None:
        self.now += 2.0**-20  # nobody comes at the same time as another
        rows = min(rows, self.model_limit)
        one = pending(self.now, shape=shape, rows=rows, level=level, alone=alone)
        self.made.offer(one, self.now)
        self.waiting.append(one)
        self.offered += 1

    @rule(limit=st.integers(1, 6), wait=st.sampled_from([0.0, 1.0, 3.0]))
    def change_policy(self, limit: int, wait: float) -> None:
        self.wait = wait
        self.limit = min(limit, self.model_limit)
        configure(self.made, max_batch_size=limit, max_wait=wait)

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        one = self.waiting[which % len(self.waiting)]
        assert self.made.cancel(one)
        self.waiting.remove(one)
        self.ended.append(one)

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99))
    def finish(self, which: int) -> None:
        batch = self.flying[which % len(self.flying)]
        self.made.finished(batch, self.now)
        self.flying.remove(batch)
        self.ended += batch.members

    @rule(by=st.sampled_from([0.0, 0.5, 1.0]))
    def poll(self, by: float) -> None:
        self.now += by
        batches = self.made.poll(self.now)
        for batch in batches:
            self.check(batch)
        self.flying += batches
        free = len(self.flying) < self.instances
        if self.waiting and free:
            # Only a batch that may still gain waits, and somebody will wake it.
            wake = self.made.next_wake()
            assert wake in {one.arrived + self.wait for one in self.waiting}
            assert wake > self.now
            assert not any(self.fills(one.plan.group) for one in self.waiting)
        else:
            assert self.made.next_wake() is None

    def fills(self, group: Group) -> bool:
        rows = sum(one.plan.rows for one in self.waiting if one.plan.group == group)
        return group.alone or rows >= self.limit

    def check(self, batch: Batch) -> None:
        head = min(self.waiting, key=lambda one: one.level)  # min is the first, the oldest
        group = [one for one in self.waiting if one.plan.group == head.plan.group]
        group.sort(key=lambda one: one.level)
        expected: list[Pending] = []
        for one in group:
            rows = sum(member.plan.rows for member in expected) + one.plan.rows
            if expected and (rows > self.limit or one.plan.group.alone):
                break
            expected.append(one)
        assert batch.members == expected
        assert batch.rows == sum(one.plan.rows for one in expected)
        self.waiting = [one for one in self.waiting if one not in expected]

    @invariant()
    def nobody_is_lost_or_twice(self) -> None:
        if not hasattr(self, "made"):
            return
        flying = [one for batch in self.flying for one in batch.members]
        everybody = [*self.waiting, *flying, *self.ended]
        assert len(everybody) == self.offered == len(set(everybody))
        assert self.made.waiting == len(self.waiting)
        assert sorted(self.made.unanswered(), key=id) == sorted([*self.waiting, *flying], key=id)
        assert self.made.in_use(1) == bool(self.waiting or self.flying)


Batching.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestBatching = Batching.TestCase


def test_long_histories_of_few_kinds() -> None:
    """Groups fill up while others wait, which choices from the whole range all but never do."""
    for seed in range(2_000):
        choose = random.Random(seed)
        shapes, levels = choose.choice([1, 2, 3]), choose.choice([1, 2, 5])
        most_rows, loners = choose.choice([1, 1, 5]), choose.choice([0.0, 0.0, 0.1])
        made = Batching()
        made.start(instances=choose.randint(1, 2), max_batch_size=choose.randint(1, 5))
        made.change_policy(limit=choose.randint(1, 6), wait=choose.choice([0.0, 1.0, 3.0]))
        for _ in range(60):
            kind = choose.random()
            if kind < 0.4:
                made.arrive(
                    shape=choose.randint(1, shapes),
                    rows=choose.randint(1, most_rows),
                    level=choose.randint(1, levels),
                    alone=choose.random() < loners,
                )
            elif kind < 0.7:
                made.poll(by=choose.choice([0.0, 0.0, 0.0, 0.5, 1.0]))
            elif kind < 0.85 and made.flying:
                made.finish(which=choose.randrange(99))
            elif kind < 0.95 and made.waiting:
                made.cancel(which=choose.randrange(99))
            else:
                made.change_policy(limit=choose.randint(1, 6), wait=choose.choice([0.0, 1.0, 3.0]))
            made.nobody_is_lost_or_twice()


def test_many_arrivals_end_in_order_of_arrival_within_their_group() -> None:
    """A long run: everybody goes once, and equal requests in their order."""
    made = batcher(info(max_batch_size=32, instances=2))
    flying: deque[Batch] = deque()
    last = dict.fromkeys(range(5), -1.0)
    sent = 0
    for i in range(100_000):
        made.offer(pending(float(i), shape=i * 7 % 5), float(i))
        if i % 16 == 0:
            while flying:
                made.finished(flying.popleft(), float(i))
            flying.extend(made.poll(float(i)))
            for batch in flying:
                for one in batch.members:
                    shape = one.plan.group.inputs[0][2][0]
                    assert one.arrived > last[shape]
                    last[shape] = one.arrived
                    sent += 1
    assert sent + made.waiting == 100_000
    assert made.waiting < 1_000
