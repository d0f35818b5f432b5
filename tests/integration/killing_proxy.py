"""A proxy before the API server that can end the operator at the very write that a test names.

The write is not passed on: it is the last thing that the operator tried. It can also answer as an
API server does that is still starting.
"""

import http.client
import http.server
import json
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tidegate_tools.controlplane import ControlPlane

Body = dict[str, Any]
Doom = Callable[[str, str, Body], bool]
"""(method, path, body) to whether this is the write that is not survived."""

_DROPPED = {"transfer-encoding", "connection", "content-length", "content-encoding"}


class KillingProxy:
    """Listens on a port of 127.0.0.1, as plain HTTP; the operator's token is passed on."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self.doom: Doom = lambda _method, _path, _body: False
        self.kill: Callable[[], None] = lambda: None
        self.starting: Callable[[str], bool] = lambda _path: False
        self.refused = 0
        self.writes: list[str] = []
        self.target = plane.server.removeprefix("https://")
        self.context = ssl.create_default_context(cafile=str(plane.ca))
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
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

    def survives(self, method: str, path: str, body: bytes) -> bool:
        """Note a write; False where it was the last one."""
        if method == "GET":
            return True
        self.writes.append(f"{method} {path}")
        if self.doom(method, path, json.loads(body or b"{}")):
            self.doom = lambda _method, _path, _body: False
            self.kill()
            return False
        return True


class _Handler(http.server.BaseHTTPRequestHandler):
    proxy: KillingProxy
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.proxy.starting(self.path):
            self.proxy.refused += 1
            self._answer(429, b'{"kind":"Status","message":"storage is (re)initializing"}')
            return
        if not self.proxy.survives(self.command, self.path, body):
            self.close_connection = True
            return
        self._pass_on(body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _pass_on(self, body: bytes) -> None:
        upstream = http.client.HTTPSConnection(self.proxy.target, context=self.proxy.context)
        wanted = {"authorization", "content-type", "accept", "user-agent"}
        headers = {k: v for k, v in self.headers.items() if k.lower() in wanted}
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            if "watch=" in self.path:
                self._stream(answer)
            else:
                self._answer(answer.status, answer.read())
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            upstream.close()

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
