"""The learned cost: right where the truth is a + b n, and hard to mislead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_batcher.latency import FIRST, Latency

A, B = 0.004, 0.0005


def taught(sizes: list[int], *, a: float = A, b: float = B, noise: float = 0.0) -> Latency:
    made = Latency()
    rng = np.random.default_rng(1)
    for n in sizes:
        made.learn(n, (a + b * n) * float(rng.lognormal(0.0, noise)))
    return made


def test_it_finds_what_is_there() -> None:
    made = taught([1, 4, 16, 32] * 50)
    assert made.fixed == pytest.approx(A, rel=0.02)
    assert made.per_row == pytest.approx(B, rel=0.02)
    assert made.batches == 200
    assert made.seconds(8) == pytest.approx(A + 8 * B, rel=0.02)
    assert made.at_most(8) < 1.3 * made.seconds(8)


def test_one_size_alone_is_right_for_that_size() -> None:
    made = taught([16] * 100)
    assert made.seconds(16) == pytest.approx(A + 16 * B, rel=0.01)
    assert made.seconds(1) < made.seconds(16) < made.seconds(32)


def test_what_sizes_taught_is_kept_while_there_is_one_size() -> None:
    made = taught([1, 8, 32] * 40 + [32] * 2_000, noise=0.05)
    assert made.per_row == pytest.approx(B, rel=0.3)
    assert made.seconds(1) == pytest.approx(A + B, rel=0.5)


def test_slow_first_batches_and_outliers_move_it_little() -> None:
    made = Latency()
    made.learn(1, 2.0)  # the first loads kernels
    rng = np.random.default_rng(2)
    for i in range(300):
        n = (1, 4, 16, 32)[i % 4]
        slow = 20.0 if rng.random() < 0.02 else 1.0
        made.learn(n, (A + B * n) * slow)
    assert made.seconds(16) == pytest.approx(A + 16 * B, rel=0.2)


def test_a_lasting_change_wins() -> None:
    made = taught([1, 4, 16, 32] * 50, noise=0.05)
    for i in range(400):
        n = (1, 4, 16, 32)[i % 4]
        made.learn(n, 3 * (A + B * n))
    assert made.seconds(16) == pytest.approx(3 * (A + 16 * B), rel=0.1)


def test_the_quantile_covers_what_it_says() -> None:
    made = Latency()
    rng = np.random.default_rng(3)
    beyond = 0
    for i in range(20_000):
        n = (1, 4, 16, 32)[i % 4]
        took = (A + B * n) * float(rng.lognormal(0.0, 0.3))
        beyond += i >= 2_000 and took > made.at_most(n)
        made.learn(n, took)
    assert 0.004 < beyond / 18_000 < 0.02


def test_rows_fit_into_time() -> None:
    made = taught([1, 4, 16, 32] * 50)
    assert made.rows_within(A + 10.5 * B) == 10
    assert made.rows_within(0.0) == 1
    assert made.rows_at_most(0.0) == 0
    assert made.at_most(made.rows_at_most(0.02)) <= 0.02 < made.at_most(made.rows_at_most(0.02) + 1)


def test_a_second_row_is_tried_while_all_had_one_and_what_it_shows_is_believed() -> None:
    made = taught([1] * 200)  # by which half of it is taken to be each row's
    longest = 1.2 * (A + B)
    assert made.rows_within(longest) == made.telling == 2
    for _ in range(30):
        rows = made.rows_within(longest)
        made.learn(rows, A + B * rows)
    assert made.telling == 1
    assert made.rows_within(longest) in (2, 3)  # 1 + 0.2 (A + B) / B is 2.8


def test_a_second_row_that_is_too_much_is_tried_seldom() -> None:
    made, tried = taught([1] * 50, a=0.001, b=0.008), 0
    for _ in range(1_000):
        rows = made.rows_within(0.010)
        tried += rows > 1
        made.learn(rows, 0.001 + 0.008 * rows)
    assert 0 < tried < 10


def test_nothing_goes_far_beyond_what_was_seen() -> None:
    made = taught([1, 2] * 20, b=0.0)  # as noise makes it look
    sizes = []
    while made.rows_within(1.0) < 1_024:
        sizes.append(made.rows_within(1.0))
        made.learn(sizes[-1], A)
    assert sizes == [4, 8, 16, 32, 64, 128, 256, 512]


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.0, 1e4)), max_size=60))
def test_whatever_it_is_taught_it_stays_sane(batches: list[tuple[int, float]]) -> None:
    made = Latency()
    for rows, seconds in batches:
        made.learn(rows, seconds)
        assert 0.0 <= made.fixed < float("inf")
        assert 0.0 <= made.per_row < float("inf")
        assert made.ratio >= 1.0
        assert made.rows_within(0.01) >= 1
        assert made.rows_at_most(0.01) >= 0
    assert made.batches == len(batches)
    assert len(made._first) <= FIRST
