"""How fast a queue drains, as it was seen to."""

import pytest

from tidegate_batcher.drain import Drain


def test_nothing_is_known_until_batches_leave_while_others_wait() -> None:
    drain = Drain()
    drain.left(8, 1.0, waiting=False)
    drain.left(8, 2.0, waiting=True)
    assert drain.rate(2.0) is None


def test_time_in_which_nothing_waited_does_not_count() -> None:
    drain = Drain()
    for at in (1.0, 2.0, 3.0):
        drain.left(8, at, waiting=True)
    assert drain.rate(3.0) == pytest.approx(8.0)
    drain.left(8, 4.0, waiting=False)
    drain.left(8, 100.0, waiting=True)
    assert drain.rate(100.0) == pytest.approx(8.0)


def test_it_falls_while_nothing_leaves_and_later_batches_count_for_more() -> None:
    drain = Drain()
    for at in range(200):
        drain.left(8, float(at), waiting=True)
    assert drain.rate(199.0) == pytest.approx(8.0)
    assert (drain.rate(249.0) or 8.0) < 8.0
    for at in range(200):
        drain.left(8, 199.0 + 2.0 * (at + 1), waiting=True)
    assert drain.rate(599.0) == pytest.approx(4.0, rel=0.03)
