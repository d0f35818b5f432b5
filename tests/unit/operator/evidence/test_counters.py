"""From counter samples to whole requests, however they were looked at."""

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.api.canaryrollout import Tally
from tidegate_operator.evidence.counters import Series, Window, newest_sample, window


def series(
    *samples: tuple[float, float],
    pod: str = "a",
    arm: str = "canary",
    counts: Literal["requests", "bad"] = "requests",
) -> Series:
    return Series(pod, arm, "c", counts, samples)


def count(result: Window, *, watched: bool = True, arm: str = "canary") -> Tally:
    return (result.watched if watched else result.all).get("c", {}).get(arm, Tally())


def look(
    *found: Series, cursors: dict[str, float] | None = None, start: float = 0, attended: bool = True
) -> Window:
    return window(found, cursors or {}, start, longest_gap=10, attended=attended)


def test_rises_are_added_up() -> None:
    result = look(series((5, 3), (10, 7), (15, 7)))
    assert count(result).requests == 4
    assert result.cursors == {"a": 15}


def test_a_fall_is_a_restart_from_zero() -> None:
    assert count(look(series((5, 100), (10, 4), (15, 6)))).requests == 6


def test_a_gap_is_harm_but_no_evidence_for_passing() -> None:
    result = look(series((5, 0), (16, 8), (20, 9)))
    assert count(result).requests == 1
    assert count(result, watched=False).requests == 9


def test_a_gap_with_a_restart_inside_is_nothing_at_all() -> None:
    result = look(series((5, 50), (16, 8), (20, 9)))
    assert count(result).requests == count(result, watched=False).requests == 1


def test_what_nobody_watched_is_harm_only() -> None:
    result = look(series((5, 0), (10, 8)), attended=False)
    assert count(result) == Tally()
    assert count(result, watched=False).requests == 8
    assert result.cursors == {"a": 10}


def test_counting_starts_at_the_start_for_a_pod_without_a_cursor() -> None:
    result = look(series((5, 10), (10, 20), (15, 40)), start=10)
    assert count(result).requests == 20
    early = look(series((5, 10), (10, 20)), start=30)
    assert (count(early), early.cursors) == (Tally(), {})


def test_a_new_pods_first_sample_is_where_it_begins() -> None:
    result = look(series((12, 0), (15, 2)), series((12, 7), (15, 9), pod="b"), cursors={"a": 12})
    assert count(result).requests == 4
    assert result.cursors == {"a": 15, "b": 15}


def test_a_pod_that_vanished_keeps_its_cursor() -> None:
    assert look(series((5, 1)), cursors={"b": 3}).cursors == {"b": 3, "a": 5}


def test_arms_and_kinds_are_kept_apart() -> None:
    result = look(
        series((5, 0), (10, 4)),
        series((5, 0), (10, 1), counts="bad"),
        series((5, 0), (10, 9), arm="stable"),
    )
    assert count(result) == Tally(requests=4, bad=1)
    assert count(result, arm="stable") == Tally(requests=9)


def test_newest_sample_is_by_pod() -> None:
    found = [series((5, 0), (10, 1)), series((7, 0), pod="b"), series(pod="c")]
    assert newest_sample(found) == {"a": 10, "b": 7}


COUNTERS = st.lists(
    st.tuples(st.floats(0.5, 25), st.integers(0, 40), st.booleans()), min_size=2, max_size=25
)


@given(COUNTERS, COUNTERS, st.data())
def test_splitting_the_samples_over_any_looks_changes_nothing(
    one: list[tuple[float, int, bool]], two: list[tuple[float, int, bool]], data: st.DataObject
) -> None:
    """Late scrapes, restarts and gaps included: looks see prefixes of what there is."""
    world = [_samples(one, "a"), _samples(two, "b")]
    times = sorted({t for s in world for t, _ in s.samples})
    looks = [*sorted(data.draw(st.sets(st.sampled_from(times)))), times[-1]]
    whole = look(*world, start=times[0])
    cursors: dict[str, float] = {}
    watched = everything = Tally()
    for at in looks:
        seen = [
            Series(s.pod, s.arm, s.check, s.counts, tuple(x for x in s.samples if x[0] <= at))
            for s in world
        ]
        part = look(*seen, cursors=cursors, start=times[0])
        cursors = part.cursors
        watched += count(part)
        everything += count(part, watched=False)
    assert (watched, everything) == (count(whole), count(whole, watched=False))


@given(COUNTERS)
def test_the_total_is_what_the_counter_did(steps: list[tuple[float, int, bool]]) -> None:
    one = _samples(steps, "a")
    result = look(one, start=one.samples[0][0])
    rises = [
        (v1 if v1 < v0 else v1 - v0, v1 < v0, t1 - t0)
        for (t0, v0), (t1, v1) in pairwise(one.samples)
    ]
    assert count(result).requests == sum(rise for rise, _, gap in rises if gap <= 10)
    known = sum(rise for rise, reset, gap in rises if gap <= 10 or not reset)
    assert count(result, watched=False).requests == known


@pytest.mark.parametrize("at", [9.0, 10.0])
def test_looking_twice_at_the_same_samples_counts_them_once(at: float) -> None:
    samples = series((5, 0), (at, 4))
    first = look(samples)
    assert count(look(samples, cursors=dict(first.cursors))) == Tally()


def _samples(steps: list[tuple[float, int, bool]], pod: str) -> Series:
    time, value, samples = 100.0, 0.0, []
    for pause, rise, restart in steps:
        time += pause
        value = rise if restart else value + rise
        samples.append((time, float(value)))
    return series(*samples, pod=pod)
