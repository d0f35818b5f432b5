"""Whatever comes, leaves, fails and changes: nobody is lost, doubled, mixed up or sent too late."""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.item import Item
from tidegate_batcher.lane import Lane
from tidegate_batcher.scheduler import Batch, Full, Late, Scheduler
from tidegate_contract.table import BatchSettings, Level

LEVELS = 4
SIZE = 10


class Scheduling(RuleBasedStateMachine):
    """A scheduler with two lanes against a list of who waits where."""

    @initialize(slots=st.integers(1, 2), most=st.integers(1, 6))
    def start(self, slots: int, most: int) -> None:
        self.now = 0.0
        self.most = most
        self.made = Scheduler()
        self.policy = BatchSettings()
        self.change(9, 0.0, 1.0, None, "Reject", None, fixed=True)
        for lane in (1, 2):
            self.made.open(lane, slots=slots, most=most, row_bytes=5.0)
        self.slots = slots
        self.waiting: dict[Item, int] = {}
        self.flying: list[Batch] = []
        self.done: list[Item] = []
        self.rows_sent: dict[Item, int] = {}
        self.place: dict[Batch, Lane] = {}  # one that is opened anew has all its slots again

    @rule(
        limit=st.integers(1, 8),
        wait=st.sampled_from([0.0, 0.5, 2.0]),
        press=st.sampled_from([0.3, 1.0, 1.0]),
        slices=st.none() | st.sampled_from([0.001, 1.0]),
        on_full=st.sampled_from(["Reject", "DropLowest"]),
        memory=st.none() | st.sampled_from([5, 40]),
        fixed=st.booleans(),
    )
    def change(
        self,
        limit: int,
        wait: float,
        press: float,
        slices: float | None,
        on_full: str,
        memory: int | None,
        fixed: bool,
    ) -> None:
        levels = [Level(level=i, name=f"l{i}") for i in range(1, LEVELS)]
        levels.append(Level(level=LEVELS, name="low", max_slice=slices, max_queue=6))
        self.policy = BatchSettings(
            max_batch_size=limit,
            max_wait=wait,
            queue_max_size=16,
            on_full=on_full,  # type: ignore[arg-type]
            memory_limit=memory,
            levels=tuple(levels),
            aging_after=3.0,
        )
        self.made.configure(self.policy, Fixed() if fixed else Adaptive(), {2: 0.3})
        self.made.press(press)
        self.limit = max(1, int(min(limit, self.most) * press)) if hasattr(self, "most") else limit
        self.cap = max(1, int(self.most * press))

    @rule(
        lane=st.integers(1, 2),
        group=st.sampled_from("ab"),
        rows=st.integers(1, SIZE),
        level=st.integers(1, LEVELS),
        alone=st.sampled_from([False, False, False, True]),
        send=st.sampled_from([inf, inf, 0.7, 4.0]),
        answer=st.sampled_from([inf, 5.0, 5.0, 1.5, 20.0]),
        again=st.booleans(),
    )
    def arrive(
        self,
        lane: int,
        group: str,
        rows: int,
        level: int,
        alone: bool,
        send: float,
        answer: float,
        again: bool,
    ) -> None:
        send, answer = self.now + send, self.now + answer
        one = Item(
            level, rows, group, self.now, alone=alone, size=rows, send_by=send, answer_by=answer
        )
        if again and self.done and not self.done[-1].withdrawn:
            one = self.done.pop()  # as after a batch that failed
        full = self.made.waiting >= 16 or (one.level == LEVELS and self.made.counts[LEVELS] >= 6)
        try:
            thrown = self.made.offer(one, lane, self.now)
        except Full:
            assert full
            return
        except Late:
            assert self.policy.early_drop
            return
        assert len(thrown) == full
        for out in thrown:
            assert out.withdrawn
            assert out.level > one.level
            del self.waiting[out]
        self.waiting[one] = lane
        self.rows_sent[one] = 0

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(list(self.waiting)))
        assert self.made.withdraw(one)
        assert not self.made.withdraw(one)
        del self.waiting[one]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), level=st.integers(1, LEVELS), sooner=st.sampled_from([0.5, 3.0, inf]))
    def urge(self, data: st.DataObject, level: int, sooner: float) -> None:
        one = data.draw(st.sampled_from(list(self.waiting)))
        before, level = one.level, min(level, one.level)
        answer_by = min(one.answer_by, self.now + sooner)
        self.made.urge(one, self.now, level=level, send_by=inf, answer_by=answer_by)
        assert (one.level, one.answer_by) == (level, answer_by)
        if level < before:  # it goes behind those who wait there; at its own level it stays
            self.waiting[one] = self.waiting.pop(one)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: st.DataObject, ok: bool) -> None:
        batch = data.draw(st.sampled_from(self.flying))
        self.flying.remove(batch)
        self.made.finished(batch, self.now, ok=ok)
        self.done += [one for one in batch.members if not batch.sliced]

    @rule(lane=st.integers(1, 2))
    def reopen(self, lane: int) -> None:
        left = self.made.close(lane)
        assert set(left) == {one for one, where in self.waiting.items() if where == lane}
        self.made.open(lane, slots=self.slots, most=self.most, row_bytes=5.0)
        for one in left:
            del self.waiting[one]
            if one.answer_by > self.now < one.send_by:
                try:
                    self.made.offer(one, lane, self.now)
                except Full:
                    continue
                self.waiting[one] = lane
                self.rows_sent[one] = 0

    @rule(by=st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    def poll(self, by: float) -> None:
        self.now += by
        batches = self.made.poll(self.now)
        for one in self.made.expired(self.now):
            late = one.answer_by <= self.now or one.send_by <= self.now
            assert late or self.policy.early_drop
            assert one.withdrawn
            del self.waiting[one]
        for batch in batches:
            self.check(batch)
            self.place[batch] = self.made.lanes[batch.lane]
        self.flying += batches
        wake = self.made.next_wake()
        assert wake is None or wake > self.now
        for lane in (1, 2):
            flying = sum(self.place[one] is self.made.lanes[lane] for one in self.flying)
            here = [one for one, where in self.waiting.items() if where == lane]
            assert self.made.lanes[lane].free == (flying < self.slots)
            if here and flying < self.slots:
                # Somebody will look again: at a time, or when a slice or another lane's batch ends.
                assert wake is not None or self.flying

    def check(self, batch: Batch) -> None:
        members = batch.members
        assert members
        assert len({one.group for one in members}) == 1
        assert len(set(members)) == len(members)
        assert all(one.send_by > self.now < one.answer_by for one in members)
        assert not any(one.withdrawn for one in members)
        assert all(self.waiting[one] == batch.lane for one in members)
        assert len(members) == 1 or not any(one.alone for one in members)
        if batch.sliced:
            (one,) = members
            assert batch.begin == self.rows_sent[one]
            assert 1 <= batch.rows <= min(self.limit, self.cap)
            assert not one.alone
            self.rows_sent[one] += batch.rows
            if self.rows_sent[one] == one.rows:
                del self.waiting[one]
            return
        assert batch.rows == sum(one.rows for one in members)
        assert batch.rows <= self.limit or len(members) == 1
        assert batch.rows <= self.cap or members[0].alone
        limit = self.policy.memory_limit
        size = sum(one.size for one in members) + 5.0 * batch.rows
        assert limit is None or size <= limit or batch.rows == 1 or members[0].alone
        self.in_order(batch)
        for one in members:
            del self.waiting[one]

    def in_order(self, batch: Batch) -> None:
        """Nobody of the group and level that came before a member stays behind."""
        for level in {one.level for one in batch.members}:
            line = [
                one
                for one, lane in self.waiting.items()
                if (lane, one.group, one.level) == (batch.lane, batch.members[0].group, level)
            ]
            sent = [one for one in batch.members if one.level == level]
            assert line[: len(sent)] == sent

    @invariant()
    def counts_hold(self) -> None:
        if not hasattr(self, "flying"):
            return
        assert self.made.waiting == len(self.waiting) == sum(self.made.counts)
        assert set(self.made.queued()) == set(self.waiting)
        assert self.made.busy == len(self.flying)
        for level in range(1, LEVELS + 1):
            assert self.made.counts[level] == sum(one.level == level for one in self.waiting)
        for lane in (1, 2):
            rows = sum(
                one.rows - self.rows_sent[one]
                for one, where in self.waiting.items()
                if where == lane
            )
            assert self.made.lanes[lane].queue.rows == rows


Scheduling.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
