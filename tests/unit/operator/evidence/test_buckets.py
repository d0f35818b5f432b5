"""Counts by bucket of users, packed."""

import pytest

from tidegate_operator.evidence.buckets import added, dispersion_of
from tidegate_operator.evidence.counters import Stratum
from tidegate_operator.evidence.tally import Tally


def stratum(cell: str, arm: str, requests: int, bad: int) -> Stratum:
    return Stratum("pod", cell, gap=False, arms={arm: Tally(requests=requests, bad=bad)})


def test_nothing_counted_is_no_dispersion() -> None:
    assert dispersion_of("") == 1.0
    assert dispersion_of(added("", [])) == 1.0


def test_users_that_fail_alike_are_dispersed() -> None:
    even = [stratum(str(b), arm, 100, 5) for b in range(64) for arm in ("canary", "stable")]
    uneven = [
        stratum(str(b), arm, 100, 80 if b < 4 else 0)
        for b in range(64)
        for arm in ("canary", "stable")
    ]
    assert dispersion_of(added("", even)) == 1.0
    assert dispersion_of(added("", uneven)) > 10


def test_what_is_added_later_is_added_up() -> None:
    strata = [stratum(str(b), "canary", 100, 80 if b < 4 else 0) for b in range(64)]
    halves = added(added("", strata[:32]), strata[32:])
    assert dispersion_of(halves) == pytest.approx(dispersion_of(added("", strata)))


def test_requests_without_a_key_and_other_arms_belong_to_no_user() -> None:
    packed = added("", [stratum(str(b), "canary", 100, 5) for b in range(64)])
    strange = [stratum("", "canary", 10**6, 10**6), stratum("3", "shadow", 10**6, 10**6)]
    assert added(packed, strange) == packed
