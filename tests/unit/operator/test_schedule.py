"""When models are looked at next."""

import math
from random import Random

from tidegate_operator.cache import ModelKey
from tidegate_operator.schedule import Schedule

A, B = ("n", "a"), ("n", "b")


def test_the_soonest_comes_first_and_once() -> None:
    schedule = Schedule()
    assert schedule.next() == math.inf
    assert schedule.wake(A, 5.0)
    assert schedule.wake(B, 3.0)
    assert not schedule.wake(B, 4.0), "it is looked at before that"
    assert not schedule.wake(A, 4.5), "another one comes first"
    assert schedule.next() == 3.0
    assert list(schedule.due(4.5)) == [(B, 3.0), (A, 4.5)]
    assert list(schedule.due(10.0)) == []
    assert schedule.next() == math.inf


def test_it_says_what_a_plain_table_of_times_would() -> None:
    random, schedule = Random(1), Schedule()
    plain: dict[ModelKey, float] = {}
    keys = [("n", f"m{number}") for number in range(20)]
    for now in range(2000):
        for key in random.sample(keys, 3):
            at = now + random.randrange(30)
            schedule.wake(key, at)
            plain[key] = min(at, plain.get(key, math.inf))
        assert schedule.next() == min(plain.values())
        due = {key: at for key, at in plain.items() if at <= now}
        assert dict(schedule.due(now)) == due
        for key in due:
            del plain[key]
