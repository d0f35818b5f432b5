"""The sample of distinct users: exact while it is small, fair and united exactly when it is not."""

import struct
from base64 import b64decode

import pytest

from tidegate_contract.acknowledgement import UserSample
from tidegate_contract.table import Assignment
from tidegate_sidecar.core.routing import hashed
from tidegate_sidecar.core.users import MOST, Users

STICKY = Assignment(header="x-user", salt="s")


def seen_by(users: Users, keys: range, arm: str = "control", salt: str = "s") -> Users:
    users.follow(Assignment(header="x-user", salt=salt))
    for key in keys:
        users.see(arm, hashed(salt, f"user-{key}")[2])
    return users


def marks(sample: UserSample | None, arm: str) -> set[int]:
    assert sample
    data = b64decode(sample.arms.get(arm, ""))
    found = struct.unpack(f"<{len(data) // 8}Q", data)
    assert list(found) == sorted(set(found))
    assert all(mark < sample.limit for mark in found)
    return set(found)


def test_without_an_assignment_there_is_no_sample() -> None:
    users = Users()
    assert users.sample() is None
    users.follow(STICKY)
    assert users.sample() == UserSample(salt="s", limit=2**64)
    users.follow(None)
    assert users.sample() is None


def test_a_small_sample_is_exact_however_often_a_user_comes() -> None:
    users = seen_by(seen_by(Users(), range(1000)), range(500, 1500))
    sample = users.sample()
    assert sample
    assert sample.limit == 2**64
    assert len(marks(sample, "control")) == 1500


def test_a_large_one_is_bounded_and_estimates_within_its_error() -> None:
    users = Users()
    for arm, keys in (("control", range(60_000)), ("treatment", range(60_000, 90_000))):
        seen_by(users, keys, arm)
    sample = users.sample()
    assert sample
    counts = [len(marks(sample, arm)) for arm in ("control", "treatment")]
    assert MOST / 4 < sum(counts) <= MOST
    control, treatment = (count * 2**64 / sample.limit for count in counts)
    assert control == pytest.approx(60_000, rel=0.1)  # more than four standard errors
    assert treatment == pytest.approx(30_000, rel=0.15)


def test_two_pods_that_saw_the_same_users_agree_on_those_below_both_limits() -> None:
    one, other = (seen_by(Users(), keys).sample() for keys in (range(9_000), range(3_000)))
    assert one
    assert other
    limit = min(one.limit, other.limit)
    assert limit < other.limit
    united = {mark for mark in marks(one, "control") | marks(other, "control") if mark < limit}
    assert united == marks(one, "control")


def test_another_salt_is_another_assignment_and_the_same_one_is_kept() -> None:
    users = seen_by(Users(), range(100))
    before = users.sample()
    users.follow(Assignment(header="another", salt="s"))
    assert users.sample() == before
    users.follow(Assignment(header="x-user", salt="t"))
    assert users.sample() == UserSample(salt="t", limit=2**64)
