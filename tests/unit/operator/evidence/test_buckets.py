"""Counts by bucket of users, packed."""

import zlib
from base64 import b64encode

import numpy as np
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


def test_mirrored_requests_are_their_users_too() -> None:
    uneven = [stratum(str(b), "shadow", 100, 80 if b < 4 else 0) for b in range(64)]
    assert dispersion_of(added("", uneven)) > 10


def test_counts_of_an_operator_that_knew_no_shadows_are_gone_on_with() -> None:
    two_arms = np.zeros((2, 2, 64), dtype="<u4")
    two_arms[:, 0], two_arms[:, 1, 3] = 100, 90
    packed = b64encode(zlib.compress(two_arms.tobytes())).decode()
    before = dispersion_of(packed)
    assert before > 10
    assert dispersion_of(added(packed, [])) == before


def test_what_is_added_later_is_added_up() -> None:
    strata = [stratum(str(b), "canary", 100, 80 if b < 4 else 0) for b in range(64)]
    halves = added(added("", strata[:32]), strata[32:])
    assert dispersion_of(halves) == pytest.approx(dispersion_of(added("", strata)))


def test_requests_without_a_key_and_other_arms_belong_to_no_user() -> None:
    packed = added("", [stratum(str(b), "canary", 100, 5) for b in range(64)])
    strange = [stratum("", "canary", 10**6, 10**6), stratum("3", "direct", 10**6, 10**6)]
    assert added(packed, strange) == packed
