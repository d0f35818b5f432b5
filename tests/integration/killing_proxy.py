"""A proxy before the API server that can end the operator at the very write that a test names.

The write is not passed on: it is the last thing that the operator tried. The proxy can also answer
in the API server's stead, as one that is still starting or that refuses a write does, and it keeps
the times of all writes (``log``) and of the first request since somebody asked (``first_sign``).
"""

import http.client
import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tidegate_tools.controlplane import ControlPlane

Body = dict[str, Any]
Doom = Callable[[str, str, Body], bool]
"""(method, path, body) to whether this is the write that is not survived."""
Refusal = Callable[[str, str, Body], int | None]
"""(method, path, body) to the status that answers this write in the API server's stead."""

_DROPPED = {"transfer-encoding", "connection", "content-length", "content-encoding"}
_PASSED = {"authorization", "content-type", "accept", "user-agent"}


@dataclass(frozen=True, slots=True)
class Write:
    """A write that came in, and how it was answered (0: not at all). ``asked``, ``at``: epoch
    seconds of its coming in and of its answer.
    """

    asked: float
    at: float
    method: str
    path: str
    body: Any
    status: int

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300


class KillingProxy:
    """Listens on a port of 127.0.0.1, as plain HTTP; the operator's token is passed on."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self.doom: Doom = lambda _method, _path, _body: False
        self.kill: Callable[[], None] = lambda: None
        self.starting: Callable[[str], bool] = lambda _path: False
        self.starting_status = 429
        self.refuse: Refusal = lambda _method, _path, _body: None
        self.refused = 0
        self.log: list[Write] = []
        self.first_sign: float | None = None
        self.noted = threading.Condition()
        self.target = plane.server.removeprefix("https://")
        self.context = ssl.create_default_context(cafile=str(plane.ca))
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        config = json.loads(kubeconfig.read_text())
        url = f"http://127.0.0.1:{self._server.server_port}"
        config["clusters"][0]["cluster"] = {"server": url}
        self.kubeconfig = kubeconfig.with_suffix(f".{self._server.server_port}")
        self.kubeconfig.write_text(json.dumps(config))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def survives(self, method: str, path: str, body: Body) -> bool:
        """Whether a write is not the last one."""
        if method == "GET" or not self.doom(method, path, body):
            return True
        self.doom = lambda _method, _path, _body: False
        self.kill()
        return False

    def note(self, write: Write) -> None:
        """Keep it, and wake whoever waits for writes."""
        with self.noted:
            self.log.append(write)
            self.noted.notify_all()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of the operator, and one to the API server behind it."""

    proxy: KillingProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._upstream = http.client.HTTPSConnection(self.proxy.target, context=self.proxy.context)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.proxy.first_sign = self.proxy.first_sign or time.time()
        if self.proxy.starting(self.path):
            self.proxy.refused += 1
            self._refuse(self.proxy.starting_status, "storage is (re)initializing")
        elif self.command == "GET":
            self._pass_on(body)
        else:
            self._write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _write(self, body: bytes) -> None:
        asked, what = time.time(), json.loads(body or b"{}")
        status = self.proxy.refuse(self.command, self.path, what)
        if not self.proxy.survives(self.command, self.path, what):
            status = 0
            self.close_connection = True
        elif status is not None:
            self._refuse(status, f"refused by a test with {status}")
        else:
            status = self._pass_on(body)
        written = Write(asked, time.time(), self.command, self.path, what, status)
        self.proxy.note(written)

    def _pass_on(self, body: bytes) -> int:
        """The API server's status; 0 for none. Whether the operator lives to hear it is another
        matter.
        """
        headers = {k: v for k, v in self.headers.items() if k.lower() in _PASSED}
        status = 0
        try:
            self._upstream.request(self.command, self.path, body, headers)
            answer = self._upstream.getresponse()
            status = answer.status
            if "watch=" in self.path:
                self._stream(answer)
            else:
                self._answer(status, answer.read())
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        return status

    def _refuse(self, status: int, message: str) -> None:
        told = {"kind": "Status", "status": "Failure", "code": status, "message": message}
        self._answer(status, json.dumps(told).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: http.client.HTTPResponse) -> None:
        self.close_connection = True
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _DROPPED:
                self.send_header(name, value)
        self.end_headers()
        while part := answer.read1(65536):
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass
