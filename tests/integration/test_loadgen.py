"""``tidegate loadgen`` and ``top`` on a real sidecar before a real Triton, and on Triton alone.

The model takes numbers and words; it computes nothing that matters.
"""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tidegate_contract import names, table
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import Supervisor

MODEL = "echo"
MAX_BATCH = 8
PATIENCE = 60.0
COMMAND = (sys.executable, "-m", "tidegate_cli")
USERS = [
    {"name": "people", "share": 3, "priority": 1},
    {"name": "reports", "share": 1, "priority": 4, "rows": 3},
]

SOURCE = """
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb.InferenceResponse([pb.Tensor("y", x * 2)]))
        return answers
"""

CONFIG = f"""
backend: "python"
max_batch_size: {MAX_BATCH}
input [
  {{ name: "x" data_type: TYPE_FP32 dims: [4] }},
  {{ name: "words" data_type: TYPE_STRING dims: [-1] }}
]
output [{{ name: "y" data_type: TYPE_FP32 dims: [4] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
"""


@dataclass(frozen=True)
class Servers:
    """One address: the sidecar on 9000 and 9002, its Triton on 8000 and 8002."""

    ip: str

    @property
    def sidecar(self) -> str:
        return f"{self.ip}:{names.PORT_HTTP}"

    @property
    def triton(self) -> str:
        return f"{self.ip}:{triton.HTTP_PORT}"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("loadgen")
    with Supervisor() as supervisor, Subnet.claimed() as subnet:
        found = Servers(subnet.ip(1))
        version = directory / "models" / MODEL / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(SOURCE)
        (version.parent / "config.pbtxt").write_text(CONFIG)
        launch = triton.launch(directory / "models", found.ip)
        log = directory / "triton.log"
        server = supervisor.start("triton", launch.argv, env=launch.env, log=log)
        server.wait_until(lambda: answers(f"{found.triton}/v2/health/live"), PATIENCE)
        assert answers(f"{found.triton}/v2/repository/models/{MODEL}/load", b"{}")
        flags = sidecar_flags(found, directory / "tables")
        environment = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
        argv = (sys.executable, "-m", "tidegate_sidecar", *flags)
        log = directory / "sidecar.log"
        sidecar = supervisor.start("sidecar", argv, env=environment, log=log)
        ready = f"{found.sidecar}/v2/models/{MODEL}/versions/1/ready"
        sidecar.wait_until(lambda: answers(ready), PATIENCE)
        yield found


def sidecar_flags(servers: Servers, tables: Path) -> list[str]:
    folder = tables / names.routing_table_name(MODEL)
    folder.mkdir(parents=True)
    text, digest = table.encode(
        table.RoutingTable(
            namespace="default",
            model=MODEL,
            revision=1,
            split_revision=1,
            split=[table.Arm(name=names.ARM_STABLE, version=1, weight=table.WHOLE)],
            versions=[table.LoadedVersion(version=1)],
            baseline=[table.Share(version=1, weight=table.WHOLE)],
        )
    )
    (folder / names.TABLE_KEY).write_text(text)
    (folder / names.DIGEST_KEY).write_text(digest)
    settings = {
        "models": MODEL,
        "pod": "pod",
        "pod-uid": "uid",
        "namespace": "default",
        "host": servers.ip,
        "triton": servers.triton,
        "table-directory": str(tables),
    }
    return [f"--{flag}={value}" for flag, value in settings.items()]


def answers(address: str, data: bytes | None = None) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}", data, timeout=PATIENCE):
            return True
    except (OSError, urllib.error.HTTPError):
        return False


def loadgen(*arguments: str, into: Path) -> dict[str, Any]:
    """Run to the end; the summary."""
    file = into / "run.json"
    argv = [*COMMAND, "loadgen", MODEL, *arguments, "--connections=16", f"--json={file}"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    for part in (found["total"], *(one["figures"] for one in found["users"])):
        add_up(part)
    assert sum(one["figures"]["sent"] for one in found["users"]) == found["total"]["sent"]
    return found


def add_up(part: dict[str, Any]) -> None:
    ends = ("ok", "expired", "rejected", "errors", "unanswered")
    assert part["sent"] == sum(part[end] for end in ends)
    assert part["scheduled"] == part["sent"] + part["unsent"]
    assert part["in_time"] <= part["ok"]


@pytest.mark.parametrize(("pattern", "data"), [("normal", "zeros"), ("flood", "random")])
def test_every_request_through_a_sidecar_is_accounted_for(
    servers: Servers, tmp_path: Path, pattern: str, data: str
) -> None:
    users = tmp_path / "users.json"
    users.write_text(json.dumps(USERS))

    found = loadgen(
        f"--url={servers.sidecar}",
        f"--users={users}",
        f"--pattern={pattern}",
        f"--data={data}",
        "--shape=words=2",
        "--rate=100",
        "--seconds=1.5",
        into=tmp_path,
    )

    assert {one["name"] for one in found["users"]} == {"people", "reports"}
    assert found["total"]["ok"] == found["total"]["scheduled"] > 50
    assert found["statuses"] == {"200": found["total"]["ok"]}
    assert found["fairness"] == 1.0


def test_a_trace_against_triton_alone_with_a_batch_that_is_too_large(
    servers: Servers, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{i / 50},{i % 3 + 1},{MAX_BATCH + (i % 10 == 0)}" for i in range(50)]
    trace.write_text("\n".join(("at,level,rows", *rows)))

    found = loadgen(f"--url={servers.triton}", f"--trace={trace}", into=tmp_path)

    assert found["total"]["scheduled"] == 50
    assert found["statuses"] == {"200": 45, "400": 5}
    assert found["total"]["errors"] == 5


def test_a_body_of_ones_own_and_deadlines_that_nobody_can_meet(
    servers: Servers, tmp_path: Path
) -> None:
    body = tmp_path / "body.json"
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        {"name": "words", "datatype": "BYTES", "shape": [1, 1], "data": ["tide"]},
    ]
    body.write_text(json.dumps({"inputs": inputs}))

    found = loadgen(
        f"--url={servers.sidecar}",
        f"--body={body}",
        "--rate=200",
        "--seconds=1",
        *(f"--user={name}:share=0" for name in ("vip", "premium", "batch", "background")),
        "--user=regular:deadline=0.001ms",
        into=tmp_path,
    )

    # The header counts milliseconds: who is answered within the first one is late all the same.
    assert found["total"]["in_time"] == 0
    assert found["total"]["errors"] == found["total"]["unanswered"] == 0


@contextlib.contextmanager
def running(servers: Servers, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A load that goes on until it is interrupted; it has begun."""
    options = (f"--url={servers.sidecar}", "--rate=50", "--seconds=600", f"--json={file}")
    argv = [*COMMAND, "loadgen", MODEL, *options, "--connections=8"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        process.stderr.readline()  # a second's progress
        try:
            yield process
        finally:
            process.kill()


def test_an_interrupted_run_is_summed_up_and_top_sees_it(servers: Servers, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with running(servers, file) as process:
        seen = top_once(servers)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)

    row = next(line.split() for line in seen.splitlines() if MODEL in line)
    assert float(row[2]) > 0
    assert "1 of 1 sidecars answer" in seen
    assert "GiB" in seen  # Triton's own metrics
    assert process.returncode == 130
    found = json.loads(file.read_text())
    assert found["interrupted"]
    assert 0 < found["total"]["scheduled"] < 600 * 50
    add_up(found["total"])
    assert ", interrupted" in out


def top_once(servers: Servers) -> str:
    argv = [*COMMAND, "top", servers.ip, "--once", "--every=2"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout


@pytest.mark.parametrize("leave", [b"q", b"\x03"])
def test_top_leaves_the_terminal_as_it_was(servers: Servers, leave: bytes) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    argv = [*COMMAND, "top", servers.ip, "--every=0.2"]
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        argv,
        stdin=theirs,
        stdout=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: take(theirs),  # noqa: PLW1509 - no threads here
    )
    seen = b""
    try:
        seen = read_until(ours, lambda text: MODEL.encode() in text)
        os.write(ours, leave)
        seen += read_until(ours, lambda text: b"\x1b[?1049l" in text)
        assert process.wait(PATIENCE) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def take(terminal: int) -> None:
    """Make a terminal the one that Ctrl-C is typed at."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def read_until(terminal: int, enough: Callable[[bytes], bool]) -> bytes:
    seen, until = b"", time.monotonic() + PATIENCE
    while not enough(seen):
        assert time.monotonic() < until, seen
        seen += os.read(terminal, 65536)
    return seen
