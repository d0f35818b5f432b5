"""From counter samples to whole requests, however they were looked at."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.evidence.counters import (
    Counts,
    Series,
    Sums,
    Window,
    newest_sample,
    restarts,
    sums,
    window,
)
from tidegate_operator.evidence.tally import Tally


def series(
    *samples: tuple[float, float],
    pod: str = "a",
    arm: str = "canary",
    check: str = "c",
    counts: Counts = "requests",
    cell: str = "",
) -> Series:
    times, values = zip(*samples, strict=True) if samples else ((), ())
    return Series(pod, arm, check, counts, times, values, cell)


def samples(one: Series) -> list[tuple[float, float]]:
    return list(zip(one.times, one.values, strict=True))


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


def strata(result: Window) -> list[tuple[str, str, bool, dict[str, tuple[int, int]]]]:
    return [
        (s.pod, s.cell, s.gap, {arm: (t.requests, t.bad) for arm, t in s.arms.items()})
        for s in result.strata.get("c", [])
    ]


def test_a_series_that_begins_later_than_a_relative_began_at_zero() -> None:
    anchor = series((5, 0), (10, 0), (15, 2))
    assert count(look(anchor, series((10, 7), (15, 9), cell="1"))).requests == 2 + 9


def test_another_checks_series_is_no_relative() -> None:
    assert count(look(series((5, 0), (10, 1), check="d"), series((10, 7)))) == Tally()


def test_a_series_that_vanished_restarts_from_zero() -> None:
    anchor = series((5, 0), (10, 0), (15, 0), (20, 0))
    back = series((5, 100), (20, 3), cell="1")
    assert count(look(anchor, back)).requests == 3


def test_the_newest_scrape_waits_where_it_lacks_what_the_one_before_had() -> None:
    """It may be stored by halves, or between two queries; then nothing is lost and none doubled."""
    whole, half = series((5, 10), (10, 20)), series((5, 100), cell="1")
    first = look(whole, half)
    assert (count(first), first.cursors) == (Tally(), {"a": 5})
    late = series((5, 100), (10, 101), cell="1")
    assert count(look(whole, late, cursors=first.cursors, start=5)).requests == 11
    gone = look(series((5, 10), (10, 20), (15, 21)), half)
    assert (count(gone).requests, gone.cursors) == (11, {"a": 15})


def test_both_kinds_of_counts_end_at_one_time() -> None:
    ahead = look(series((5, 0), (10, 4)), series((5, 0), (10, 1), (15, 2), counts="bad"))
    assert (count(ahead), ahead.cursors) == (Tally(requests=4, bad=1), {"a": 10})


def test_strata_are_pods_and_cells_with_gaps_apart() -> None:
    result = look(
        series((5, 0), (10, 4), (30, 9)),
        series((5, 0), (10, 6), (30, 6), arm="stable"),
        series((5, 0), (10, 1), (30, 1), counts="bad"),
        series((30, 3), cell="1"),
        series((5, 0), (10, 2), pod="b"),
    )
    assert strata(result) == [
        ("a", "", False, {"canary": (4, 1), "stable": (6, 0)}),
        ("a", "", True, {"canary": (5, 0)}),
        ("a", "1", True, {"canary": (3, 0)}),
        ("b", "", False, {"canary": (2, 0)}),
    ]


def test_a_restart_in_a_gap_leaves_out_what_all_of_the_pods_checks_did_in_it() -> None:
    other = series((5, 0), (16, 9), (20, 9), check="d", pod="a")
    result = look(series((5, 50), (16, 8), (20, 9)), other, series((5, 0), (16, 8), pod="b"))
    assert strata(result) == [
        ("a", "", False, {"canary": (1, 0)}),
        ("b", "", True, {"canary": (8, 0)}),
    ]
    assert "d" not in result.all


def test_a_pod_may_begin_later_than_the_rest() -> None:
    rising = (5, 10), (10, 20), (15, 40)
    seen = [series(*rising), series(*rising, pod="b")]
    result = window(seen, {}, 5, starts={"b": 10}, longest_gap=10, attended=True)
    assert {s.pod: s.arms["canary"].requests for s in result.strata["c"]} == {"a": 30, "b": 20}


def test_outcomes_are_added_up_by_arm_and_bucket_over_restarts() -> None:
    anchor = series((5, 0), (10, 0), (15, 0), arm="", check="", counts="restarts")
    result = sums(
        [
            anchor,
            series((10, 3), (15, 2), check="clicks", counts="count", cell="7"),
            series((10, 1.5), (15, 0.5), check="clicks", counts="pos", cell="7"),
            series((5, 4), (10, 5), (15, 6), check="clicks", counts="count", arm="stable"),
            series((15, 8), check="", counts="tokens"),
        ],
        {},
        5,
    )
    assert result.sums["clicks", "canary", "7"] == Sums(count=5, pos=2)
    assert result.sums["clicks", "stable", ""] == Sums(count=2)
    assert (result.tokens, result.cursors) == ({"canary": 8}, {"a": 15})


def test_restarts_between_two_times_by_pod() -> None:
    seen = [
        series((5, 1), (10, 2), (15, 3), arm="", check="", counts="restarts"),
        series((5, 7), (10, 0), (15, 1), arm="", check="", counts="restarts", pod="b"),
    ]
    everything = {"a": 15.0, "b": 15.0}
    assert restarts(seen, {"a": 5, "b": 5}, everything) == 3
    assert restarts(seen, {"a": 10}, everything) == 1
    assert restarts(seen, {"a": 5}, {"a": 10}) == 1


COUNTERS = st.lists(
    st.tuples(st.floats(0.5, 25), st.integers(0, 40), st.booleans()), min_size=2, max_size=25
)


@given(COUNTERS, COUNTERS, st.data())
def test_splitting_the_samples_over_any_looks_changes_nothing(
    one: list[tuple[float, int, bool]], two: list[tuple[float, int, bool]], data: st.DataObject
) -> None:
    """Late scrapes, restarts and gaps included: looks see prefixes of what there is."""
    world = [_samples(one, "a"), _samples(two, "b")]
    times = sorted({t for s in world for t in s.times})
    looks = [*sorted(data.draw(st.sets(st.sampled_from(times)))), times[-1]]
    whole = look(*world, start=times[0])
    cursors: dict[str, float] = {}
    watched = everything = Tally()
    for at in looks:
        seen = [series(*(x for x in samples(s) if x[0] <= at), pod=s.pod) for s in world]
        part = look(*seen, cursors=cursors, start=times[0])
        cursors = part.cursors
        watched += count(part)
        everything += count(part, watched=False)
    assert (watched, everything) == (count(whole), count(whole, watched=False))


@given(COUNTERS)
def test_the_total_is_what_the_counter_did(steps: list[tuple[float, int, bool]]) -> None:
    one = _samples(steps, "a")
    result = look(one, start=one.times[0])
    rises = [
        (v1 if v1 < v0 else v1 - v0, v1 < v0, t1 - t0)
        for (t0, v0), (t1, v1) in pairwise(samples(one))
    ]
    assert count(result).requests == sum(rise for rise, _, gap in rises if gap <= 10)
    known = sum(rise for rise, reset, gap in rises if gap <= 10 or not reset)
    assert count(result, watched=False).requests == known


@pytest.mark.parametrize("at", [9.0, 10.0])
def test_looking_twice_at_the_same_samples_counts_them_once(at: float) -> None:
    seen = series((5, 0), (at, 4))
    first = look(seen)
    assert count(look(seen, cursors=dict(first.cursors))) == Tally()


def _samples(steps: list[tuple[float, int, bool]], pod: str) -> Series:
    time, value, found = 100.0, 0.0, []
    for pause, rise, restart in steps:
        time += pause
        value = rise if restart else value + rise
        found.append((time, float(value)))
    return series(*found, pod=pod)
