"""Assignment: spread keeps its bounds whatever happens, sticky keeps its users."""

import bisect
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_contract.table import WHOLE, Arm, Assignment
from tidegate_sidecar.core.routing import Router, Spread, default_arm, hashed


def arms(*weights: int) -> list[Arm]:
    """Arms named for their place, with versions from 1."""
    return [Arm(name=f"arm{i}", version=i + 1, weight=w) for i, w in enumerate(weights)]


@st.composite
def splits(draw: st.DrawFn, least: int = 2, most: int = 6) -> list[Arm]:
    count = draw(st.integers(least, most))
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE), min_size=count - 1, max_size=count - 1)))
    return arms(*(b - a for a, b in pairwise([0, *cuts, WHOLE])))


def lags(split: list[Arm], chosen: list[Arm]) -> list[list[int]]:
    """What each arm is owed beyond what it got, in basis points, after each request."""
    owed = dict.fromkeys([arm.name for arm in split], 0)
    found = []
    for one in chosen:
        for arm in split:
            owed[arm.name] += arm.weight
        owed[one.name] -= WHOLE
        found.append(list(owed.values()))
    return found


@given(split=splits(), seed=st.binary(max_size=8))
@settings(max_examples=200, deadline=None)
def test_every_prefix_is_within_one_of_its_share(split: list[Arm], seed: bytes) -> None:
    spread = Spread(seed)
    spread.change(split, seed)
    for after in lags(split, [spread.next() for _ in range(600)]):
        assert all(-WHOLE < lag < WHOLE for lag in after)


@given(
    first=st.integers(1, WHOLE - 1),
    changes=st.lists(st.tuples(st.integers(1, WHOLE - 1), st.integers(1, 60)), max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_the_phase_is_kept_over_changes(first: int, changes: list[tuple[int, int]]) -> None:
    spread = Spread(b"")
    owed = got = 0
    prefixes = []
    for revision, (weight, requests) in enumerate([(first, 50), *changes]):
        spread.change(arms(WHOLE - weight, weight), str(revision).encode())
        for _ in range(requests):
            owed += weight
            got += WHOLE * (spread.next().name == "arm1")
            prefixes.append(owed - got)
    assert all(-WHOLE < lag < WHOLE for lag in prefixes)
    # Any window is the difference of two prefixes.
    assert max(prefixes) - min(prefixes) < 2 * WHOLE


@given(first=splits(3, 3), share=st.integers(1, WHOLE - 1), requests=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_an_arm_that_leaves_does_not_unsettle_the_others(
    first: list[Arm], share: int, requests: int
) -> None:
    spread = Spread(b"")
    spread.change(first, b"1")
    for _ in range(requests):
        spread.next()
    second = arms(share, WHOLE - share)
    spread.change(second, b"2")
    after = [[0, 0], *lags(second, [spread.next() for _ in range(200)])]
    for arm in zip(*after, strict=True):
        assert max(arm) - min(arm) < 2 * WHOLE  # as in any window


def test_an_arm_gets_exactly_its_share_of_a_whole_period() -> None:
    split = arms(9_487, 500, 13)
    spread = Spread(b"x")
    spread.change(split, b"x")
    counts = Counter(spread.next().name for _ in range(WHOLE))
    assert counts == {"arm0": 9_487, "arm1": 500, "arm2": 13}


def test_places_within_a_stratum_are_spread_over_all_of_it() -> None:
    """A client that sends every twentieth request must not always meet the canary, or never."""
    spread = Spread(b"pod")
    spread.change(arms(9_500, 500), b"pod")
    places = Counter(i % 20 for i in range(40_000) if spread.next().name == "arm1")
    assert len(places) == 20
    assert min(places.values()) > 60  # of 100 on average: more than four standard deviations
    assert max(places.values()) < 140


def test_pods_do_not_step_together() -> None:
    def sequence(pod: bytes) -> list[str]:
        spread = Spread(pod)
        spread.change(arms(9_000, 1_000), pod)
        return [spread.next().name for _ in range(500)]

    assert sequence(b"pod-1") == sequence(b"pod-1")
    both = [a == b == "arm1" for a, b in zip(sequence(b"1"), sequence(b"2"), strict=True)]
    assert sum(both) < 25


@pytest.fixture
def places(make: Any) -> list[tuple[str, float]]:
    """Keys and a share that puts each of them on the canary, found by bisection."""
    found = []
    for i in range(300):
        key = f"user-{i}"

        def on_canary(weight: int, key: str = key) -> bool:
            router = Router("m", "pod")
            router.change(
                make.table(
                    ("stable", 1, WHOLE - weight),
                    ("canary", 2, weight),
                    assignment=Assignment(header="X-User", salt="uid"),
                )
            )
            return router.route(key)[0].name == "canary"

        first = bisect.bisect_left(range(WHOLE + 1), True, key=on_canary)
        found.append((key, first / WHOLE))
        assert not on_canary(max(first - 1, 0)) or first == 0
        assert on_canary(WHOLE)
        # Monotone: nobody who is on the canary leaves it when it grows.
        assert all(on_canary(weight) for weight in range(first, WHOLE, 977))
    return found


def test_sticky_is_monotone_and_uniform(places: list[tuple[str, float]]) -> None:
    shares = sorted(share for _, share in places)
    distance = max(abs(share - i / len(shares)) for i, share in enumerate(shares))
    assert distance < 1.63 / len(shares) ** 0.5  # Kolmogorov-Smirnov at 1%; the keys are fixed


@given(
    before=splits(2, 5), grows=st.integers(0, 4), parts=st.lists(st.integers(0, 100), min_size=5)
)
@settings(max_examples=100, deadline=None)
def test_an_arm_that_alone_grows_keeps_everybody(
    make: Any, before: list[Arm], grows: int, parts: list[int]
) -> None:
    grows %= len(before)
    weights = [arm.weight - arm.weight * parts[i] // 100 for i, arm in enumerate(before)]
    weights[grows] = WHOLE - sum(w for i, w in enumerate(weights) if i != grows)
    old, new = (
        make.table(
            *((a.name, a.version, w) for a, w in zip(before, ws, strict=True)),
            assignment=Assignment(header="h", salt="s"),
        )
        for ws in ([arm.weight for arm in before], weights)
    )
    if default_arm(old) != default_arm(new) and default_arm(old).name != default_arm(new).name:
        return  # another arm has become the default: the order changes once
    routers = []
    for table in (old, new):
        router = Router("m", "pod")
        router.change(table)
        routers.append(router)
    for i in range(100):
        if routers[0].route(str(i))[0].name == before[grows].name:
            assert routers[1].route(str(i))[0].name == before[grows].name


def test_sticky_is_the_same_on_every_pod_and_needs_its_salt(make: Any) -> None:
    def arms_of(pod: str, salt: str) -> list[str]:
        router = Router("m", pod)
        router.change(
            make.table(
                ("stable", 1, 5_000),
                ("canary", 2, 5_000),
                assignment=Assignment(header="h", salt=salt),
            )
        )
        return [router.route(str(i))[0].name for i in range(200)]

    assert arms_of("a", "s") == arms_of("b", "s")
    assert arms_of("a", "s") != arms_of("a", "t")


def test_without_a_key_the_spread_decides(make: Any) -> None:
    router = Router("m", "pod")
    assignment = Assignment(header="X-User", salt="s")
    router.change(make.table(("stable", 1, 7_500), ("canary", 2, 2_500), assignment=assignment))
    assert router.header == "x-user"
    assert Counter(router.route(None)[0].name for _ in range(400)) == {"stable": 300, "canary": 100}


def test_the_default_arm_is_stables_largest_or_control(make: Any) -> None:
    table = make.table(("canary", 3, 5_000), ("stable", 1, 2_000), ("stable", 2, 3_000))
    assert default_arm(table) == table.split[2]
    table = make.table(("control", 1, 4_000), ("treatment", 2, 6_000))
    assert default_arm(table) == table.split[0]


def a_test(make: Any, treatment: int, *, pod: str = "pod", unassigned: int | None = 1) -> Router:
    """A router of a test that gives the treatment so many basis points."""
    router = Router("m", pod)
    assignment = Assignment(header="X-User", salt="uid", unassigned=unassigned)
    split = (("control", 1, WHOLE - treatment), ("treatment", 2, treatment))
    router.change(make.table(*split, assignment=assignment))
    return router


def test_nobody_leaves_the_treatment_while_it_grows_on_any_pod_or_after_a_restart(
    make: Any,
) -> None:
    before: set[int] = set()
    for revision, weight in enumerate((500, 2_000, 5_000, 6_500, WHOLE)):
        one, another = a_test(make, weight), a_test(make, weight, pod=f"pod-{revision}")
        on = {i for i in range(2_000) if one.route(f"user-{i}")[0].name == "treatment"}
        assert on == {i for i in range(2_000) if another.route(f"user-{i}")[0].name == "treatment"}
        assert before <= on
        before = on
    assert len(before) == 2_000


def test_without_a_key_a_test_serves_one_version_as_an_arm_of_its_own(make: Any) -> None:
    router = a_test(make, 9_000)
    for key in (None, ""):
        arm, bucket, _ = router.route(key)
        assert (arm.name, arm.version, bucket) == ("unassigned", 1, None)
    spread = a_test(make, 9_000, unassigned=None)
    arms = Counter(spread.route(None)[0].name for _ in range(100))
    assert arms == {"control": 10, "treatment": 90}


def test_buckets_are_even_and_have_nothing_to_do_with_the_arm(make: Any) -> None:
    router = a_test(make, 5_000)
    counts: Counter[tuple[str, int]] = Counter()
    for i in range(64_000):
        arm, bucket, _ = router.route(f"user-{i}")
        assert bucket is not None
        counts[arm.name, bucket] += 1
    assert set(counts) == {(arm, i) for arm in ("control", "treatment") for i in range(64)}
    # Chi-squared with 127 degrees of freedom; the keys are fixed.
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 127 + 4 * (2 * 127) ** 0.5


def test_marks_are_spread_over_all_64_bits_whatever_the_arm() -> None:
    users = [hashed("s", f"user-{i}") for i in range(4_000)]
    assert len({mark for _, _, mark in users}) == 4_000
    low = [place < 2**63 for place, _, mark in users if mark < 2**63]
    assert abs(len(low) - 2_000) < 4 * 1_000**0.5
    assert abs(sum(low) - 1_000) < 4 * 750**0.5
