"""The stand-in for a kubelet: what it writes, and that it is true."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tidegate_tools.addresses import Subnet
from tidegate_tools.api import Api, ApiError
from tidegate_tools.pods import Container, LocalPod, ScrapeTargets, expanded
from tidegate_tools.processes import Launch

SIDECAR = """
import os, sys
from http.server import *
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("UNREADY") else 200)
        self.end_headers()
    def log_message(self, *_): pass
HTTPServer((sys.argv[1], 9002), Ready).serve_forever()
"""


@dataclass(frozen=True)
class FakeApi(Api):
    """An API server that keeps one Pod and remembers what was asked."""

    pod: dict[str, Any] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "",
        timeout: float = 5.0,
    ) -> dict[str, Any]:
        del content_type, timeout
        self.log.append((method, path))
        if method == "POST":
            self.pod.update(body)
            self.pod["metadata"] |= {"uid": "u-1"}
        elif method == "PATCH":
            self.pod["status"] = json.loads(json.dumps(body["status"]))
        elif method == "DELETE":
            self.pod.clear()
        if not self.pod and method == "GET":
            raise ApiError(404, "not found")
        return self.pod

    def ready(self) -> str:
        conditions = self.pod.get("status", {}).get("conditions", [])
        return next((c["status"] for c in conditions if c["type"] == "Ready"), "")

    def restarts(self) -> list[int]:
        return [one["restartCount"] for one in self.pod["status"]["containerStatuses"]]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def api() -> FakeApi:
    return FakeApi("https://nowhere", Path("nothing"), "")


@pytest.fixture
def pod(api: FakeApi, tmp_path: Path) -> Iterator[LocalPod]:
    script = SIDECAR.replace("UNREADY", str(tmp_path / "unready"))
    containers = [
        Container("triton", "tritonserver:1", Launch(("sleep", "60"))),
        Container(
            "sidecar",
            "sidecar:1",
            Launch((sys.executable, "-c", script, "$(POD_IP)"), dict(os.environ)),
        ),
    ]
    targets = ScrapeTargets(tmp_path / "targets.json")
    with (
        Subnet.claimed() as subnet,
        LocalPod(
            api, "p", subnet.ip(2), containers, directory=tmp_path, targets=targets
        ) as running,
    ):
        running.wait_ready(60)
        yield running


def test_the_status_follows_readiness(pod: LocalPod, api: FakeApi, tmp_path: Path) -> None:
    assert api.ready() == "True"
    assert api.pod["status"]["podIP"] == pod.ip
    (tmp_path / "unready").touch()
    assert eventually(lambda: api.ready() == "False")
    (tmp_path / "unready").unlink()
    assert eventually(lambda: api.ready() == "True")
    assert api.restarts() == [0, 0]


def test_nothing_is_written_while_nothing_changes(pod: LocalPod, api: FakeApi) -> None:
    assert pod.ready

    def quiet() -> bool:
        before = len([one for one in api.log if one[0] == "PATCH"])
        time.sleep(0.8)
        return len([one for one in api.log if one[0] == "PATCH"]) == before

    assert eventually(quiet)


def test_a_killed_container_makes_the_pod_unready_and_is_restarted(
    pod: LocalPod, api: FakeApi
) -> None:
    first = pod.process("triton")
    pod.kill("triton")
    assert eventually(lambda: api.ready() == "False")
    assert eventually(lambda: api.ready() == "True")
    assert api.restarts() == [1, 0]
    assert pod.process("triton").pid != first.pid
    assert pod.process("triton").alive


def test_a_deleted_pod_is_stopped(pod: LocalPod, api: FakeApi, tmp_path: Path) -> None:
    targets = tmp_path / "targets.json"
    assert json.loads(targets.read_text())[0]["labels"] == {"namespace": "default", "pod": "p"}
    api.pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert eventually(lambda: not api.pod)
    assert not pod.process("triton").alive
    assert json.loads(targets.read_text()) == []


def test_facts_are_filled_in_as_in_a_pods_own_command() -> None:
    launch = Launch(("run", "--ip=$(POD_IP)", "$(UNKNOWN)", "$POD_IP"), {"WHERE": "$(POD_IP):1"})
    filled = expanded(launch, {"POD_IP": "127.0.0.2"})
    assert filled.argv == ("run", "--ip=127.0.0.2", "$(UNKNOWN)", "$POD_IP")
    assert filled.env == {"WHERE": "127.0.0.2:1", "POD_IP": "127.0.0.2"}


def test_networks_that_are_claimed_at_once_differ() -> None:
    with Subnet.claimed() as one, Subnet.claimed() as two:
        assert one.prefix != two.prefix
        with socket.socket() as listener:
            listener.bind((one.ip(7), 9002))
