"""Users' own queries: asked once for all, in their bounds, and always answered somehow."""

import asyncio
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_server import Answer, Server, served

from tidegate_operator.adapters.queries import Mode, PrometheusQueries
from tidegate_operator.evidence.queries import NoValue, QueryError, Value


@pytest.fixture
def server() -> Iterator[Server]:
    yield from served()


def queries(server: Server, mode: Mode = "Enabled", **more: Any) -> PrometheusQueries:
    given = {"url": server.url, "per_second": 1000.0, "now": lambda: 9.0, **more}
    return PrometheusQueries(mode, **given)


def number(value: str) -> Answer:
    result = f'[{{"value":[1,"{value}"]}}]'
    data = f'{{"resultType":"vector","result":{result}}}'
    return 200, "application/json", f'{{"status":"success","data":{data}}}'


async def test_numbers_and_none(server: Server) -> None:
    server.answer = lambda query: number("NaN" if query == "none" else "2.5")
    asking = queries(server)
    assert await asking.ask("n", "some") == Value(9, 2.5)
    assert isinstance(await asking.ask("n", "none"), NoValue)


async def test_equal_queries_are_asked_once(server: Server) -> None:
    server.answer = lambda _query: number("1")
    asking = queries(server)
    found = await asyncio.gather(*(asking.ask(f"n{i}", f"q{i % 2}") for i in range(20)))
    assert found == [Value(9, 1)] * 20
    assert sorted(one["query"] for one in server.seen) == ["q0", "q1"]


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(server: Server) -> None:
    released = threading.Event()

    def late(_query: str) -> Answer:
        released.wait()
        return number("1")

    server.answer = late
    asking = queries(server)
    impatient, patient = (asyncio.create_task(asking.ask("n", "q")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    released.set()
    assert await patient == Value(9, 1)


async def test_a_server_that_never_answers_keeps_nobody_from_ending(server: Server) -> None:
    released, asked = threading.Event(), threading.Event()

    def hanging(_query: str) -> Answer:
        asked.set()
        released.wait()
        return number("1")

    server.answer = hanging
    before = set(threading.enumerate())
    asking = [asyncio.create_task(queries(server).ask("n", "q"))]
    await asyncio.to_thread(asked.wait)
    started = [one for one in set(threading.enumerate()) - before if "asyncio" not in one.name]
    assert started
    assert all(one.daemon for one in started)
    released.set()
    await asyncio.gather(*asking)


async def test_no_more_than_four_are_asked_at_a_time(server: Server) -> None:
    together, counted = threading.Barrier(4), threading.Lock()
    asked: list[int] = []
    open_ = 0

    def in_fours(_query: str) -> Answer:
        nonlocal open_
        with counted:
            open_ += 1
            asked.append(open_)
        together.wait()
        with counted:
            open_ -= 1
        return number("1")

    server.answer = in_fours
    asking = queries(server)
    await asyncio.gather(*(asking.ask("n", f"q{i}") for i in range(12)))
    assert max(asked) == 4


async def test_namespaced_queries_go_to_the_namespaces_address(server: Server) -> None:
    server.answer = lambda _query: number("1")
    asking = queries(server, "Namespaced", url=f"{server.url}tenant/?of={{namespace}}")
    await asyncio.gather(asking.ask("a", "q"), asking.ask("b", "q"))
    assert sorted(server.paths) == [
        "/tenant/api/v1/query?of=a&query=q",
        "/tenant/api/v1/query?of=b&query=q",
    ]


async def test_disabled_queries_are_not_asked(server: Server) -> None:
    found = await queries(server, "Disabled").ask("n", "q")
    assert isinstance(found, QueryError)
    assert "Disabled" in found.why
    assert server.seen == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((400, "application/json", '{"status":"error","error":"parse error at 3"}'), "parse error"),
        ((422, "application/json", '{"status":"error","error":"too many"}'), "refused.*too many"),
        ((503, "text/plain", "away"), "HTTP status 503: away"),
        ((200, "text/html", "<html>"), "no Prometheus"),
        (
            (
                200,
                "application/json",
                '{"status":"success","data":{"resultType":"vector","result":[{"value":"x"}]}}',
            ),
            "none of Prometheus'",
        ),
    ],
)
async def test_what_is_no_answer(server: Server, answer: Answer, why: str) -> None:
    server.answer = lambda _query: answer
    found = await queries(server).ask("n", "q")
    assert isinstance(found, QueryError)
    assert re.search(why, found.why)


async def test_queries_take_turns(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda _query: number("1")
    asking = queries(server, per_second=10.0)
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    await asyncio.gather(*(asking.ask("n", f"q{i}") for i in range(5)))
    assert [round(one * 10) for one in pauses] == [0, 1, 2, 3, 4]
