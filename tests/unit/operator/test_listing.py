"""Lists: what they tell the cache, and when which kinds are listed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tidegate_contract import names
from tidegate_operator import listing
from tidegate_operator.adapters.cluster import CONFIG_MAP, Listed, Raw, UnreachableError
from tidegate_operator.cache import KINDS, Cache, ModelKey
from tidegate_operator.listing import Listing


class EnoughError(Exception):
    """Enough was listed for this test."""


class FakeCluster:
    """Has one page of each kind, and notes which were asked for."""

    def __init__(self, enough: int) -> None:
        self.there: dict[str, list[Raw]] = {}
        self.asked: list[str] = []
        self.refusals = 0
        self._enough = enough

    async def pages(self, kind: str) -> AsyncIterator[Listed]:
        if len(self.asked) == self._enough:
            raise EnoughError
        self.asked.append(kind)
        if self.refusals:
            self.refusals -= 1
            raise UnreachableError("nobody there")
        yield Listed(self.there.get(kind, []), revision=10)


def table(model: str) -> Raw:
    meta = {
        "name": names.routing_table_name(model),
        "namespace": "default",
        "uid": f"uid-{model}",
        "resourceVersion": "5",
        "labels": {names.LABEL_MODEL: model},
    }
    return {"metadata": meta, "data": {}}


def lists(enough: int) -> tuple[FakeCluster, Listing, list[ModelKey]]:
    woken: list[ModelKey] = []
    cluster = FakeCluster(enough)
    return cluster, Listing(cache=Cache(), pages=cluster.pages, wake=woken.append), woken


def go_on(made: Listing) -> None:
    with contextlib.suppress(EnoughError):
        asyncio.run(made.go_on())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("_EVERY", "_SOON", "_RETRY"):
        monkeypatch.setattr(listing, pause, 0.0)


def test_a_table_that_nobody_told_the_end_of_wakes_its_model() -> None:
    _, made, woken = lists(enough=1)
    made.cache.put(CONFIG_MAP, table("digits"))
    go_on(made)
    assert woken == [("default", "digits")]
    assert made.cache.table(("default", "digits")) is None


def test_what_is_listed_again_as_it_was_wakes_nobody() -> None:
    cluster, made, woken = lists(enough=1)
    cluster.there[CONFIG_MAP] = [table("digits")]
    made.cache.put(CONFIG_MAP, table("digits"))
    go_on(made)
    assert woken == []
    assert made.cache.table(("default", "digits")) is not None


def test_tables_are_listed_every_time_and_the_rest_every_tenth() -> None:
    cluster, made, _ = lists(enough=9 + len(KINDS) + 1)
    go_on(made)
    assert cluster.asked == [CONFIG_MAP] * 9 + [*KINDS] + [CONFIG_MAP]


def test_after_a_doubt_everything_is_listed_once() -> None:
    cluster, made, _ = lists(enough=len(KINDS) + 1)
    made.doubt()
    go_on(made)
    assert cluster.asked == [*KINDS, CONFIG_MAP]


def test_a_list_that_failed_is_made_good_whole() -> None:
    cluster, made, _ = lists(enough=1 + len(KINDS))
    cluster.refusals = 1
    go_on(made)
    assert cluster.asked == [CONFIG_MAP, *KINDS]


def test_the_beginning_waits_until_everything_could_be_listed() -> None:
    cluster, made, woken = lists(enough=100)
    cluster.there[CONFIG_MAP] = [table("digits")]
    cluster.refusals = 3
    asyncio.run(made.begin())
    assert cluster.asked == [KINDS[0]] * 3 + [*KINDS]
    assert woken == [("default", "digits")]
