"""Which series of a check there are, and what counts in them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tidegate_contract import names
from tidegate_contract.table import (
    Assignment,
    Check,
    DisagreementCheck,
    ErrorCheck,
    Mirror,
    RoutingTable,
    SlowCheck,
)
from tidegate_sidecar.core.counters import BUCKET_STRATA, NOBODY, Counters, Series, level_stratum

ERRORS = ErrorCheck(id="errors@1", arms=["stable", "canary", "shadow"])
SLOW = SlowCheck(id="slow@1", bounds={"stable": 0.1, "canary": 0.2}, priorities=[1, 2])
PAIRS = DisagreementCheck(id="pairs@1", tolerance=0.001, baseline=True)
STICKY = Assignment(header="x-user", salt="s")
SPLIT = (("stable", 1, 9_000), ("canary", 2, 1_000))


@pytest.fixture
def counters() -> Counters:
    return Counters()


def a_table(make: Any, *checks: Check, mirror: bool = False, **fields: Any) -> RoutingTable:
    table: RoutingTable = make.table(*SPLIT, checks=checks, loaded=[2], **fields)
    if mirror:
        table = msgspec.structs.replace(table, mirror=Mirror(version=2, weight=500))
    return table


def series(counters: Counters, check: str) -> set[tuple[str, int, Sequence[str]]]:
    return {(one.arm, one.version, one.stratum) for one in counters.checks if one.check == check}


def test_an_anchor_is_the_default_level_or_the_first_that_is_concerned(
    make: Any, counters: Counters
) -> None:
    counters.follow(a_table(make, ERRORS, SLOW))
    assert series(counters, ERRORS.id) == {("stable", 1, ("3", "")), ("canary", 2, ("3", ""))}
    assert series(counters, SLOW.id) == {("stable", 1, ("1", "")), ("canary", 2, ("1", ""))}


def test_with_an_assignment_buckets_stand_in_place_of_levels(make: Any, counters: Counters) -> None:
    counters.follow(a_table(make, ERRORS, assignment=STICKY))
    assert series(counters, ERRORS.id) == {("stable", 1, ("", "0")), ("canary", 2, ("", "0"))}
    counters.concerning("canary", 2, 5, BUCKET_STRATA[17])
    counters.concerning("canary", 2, 5, NOBODY)
    assert series(counters, ERRORS.id) >= {("canary", 2, ("", "17")), ("canary", 2, ("", ""))}


def test_other_levels_begin_with_their_first_request(make: Any, counters: Counters) -> None:
    counters.follow(a_table(make, ERRORS, SLOW))
    concerned = counters.concerning("canary", 2, 5, level_stratum(5))
    assert concerned == (counters.checks[Series(ERRORS.id, "canary", 2, ("5", ""))],)
    assert ("canary", 2, ("5", "")) not in series(counters, SLOW.id)
    assert len(counters.concerning("canary", 2, 2, level_stratum(2))) == 2
    assert counters.concerning("canary", 2, 5, level_stratum(5)) is concerned


def test_a_level_is_concerned_in_any_bucket(make: Any, counters: Counters) -> None:
    counters.follow(a_table(make, SLOW, assignment=STICKY))
    assert counters.concerning("stable", 1, 3, BUCKET_STRATA[9]) == ()
    assert len(counters.concerning("stable", 1, 2, BUCKET_STRATA[9])) == 1


def test_what_both_tables_ask_for_goes_on_counting(make: Any, counters: Counters) -> None:
    counters.follow(a_table(make, ERRORS))
    (count,) = counters.concerning("stable", 1, 2, level_stratum(2))
    count.count(bad=True)
    counters.follow(a_table(make, ERRORS, SLOW, revision=2))
    assert counters.concerning("stable", 1, 2, level_stratum(2))[0] is count
    counters.follow(make.table(checks=[ERRORS], revision=3))
    assert {one.arm for one in counters.checks} == {"stable"}
    counters.follow(make.table(revision=4))
    assert counters.checks == {}
    assert counters.concerning("stable", 1, 2, level_stratum(2)) == ()


def test_shadows_have_their_own_arm_and_pairs_are_counted_apart(
    make: Any, counters: Counters
) -> None:
    counters.follow(a_table(make, ERRORS, PAIRS))
    assert names.ARM_SHADOW not in {one.arm for one in counters.checks}
    counters.follow(a_table(make, ERRORS, PAIRS, mirror=True, revision=2))
    assert ("shadow", 2, ("3", "")) in series(counters, ERRORS.id)
    assert series(counters, PAIRS.id) == {("shadow", 2, ("3", "")), ("stable", 1, ("3", ""))}
    assert len(counters.concerning("shadow", 2, 1, level_stratum(1))) == 1  # the error check
    counters.check(PAIRS.id, "shadow", 2, level_stratum(1)).count(bad=True)
    counters.check(PAIRS.id, "shadow", 2, level_stratum(1)).count(bad=False)
    pair = counters.checks[Series(PAIRS.id, "shadow", 2, ("1", ""))]
    assert (pair.requests, pair.bad) == (2, 1)


@pytest.mark.parametrize(
    ("check", "arm", "version"),
    [("of another table", "shadow", 2), (PAIRS.id, "canary", 2), (PAIRS.id, "shadow", 9)],
)
def test_a_pair_that_nobody_asks_for_counts_nowhere(
    make: Any, counters: Counters, check: str, arm: str, version: int
) -> None:
    counters.follow(a_table(make, PAIRS, mirror=True))
    before = set(counters.checks)
    counters.check(check, arm, version, level_stratum(3)).count(bad=True)
    assert set(counters.checks) == before
    assert not any(count.requests for count in counters.checks.values())
