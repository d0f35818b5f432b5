"""Prometheus's answers, the strange ones too: never an exception, never half an answer."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_server import Answer, Server, served

from tidegate_operator.adapters import prometheus
from tidegate_operator.adapters.metrics import PrometheusMetrics, Rates, Readings
from tidegate_operator.adapters.prometheus import Prometheus
from tidegate_operator.evidence.counters import Series
from tidegate_operator.rollout.observation import Before, LiveMetrics, Unreadable


@pytest.fixture
def server() -> Iterator[Server]:
    yield from served()


MODELS = [("n", "m"), ("n", "other")]


def over(server: Server) -> PrometheusMetrics:
    return PrometheusMetrics(Prometheus(server.url))


async def read(server: Server, answer: Callable[[str], Answer]) -> Readings | Unreadable:
    server.answer = lambda query: TIME if query == "time()" else answer(query)
    return await over(server).samples(MODELS, 100.25, 60.0, 5.0)


def ok(kind: str, result: Any, **more: Any) -> Answer:
    document = {"status": "success", "data": {"resultType": kind, "result": result}, **more}
    return 200, "application/json", json.dumps(document, separators=(",", ":"))


TIME = ok("scalar", [100.25, "100.25"])


def row(name: str, *values: str, **labels: str) -> dict[str, Any]:
    given = {"namespace": "n", "pod": "p", "model": "m", "arm": "canary", "check": "c", **labels}
    samples = [[1.5 + at, value] for at, value in enumerate(values or ("3", "4"))]
    return {"metric": {"__name__": name, **given}, "values": samples}


def matrix(*rows: dict[str, Any], **more: Any) -> Callable[[str], Answer]:
    return lambda _query: ok("matrix", list(rows), **more)


async def test_samples_by_model(server: Server) -> None:
    odd: dict[str, Any] = {"metric": {"__name__": "tidegate_check_bad_total", "pod": "p"}}
    found = await read(
        server,
        matrix(
            row("tidegate_check_requests_total", priority="2"),
            row("tidegate_check_bad_total", model="other", priority="", bucket="17"),
            row("tidegate_feedback_value_covariate_pos_total", metric="clicks", check=""),
            row("tidegate_triton_restarts_total", arm="", check="", model="other"),
            odd,
        ),
    )
    assert isinstance(found, Readings)
    assert found.at == 100.25
    times, values = (1.5, 2.5), (3.0, 4.0)
    assert found.of(("n", "m")).series == (
        Series("p", "canary", "c", "requests", times, values, "2"),
        Series("p", "canary", "clicks", "covariate_pos", times, values),
    )
    assert found.of(("n", "other")).series == (
        Series("p", "canary", "c", "bad", times, values, "17"),
        Series("p", "", "", "restarts", times, values),
    )
    assert found.of(("n", "unheard-of")).series == ()
    (query,) = server.seen
    assert query["query"].endswith("[60000ms]")
    assert 'model=~"m|other"' in query["query"]
    assert query["time"] == "100.250"


async def test_only_models_that_were_asked_for_are_told_of(server: Server) -> None:
    """A model of the same name in another namespace is in the answer, too."""
    rows = [row("tidegate_check_requests_total", namespace=one) for one in ("n", "elsewhere")]
    found = await read(server, matrix(*rows))
    assert isinstance(found, Readings)
    assert {key: len(series) for key, series in found.by_model.items() if series} == {("n", "m"): 1}


async def test_thousands_of_models_go_in_the_body(server: Server) -> None:
    server.answer = matrix(row("tidegate_check_requests_total", model="m-7"))
    many = [("n", f"m-{number}") for number in range(5000)]
    found = await over(server).samples(many, 100.25, 60.0, 5.0)
    assert isinstance(found, Readings)
    assert len(found.of(("n", "m-7")).series) == 1
    (query,) = server.seen
    assert query["time"] == "100.250"
    assert len(server.paths[0]) < 100


async def test_an_answer_is_read_in_pieces(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_PIECE", 700)
    monkeypatch.setattr(prometheus, "_CHUNK", 90)
    tricky = 'a"},{"metric":{"b'
    rows = [row("tidegate_check_requests_total", pod=f"{tricky}{i}") for i in range(50)]
    found = await read(server, matrix(*rows))
    assert isinstance(found, Readings)
    assert [one.pod for one in found.of(("n", "m")).series] == [f"{tricky}{i}" for i in range(50)]
    partial = await read(server, matrix(*rows, warnings=["a store is away"]))
    assert partial == Unreadable("a partial answer: a store is away")
    server.promised = 10
    cut = await read(server, matrix(*rows))
    assert isinstance(cut, Unreadable)


async def test_a_pod_that_tells_no_numbers_is_left_out_as_a_whole(server: Server) -> None:
    found = await read(
        server,
        matrix(
            row("tidegate_check_requests_total", "1", "2"),
            row("tidegate_check_bad_total", "1", "NaN"),
            row("tidegate_check_bad_total", "1", "2", pod="q"),
        ),
    )
    assert isinstance(found, Readings)
    assert {one.pod for one in found.of(("n", "m")).series} == {"q"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, "text/html", "<html>log in</html>"), "not JSON"),
        ((200, "application/json", ""), "not JSON"),
        ((200, "application/json", '{"status": "error", "error": "overloaded"}'), "overloaded"),
        ((200, "application/json", '{"status": "success"}'), "unexpected answer"),
        ((200, "application/json", "[]"), "unexpected answer"),
        ((422, "application/json", '{"status":"error","error":"too many samples"}'), "too many"),
        ((503, "text/plain", "starting"), "HTTP status 503: starting"),
        (ok("vector", []), "answered with a vector, not with a matrix"),
        (ok("matrix", ["a", "b"]), "unexpected answer"),
        (ok("matrix", [row("tidegate_check_bad_total", "x")]), "unexpected answer"),
        (ok("matrix", [], warnings=["one store is away"]), "a partial answer: one store is away"),
    ],
)
async def test_what_is_no_evidence_is_unreadable(server: Server, answer: Answer, why: str) -> None:
    found = await read(server, lambda _query: answer)
    assert isinstance(found, Unreadable)
    assert why in found.why


@pytest.mark.parametrize("answer", [ok("vector", []), ok("scalar", ["a", "b"])])
async def test_a_prometheus_that_does_not_know_its_time(server: Server, answer: Answer) -> None:
    server.answer = lambda _query: answer
    assert isinstance(await over(server).time(), Unreadable)


async def test_nobody_answers() -> None:
    metrics = PrometheusMetrics(Prometheus("http://127.0.0.1:1"))
    found = await metrics.samples(MODELS, 100.25, 60.0, 5.0)
    assert isinstance(found, Unreadable)
    assert "refused" in found.why
    again = await metrics.samples(MODELS, 100.25, 60.0, 5.0)
    assert again == found, "the reason stays the same, as people read it"


async def test_one_that_hangs(server: Server) -> None:
    released = threading.Event()

    def hang(_query: str) -> Answer:
        released.wait()
        return TIME

    server.answer = hang
    metrics = PrometheusMetrics(Prometheus(server.url, silence=5.0))
    found = await metrics.samples(MODELS, 100.25, 60.0, 0.05)
    assert found == Unreadable("no answer within 0.05s")
    released.set()


async def test_rates_may_be_long_in_coming(server: Server) -> None:
    def late(_query: str) -> Answer:
        time.sleep(1.0)
        return ok("vector", [])

    server.answer = late
    metrics = PrometheusMetrics(Prometheus(server.url, silence=0.05, whole=60.0))
    assert isinstance(await metrics.rates(), Rates)


async def test_one_that_drips_for_ever(server: Server) -> None:
    server.answer = lambda _query: TIME
    metrics = PrometheusMetrics(Prometheus(server.url, whole=0.0))
    found = await metrics.samples(MODELS, 100.25, 60.0, 5.0)
    assert found == Unreadable("no whole answer within 0s")


async def test_only_the_namespaces_asked_for_and_labels_as_configured(server: Server) -> None:
    renamed = row("tidegate_check_requests_total", kubernetes_namespace="k", target="t")
    configured = Prometheus(server.url, namespace_label="kubernetes_namespace", pod_label="target")
    metrics = PrometheusMetrics(
        configured, namespaces=["a.b", "c"], namespace_label="kubernetes_namespace"
    )
    server.answer = matrix(renamed)
    found = await metrics.samples([("k", "m")], 100.25, 60.0, 5.0)
    assert isinstance(found, Readings)
    assert [one.pod for one in found.of(("k", "m")).series] == ["t"]
    assert "kubernetes_namespace=~" in server.seen[0]["query"]


def vector(*rows: tuple[dict[str, str], str]) -> Answer:
    given = {"namespace": "n", "model": "m"}
    return ok("vector", [{"metric": {**given, **more}, "value": [1, v]} for more, v in rows])


def rates(query: str) -> Answer:
    if "histogram_quantile" in query:
        quantiles = [({"version": "2", "quantile": q}, v) for q, v in QUANTILES]
        return vector(*quantiles, ({"version": "3", "quantile": "0.5"}, "NaN"))
    return vector(
        ({"version": "2", "outcome": "ok"}, "6"),
        ({"version": "2", "outcome": "server_error"}, "1"),
        ({"version": "2", "outcome": "expired"}, "1"),
        ({"version": "3", "outcome": "ok"}, "0"),
        ({"version": "", "outcome": "rejected"}, "9"),
        ({}, "1.98"),
    )


QUANTILES = [("0.5", "0.01"), ("0.95", "0.02"), ("0.99", "0.03")]
LIVE = Rates(
    {
        ("n", "m"): {
            2: LiveMetrics(requests_per_second=8, error_rate=0.25, p50=0.01, p95=0.02, p99=0.03),
            3: LiveMetrics(requests_per_second=0),
        }
    },
    {("n", "m"): 2},
)


async def test_rates_are_two_queries(server: Server) -> None:
    server.answer = rates
    assert await over(server).rates() == LIVE
    assert len(server.seen) == 2


async def test_before_a_rollout(server: Server) -> None:
    server.answer = lambda _query: vector(
        ({"version": "2", "le": "+Inf"}, "9"),
        ({"version": "2", "le": "0.1"}, "5.5"),
        ({"version": "2", "le": "0.1", "model": "other"}, "5"),
    )
    found = await over(server).before([("n", "m"), ("n", "a.b")], LIVE)
    assert found == {
        ("n", "m"): Before(
            latency={2: ((0.1, 5.5), (float("inf"), 9.0))}, errors={2: 0.25}, restarts=2
        ),
        ("n", "a.b"): Before(),
    }
    (query,) = server.seen
    assert r'model=~"a\U0000005c.b|m"' in query["query"]


async def test_what_is_no_rate_is_unreadable(server: Server) -> None:
    server.answer = lambda _query: (503, "text/plain", "away")
    assert isinstance(await over(server).rates(), Unreadable)
    assert isinstance(await over(server).before([("n", "m")], LIVE), Unreadable)


async def test_every_query_is_told_of(server: Server) -> None:
    told: list[bool] = []
    server.answer = lambda query: TIME if query == "time()" else (503, "text/plain", "away")
    metrics = PrometheusMetrics(Prometheus(server.url), asked=told.append)
    await metrics.time()
    await metrics.samples(MODELS, 100.25, 60.0, 5.0)
    assert told == [True, False]
