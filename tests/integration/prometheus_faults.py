"""A proxy before a real Prometheus that fails in all the ways in which one does.

It is what the operator is told to ask. Without a fault it passes everything on; its clock may
differ from Prometheus'.
"""

import http.client
import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, Literal, Self

Fault = Literal[
    "503",
    "refused",
    "hanging",
    "HTML",
    "truncated",
    "empty",
    "NaN",
    "stale",
    "frozen",
    "slow",
]
"""``stale``: no sample after the fault's begin is shown. ``frozen``: every answer is that of the
fault's begin, the time included, as from a cache. ``slow``: right, but late.
"""
Answer = Any
SLOW_SECONDS = 0.3
_PAGE = b"<!doctype html><html><body>Sign in to continue</body></html>"


class FaultyPrometheus:
    """Listens on a port of 127.0.0.1. ``fault``: what is wrong now. ``skew``: seconds that its
    clock is ahead. ``answered``: told of every query that was answered, and when it was asked.
    """

    def __init__(self, url: str) -> None:
        self.target = url.removeprefix("http://")
        self.skew = 0.0
        self.since = 0.0
        self.queries: list[tuple[float, str]] = []
        self.answered: Callable[[str, float], None] = lambda _query, _asked: None
        self._fault: Fault | None = None
        self.released = threading.Event()
        self._server: _Server | None = _Server(("127.0.0.1", 0), self)
        self._address = self._server.server_address
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._serve()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._close()

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        """Begin a fault, or end the one that is (None)."""
        self.released.set()
        self.released = threading.Event()
        self.since = time.time()
        self._fault = fault
        if fault == "refused":
            self._close()
        elif self._server is None:
            self._server = _Server(self._address, self)
            self._serve()

    def _serve(self) -> None:
        assert self._server is not None
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def ask(self, path: str, asked: dict[str, str]) -> tuple[int, bytes]:
        """What Prometheus says: status and body, with what is wrong now."""
        if self._fault == "frozen":
            asked = {**asked, "time": f"{self.since:.3f}"}
        elif self.skew and "time" in asked:
            asked = {**asked, "time": f"{float(asked['time']) - self.skew:.3f}"}
        upstream = http.client.HTTPConnection(self.target, timeout=60)
        try:
            upstream.request("GET", f"{path}?{urllib.parse.urlencode(asked)}")
            answer = upstream.getresponse()
            status, body = answer.status, answer.read()
        finally:
            upstream.close()
        if status == http.HTTPStatus.OK and (self.skew or self._fault in _CHANGES):
            changed = json.loads(body)
            _CHANGES.get(self._fault, _nothing)(changed["data"], self.since)
            _skewed(changed["data"], self.skew)
            body = json.dumps(changed).encode()
        return status, body


def _nothing(_data: Answer, _since: float) -> None:
    pass


def _emptied(data: Answer, _since: float) -> None:
    if data["resultType"] in {"matrix", "vector"}:
        data["result"] = []


def _not_a_number(data: Answer, _since: float) -> None:
    for sample in _samples(data):
        sample[1] = "NaN"


def _old_only(data: Answer, since: float) -> None:
    if data["resultType"] == "matrix":
        for row in data["result"]:
            row["values"] = [one for one in row["values"] if one[0] <= since]
        data["result"] = [row for row in data["result"] if row["values"]]


def _samples(data: Answer) -> list[Answer]:
    """All samples, but the time itself, which is a scalar."""
    match data["resultType"]:
        case "matrix":
            return [one for row in data["result"] for one in row["values"]]
        case "vector":
            return [row["value"] for row in data["result"]]
        case _:
            return []


_CHANGES: dict[Fault | None, Callable[[Answer, float], None]] = {
    "empty": _emptied,
    "NaN": _not_a_number,
    "stale": _old_only,
}


def _skewed(data: Answer, skew: float) -> None:
    """Everything as a clock shows it that is ahead by ``skew`` seconds."""
    if data["resultType"] == "scalar":
        at, value = data["result"]
        data["result"] = [at + skew, str(float(value) + skew)]  # the only scalar asked is time()
    for sample in _samples(data):
        sample[0] += skew


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Any, proxy: FaultyPrometheus) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    # HTTP/1.0: a connection for each query, so that a fault meets the very next one.

    def do_GET(self) -> None:
        proxy = self.server.proxy
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        at, promql = time.time(), asked.get("query", "")
        proxy.queries.append((at, promql))
        match proxy.fault:
            case "503":
                self._answer(503, b"upstream connect error", "text/plain")
            case "HTML":
                self._answer(200, _PAGE, "text/html")
            case "hanging":
                proxy.released.wait()
            case fault:
                if fault == "slow":
                    proxy.released.wait(SLOW_SECONDS)
                status, body = proxy.ask(path, asked)
                self._answer(status, body, "application/json", cut=fault == "truncated")
                proxy.answered(promql, at)

    def _answer(self, status: int, body: bytes, kind: str, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, *_: Any) -> None:
        pass
