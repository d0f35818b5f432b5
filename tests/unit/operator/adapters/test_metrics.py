"""Prometheus's answers, the strange ones too: never an exception, always a reason."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tidegate_operator.adapters.metrics import PrometheusMetrics, Readings
from tidegate_operator.rollout.observation import Unreadable

Answer = tuple[int, str, str]


class Server(http.server.ThreadingHTTPServer):
    """Answers every query with what the test says."""

    answer: Callable[[str], Answer]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        status, kind, body = self.server.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as started:
        threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
        yield started
        started.shutdown()


async def read(server: Server, answer: Callable[[str], Answer]) -> Readings | Unreadable:
    server.answer = answer
    metrics = PrometheusMetrics(f"http://127.0.0.1:{server.server_port}/")
    return await metrics.read(60)


def ok(result: Any) -> Answer:
    return 200, "application/json", json.dumps({"status": "success", "data": {"result": result}})


def series(name: str, **labels: str) -> dict[str, Any]:
    given = {"namespace": "n", "pod": "p", "model": "m", "arm": "canary", "check": "c", **labels}
    return {"metric": {"__name__": name, **given}, "values": [[1.5, "3"], [2.5, "4"]]}


async def test_samples_by_model(server: Server) -> None:
    paths = []

    def answer(path: str) -> Answer:
        paths.append(path)
        if "time%28%29" in path or "time()" in path:
            return ok([100.25, "100.25"])
        odd = {"metric": {"__name__": "tidegate_check_bad_total", "pod": "p"}, "values": []}
        return ok(
            [
                series("tidegate_check_requests_total"),
                series("tidegate_check_bad_total", model="other", priority="1"),
                odd,
            ]
        )

    found = await read(server, answer)
    assert isinstance(found, Readings)
    assert found.at == 100.25
    (one,) = found.of(("n", "m")).series
    assert (one.pod, one.arm, one.check, one.counts) == ("p", "canary", "c", "requests")
    assert one.samples == ((1.5, 3.0), (2.5, 4.0))
    (other,) = found.of(("n", "other")).series
    assert other.counts == "bad"
    assert found.of(("n", "unheard-of")).series == ()
    assert "60000ms" in paths[1]
    assert "time=100.25" in paths[1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((200, "text/html", "<html>log in</html>"), "not JSON"),
        ((200, "application/json", '{"status": "error"}'), "unexpected answer"),
        ((200, "application/json", "[]"), "unexpected answer"),
        ((422, "application/json", '{"status":"error","error":"too many samples"}'), "too many"),
        ((503, "text/plain", "starting"), "starting"),
        (ok([]), "unexpected answer"),
        (ok(["a", "b"]), "unexpected answer"),
    ],
)
async def test_what_is_no_evidence_is_unreadable(server: Server, answer: Answer, why: str) -> None:
    found = await read(server, lambda _path: answer)
    assert isinstance(found, Unreadable)
    assert why in found.why


async def test_nobody_answers(server: Server) -> None:
    metrics = PrometheusMetrics("http://127.0.0.1:1")
    found = await metrics.read(60)
    assert isinstance(found, Unreadable)
    assert "refused" in found.why
    assert (await metrics.read(60)) == found, "the reason stays the same, as it is shown to people"
