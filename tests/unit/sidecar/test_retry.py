"""What is sent again after an error: halves, one after the other, within a budget."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_batcher import scheduler
from tidegate_sidecar.core.batcher import Batch, Served
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Decoder, Interface
from tidegate_sidecar.core.retry import Retries
from tidegate_sidecar.core.version import VersionInfo

INFO = VersionInfo(version=1, max_batch_size=64, batchable=True, instances=1, inputs=(), outputs=())
SERVED = Served(INFO, Interface(INFO))


def batch_of(size: int, now: float = 0.0) -> Batch:
    members = []
    for _ in range(size):
        one = Pending(None, Decoder().decode(b"", 0)[0], b"", 0, 3, 0.0)
        one.rows = 1
        members.append(one)
    return Batch(SERVED, members, size, now, scheduler.Batch(1, members, size, now))


def serve(
    retries: Retries, batch: Batch, fails: Callable[[Pending], bool], now: float, took: float = 0.01
) -> tuple[list[Pending], list[Pending], int, float]:
    """Send a batch and all that follows it; who was answered well and who not, and how often."""
    good: list[Pending] = []
    bad: list[Pending] = []
    sent = 0
    following: Batch | None = batch
    while following:
        sent += 1
        now += took
        one = following
        members = list(one.members)
        if any(map(fails, members)):
            again = retries.split(one, 500, now) or []
            later = {pending for half in again for pending in half.members}
            bad += [pending for pending in members if pending not in later]
        else:
            good += members
        root, following = retries.ended(one, now)
        assert root is batch
    return good, bad, sent, now


@given(st.integers(2, 64), st.data())
def test_one_poisoned_fails_alone(size: int, data: st.DataObject) -> None:
    batch = batch_of(size)
    poisoned = data.draw(st.sampled_from(batch.members))
    good, bad, sent, _ = serve(Retries(), batch, lambda one: one is poisoned, 0.0)
    assert bad == [poisoned]
    assert sorted(map(id, [*good, *bad])) == sorted(map(id, batch.members))
    assert sent <= 1 + 2 * (size - 1).bit_length()


@given(st.integers(1, 64), st.lists(st.integers(0, 63)), st.floats(0, 5))
def test_everybody_is_answered_once_whatever_the_budget(
    size: int, poisoned: Sequence[int], before: float
) -> None:
    retries = Retries()
    retries.ended(batch_of(1, -before), 0.0)
    batch = batch_of(size)
    marked = {batch.members[i] for i in poisoned if i < size}
    good, bad, _, _ = serve(retries, batch, marked.__contains__, 0.0)
    assert sorted(map(id, [*good, *bad])) == sorted(map(id, batch.members))
    assert marked <= set(bad)


def test_a_broken_version_does_not_eat_the_device() -> None:
    retries = Retries()
    now, all_sent, batches = 0.0, 0, 0
    while now < 60:
        _, _, sent, now = serve(retries, batch_of(32, now), lambda _: True, now)
        all_sent += sent
        batches += 1
    free = 2 * 5 * (60 / 10 + 1)  # one search of 32 in ten seconds
    assert all_sent - batches <= 0.1 * all_sent + free


def test_time_that_was_spent_well_is_budget_for_ten_seconds() -> None:
    def searches(idle: float) -> int:
        retries = Retries()
        serve(retries, batch_of(2), lambda _: True, 0.0)  # what is free is gone
        retries.ended(batch_of(1, 0.0), 5.0)
        bad = batch_of(4, idle)
        return serve(retries, bad, lambda one: one is bad.members[0], idle)[2] - 1

    assert searches(5.0) == 4
    assert searches(9.9) == 4
    # Ten seconds later the work is forgotten, and the free search is there again.
    assert searches(15.0) == 4
    retries = Retries()
    serve(retries, batch_of(2), lambda _: True, 0.0)
    assert retries.split(batch_of(4), 500, 1.0) is None


@pytest.mark.parametrize("status", [200, 404, 408, 429, 503, 504])
def test_what_is_not_the_members_fault_is_not_sent_again(status: int) -> None:
    assert Retries().split(batch_of(4), status, 0.0) is None


@pytest.mark.parametrize("status", [400, 422, 500, 501])
def test_what_may_be_one_members_fault_is(status: int) -> None:
    halves = Retries().split(batch_of(5), status, 0.0)
    assert halves
    assert [len(half.members) for half in halves] == [3, 2]
    assert [half.rows for half in halves] == [3, 2]


def test_one_alone_is_not_sent_again() -> None:
    assert Retries().split(batch_of(1), 500, 0.0) is None


def test_who_is_late_is_not_sent_again() -> None:
    batch = batch_of(4)
    batch.members[0].answer_by = batch.members[3].answer_by = 1.0
    halves = Retries().split(batch, 500, 2.0)
    assert halves
    assert [list(half.members) for half in halves] == [[batch.members[1]], [batch.members[2]]]
    late = batch_of(2)
    for one in late.members:
        one.answer_by = 1.0
    assert Retries().split(late, 500, 2.0) is None


def test_halves_hold_the_slot_one_after_the_other() -> None:
    retries = Retries()
    batch = batch_of(2)
    halves = retries.split(batch, 500, 1.0)
    assert halves
    assert not retries.concerns(halves[0])
    root, first = retries.ended(batch, 1.0)
    assert (root, first) == (batch, halves[0])
    assert retries.concerns(halves[0])
    assert halves[0].sent_at == 1.0
    root, second = retries.ended(halves[0], 3.0)
    assert (root, second) == (batch, halves[1])
    assert halves[1].sent_at == 3.0
    assert retries.ended(halves[1], 4.0) == (batch, None)


def test_halves_are_no_shadows() -> None:
    halves = Retries().split(batch_of(2), 500, 0.0)
    assert halves
    assert not any(half.shadow for half in halves)
