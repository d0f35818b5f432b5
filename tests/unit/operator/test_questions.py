"""Users' queries of one model: each asked once until it is answered, each answer seen once."""

import asyncio

import pytest

from tidegate_operator import questions
from tidegate_operator.evidence.experiment import Question
from tidegate_operator.evidence.queries import Answer, QueryError, Value
from tidegate_operator.questions import Questions

KEY = ("uid", "revenue")
ASKED = {KEY: Question('x{v="$canary"}', {"canary": "2"})}


class Prometheus:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def ask(self, namespace: str, query: str) -> Answer:
        self.asked.append((namespace, query))
        await self.open.wait()
        return Value(1, len(self.asked))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_PATIENCE", 0.01)


async def test_each_look_asks_anew() -> None:
    prometheus = Prometheus()
    asking = Questions("n", prometheus)
    assert [await asking.ask(ASKED) for _ in range(2)] == [{KEY: Value(1, 1)}, {KEY: Value(1, 2)}]
    assert prometheus.asked == [("n", 'x{v="2"}')] * 2


async def test_a_late_answer_is_seen_by_the_next_look_and_only_by_that() -> None:
    prometheus = Prometheus()
    prometheus.open.clear()
    asking = Questions("n", prometheus)
    assert await asking.ask(ASKED) == {}
    assert await asking.ask(ASKED) == {}
    prometheus.open.set()
    assert await asking.ask(ASKED) == {KEY: Value(1, 1)}
    assert await asking.ask(ASKED) == {KEY: Value(1, 2)}


async def test_what_is_no_longer_asked_is_not_answered() -> None:
    prometheus = Prometheus()
    prometheus.open.clear()
    asking = Questions("n", prometheus)
    await asking.ask(ASKED)
    assert await asking.ask({}) == {}
    prometheus.open.set()
    assert await asking.ask(ASKED) == {KEY: Value(1, 2)}


async def test_an_edited_query_is_not_answered_by_what_was_asked_before() -> None:
    prometheus = Prometheus()
    prometheus.open.clear()
    asking = Questions("n", prometheus)
    await asking.ask(ASKED)
    prometheus.open.set()
    edited = {KEY: Question("y", {"canary": "2"})}
    assert await asking.ask(edited) == {KEY: Value(1, 2)}
    assert prometheus.asked == [("n", 'x{v="2"}'), ("n", "y")]


async def test_an_unknown_placeholder_is_told_and_not_asked() -> None:
    prometheus = Prometheus()
    found = await Questions("n", prometheus).ask({KEY: Question("$modle", {"model": "m"})})
    error = found[KEY]
    assert isinstance(error, QueryError)
    assert "$modle" in error.why
    assert prometheus.asked == []
