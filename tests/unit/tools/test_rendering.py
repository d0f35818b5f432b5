"""What the tools write for others to read: configurations, kubeconfigs, keys, progress."""

import base64
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidegate_tools.addresses import free_port
from tidegate_tools.controlplane import elliptic_key, write_kubeconfig
from tidegate_tools.progress import Board, clock
from tidegate_tools.prometheus import OPERATOR_JOB, SIDECAR_JOB, configuration


def test_prometheus_is_told_both_jobs_and_an_interval_below_a_second() -> None:
    config = json.loads(configuration(Path("/run/targets.json"), ["127.0.0.1:9100"], 250))
    assert config["global"] == {"scrape_interval": "250ms", "scrape_timeout": "250ms"}
    sidecars, operators = config["scrape_configs"]
    assert sidecars == {
        "job_name": SIDECAR_JOB,
        "file_sd_configs": [{"files": ["/run/targets.json"]}],
    }
    assert operators["job_name"] == OPERATOR_JOB
    assert operators["static_configs"] == [{"targets": ["127.0.0.1:9100"]}]


def test_a_kubeconfig_is_complete_and_private(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("certificate")
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, server="https://127.0.0.1:1", ca=ca, user="op", token="t", namespace="n")
    config = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert config["contexts"][0]["context"] == {"cluster": "local", "user": "op", "namespace": "n"}
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    assert base64.b64decode(authority) == b"certificate"


def test_a_key_is_new_each_time_and_has_the_form_of_rfc_5915() -> None:
    one, two = elliptic_key(), elliptic_key()
    assert one != two
    der = base64.b64decode(one.splitlines()[1])
    assert len(der) == der[1] + 2
    assert der[2:7] == bytes.fromhex("0201010420")
    assert der[-8:] == bytes.fromhex("2a8648ce3d030107")


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))


def test_no_two_processes_draw_the_same_port() -> None:
    drawing = (
        "from tidegate_tools.addresses import free_port; print([free_port() for _ in range(50)])"
    )
    mine = {free_port() for _ in range(50)}
    told = subprocess.run([sys.executable, "-c", drawing], capture_output=True, check=True).stdout
    theirs = set(json.loads(told))
    assert len(mine) == len(theirs) == 50
    assert not mine & theirs


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (245, "4m05s")]
)
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_a_log_is_told_the_start_the_progress_and_the_end() -> None:
    log = io.StringIO()
    with Board(log, every=0.05) as board, board.task("etcd", "tests need it", "7 min") as task:
        task.note = "12 packages compiled"
        while log.getvalue().count("\n") < 2:
            time.sleep(0.01)
    lines = log.getvalue().splitlines()
    assert lines[0] == "etcd: tests need it; about 7 min"
    assert re.fullmatch(r"etcd, \d+s of about 7 min: 12 packages compiled", lines[1])
    assert re.fullmatch(r"etcd: done in \d+s", lines[-1])


def test_a_log_is_told_of_a_failure() -> None:
    log = io.StringIO()
    with pytest.raises(OSError, match="no space"), Board(log) as board, board.task("a", "b", "c"):
        raise OSError("no space")
    assert "a: FAILED after 0s" in log.getvalue()
