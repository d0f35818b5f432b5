"""Where ``top`` scrapes: one silent pod, or a Triton that cannot be reached, spoils nothing."""

import http.server
import threading
from collections.abc import Iterator, Mapping

import pytest

from tidegate_cli.__main__ import main
from tidegate_cli.cluster import Cluster
from tidegate_cli.errors import ClusterError, CommandError, NotFoundError
from tidegate_cli.sidecars import Pod
from tidegate_contract.names import PORT_ADMIN
from tidegate_top import sources
from tidegate_top.command import Asked, Looks

METRICS = b'tidegate_inflight{model="m",version="1",arm="stable"} 2\n'


@pytest.fixture
def sidecar() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(METRICS)

        def log_message(self, *_: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.9.7.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.9.7.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


def test_who_answers_is_told_from_who_does_not(sidecar: str) -> None:
    found, silent = sources.scrape_all(sources.addresses([sidecar, "127.9.7.2", "[::1]"]))

    assert found[sidecar].models["m"].in_flight == 2
    assert found[sidecar].hardware is None
    assert silent.keys() == {"127.9.7.2", "[::1]"}
    assert "refused" in silent["127.9.7.2"]


def test_an_address_that_is_none() -> None:
    with pytest.raises(CommandError, match="no HOST"):
        sources.addresses(["pod:http"])


class Proxy:
    """An API server that reaches the admin port of pod a, and Triton beside it."""

    def through_pod(
        self, namespace: str, pod: str, path: str, headers: Mapping[str, str], port: int
    ) -> bytes:
        assert (namespace, path, headers) == ("serving", "/metrics", {})
        if pod != "a":
            raise NotFoundError("no such pod")
        return METRICS if port == PORT_ADMIN else b"nv_cpu_utilization 0.5\n"


def test_pods_are_asked_through_the_api_server() -> None:
    proxy: Cluster = Proxy()  # type: ignore[assignment] - as much of one as is needed
    pods = [Pod("serving", "a", ""), Pod("serving", "b", "")]

    found, silent = sources.scrape_all(sources.pods(proxy, pods, direct=False))
    assert found["a"].hardware
    assert found["a"].hardware.cpu == 0.5
    assert silent == {"b": "no such pod"}

    _, silent = sources.scrape_all(sources.pods(proxy, pods[:1], direct=True))
    assert silent == {"a": "has no address yet"}


def test_pods_that_come_later_are_shown_and_those_known_if_nobody_can_tell(
    sidecar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [sidecar]

    def find() -> Asked:
        if not known:
            raise ClusterError("the API server cannot be reached")
        return sources.addresses(known)

    monkeypatch.setattr("tidegate_top.command._FIND", 0.0)
    looks = Looks(find, "")
    known.append("127.9.7.2")
    assert looks.look().silent.keys() == {"127.9.7.2"}
    known.clear()
    assert looks.look().silent.keys() == {"127.9.7.2"}


def test_one_view_for_scripts(sidecar: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", sidecar, "127.9.7.2", "--once", "--every", "0.1"]) == 0

    out = capsys.readouterr().out
    assert "1 of 2 sidecars answer" in out
    assert "127.9.7.2: " in out


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "127.9.7.2", "--once"]) == 6
    assert "no sidecar answered (127.9.7.2: " in capsys.readouterr().err
