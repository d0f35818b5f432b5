"""A Prometheus that answers every query with what a test says."""

import http.server
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

Answer = tuple[int, str, str]


class Server(http.server.ThreadingHTTPServer):
    """``promised``: bytes that its answers lack. ``seen``: the parameters of what it was asked."""

    daemon_threads = True
    answer: Callable[[str], Answer]
    promised = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict[str, str]] = []
        self.paths: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up waiting is what some tests are about; all else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(urllib.parse.urlsplit(self.path).query)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, encoded: str) -> None:
        assert isinstance(self.server, Server)
        asked = urllib.parse.parse_qs(encoded)
        self.server.paths.append(self.path)
        self.server.seen.append({name: values[0] for name, values in asked.items()})
        status, kind, body = self.server.answer(asked["query"][0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) + self.server.promised))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


def served() -> Iterator[Server]:
    """Started, until a test is over."""
    with Server() as started:
        threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
        yield started
        started.shutdown()
