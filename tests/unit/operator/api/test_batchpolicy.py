"""A policy as the routing table carries it: what it leaves out, and its levels."""

from typing import Any

import msgspec
import pytest

from tidegate_contract.table import LEVELS, BatchSettings, Deduplication, Level
from tidegate_operator.api.batchpolicy import Spec


def settings(**fields: Any) -> BatchSettings:
    return msgspec.convert({"models": ["digits"], **fields}, Spec).settings


def levels(*listed: dict[str, Any], **fields: Any) -> tuple[Level, ...]:
    return settings(priorities={"levels": list(listed), **fields}).levels


def test_an_empty_policy_is_what_holds_without_one() -> None:
    assert settings() == BatchSettings()


def test_everything_that_can_be_said() -> None:
    found = settings(
        strategy="Fixed",
        minBatchSize=4,
        maxBatchSize=32,
        maxWait="2ms",
        targetLatency="50ms",
        optimize="Latency",
        hardware="CPU",
        memoryLimit="2Gi",
        queue={"maxSize": 7, "onFull": "DropLowest"},
        priorities={"default": 1, "agingAfter": "1s", "agingReserve": 0.1},
        deadline={"default": "5s", "earlyDrop": False},
        deduplication={"enabled": True, "ttl": "1m", "maxEntries": 5, "maxBytes": 1024},
    )
    assert found == BatchSettings(
        strategy="Fixed",
        min_batch_size=4,
        max_batch_size=32,
        max_wait=0.002,
        target_latency=0.05,
        optimize="Latency",
        hardware="CPU",
        memory_limit=2 * 2**30,
        queue_max_size=7,
        on_full="DropLowest",
        default_level=1,
        aging_after=1.0,
        aging_reserve=0.1,
        deadline=5.0,
        early_drop=False,
        deduplication=Deduplication(ttl=60.0, max_entries=5, max_bytes=1024),
    )


@pytest.mark.parametrize(
    ("fields", "wait"),
    [
        ({}, 0.005),
        ({"targetLatency": "1s"}, 0.005),
        ({"targetLatency": "10ms"}, 0.005),
        ({"targetLatency": "4ms"}, 0.002),
        ({"targetLatency": "4ms", "maxWait": "3ms"}, 0.003),
        ({"maxWait": "0s"}, 0.0),
    ],
)
def test_the_wait_leaves_room_below_the_target(fields: dict[str, str], wait: float) -> None:
    assert settings(**fields).max_wait == wait


def test_no_deadline() -> None:
    assert settings(deadline={"default": "0s"}).deadline is None


def test_equal_requests_are_sent_each_unless_a_policy_says_otherwise() -> None:
    assert settings(deduplication={"ttl": "1m"}).deduplication is None


def test_listed_levels_differ_from_the_defaults_only_in_what_they_say() -> None:
    found = levels({"level": 5, "maxSliceLatency": "2ms"}, {"level": 1, "name": "vip"})
    assert found[1:4] == LEVELS[1:4]
    assert found[0] == Level(level=1, name="vip", wait_multiplier=0.1)
    assert found[4] == Level(level=5, name="background", wait_multiplier=4.0, max_slice=0.002)


def test_a_wait_multiplier_of_zero_is_one() -> None:
    assert levels({"level": 1, "waitMultiplier": 0})[0].wait_multiplier == 0.0


def test_the_highest_listed_number_is_how_many_levels_there_are() -> None:
    assert [one.level for one in levels({"level": 2, "maxQueue": 9})] == [1, 2]
    found = levels({"level": 7, "name": "night"})
    assert [one.name for one in found[4:]] == ["background", "level-6", "night"]
    assert {one.wait_multiplier for one in found[4:]} == {4.0}


@pytest.mark.parametrize(
    ("listed", "default", "level"),
    [([], None, 3), ([], 5, 5), ([2], None, 2), ([8], None, 3), ([8], 8, 8)],
)
def test_the_level_of_requests_that_name_none(
    listed: list[int], default: int | None, level: int
) -> None:
    priorities = {"levels": [{"level": number} for number in listed], "default": default}
    assert settings(priorities=priorities).default_level == level
