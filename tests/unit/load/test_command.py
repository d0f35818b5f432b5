"""The command line, and servers that do not answer as a model's server does."""

import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate_cli.__main__ import main
from tidegate_cli.arguments import parser
from tidegate_tools.addresses import free_port


@pytest.mark.parametrize(
    "line",
    [
        "",
        "m --url 127.0.0.1",
        "m --url https://h:1",
        "m --url h:65536",
        "m --rate 0",
        "m --rate inf",
        "m --seconds -1",
        "m --factor 0.5",
        "m --connections 0",
        "m --plot run.pdf",
        "m --shape x",
        "m --shape x=0",
        "m --shape x=a",
        "m --rate abc",
        "m --version 1.5",
        "m --seed -1",
        "m --pattern storm",
    ],
)
def test_what_makes_no_sense_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["loadgen", *line.split()])

    assert ended.value.code == 2
    assert "invalid _" not in capsys.readouterr().err  # the name of a function helps nobody


def test_a_url_may_have_its_scheme() -> None:
    assert parser().parse_args(["loadgen", "m", "--url", "http://h:1/"]).url == "h:1"


def test_looking_at_a_cluster_loads_nothing_of_this() -> None:
    code = (
        "import sys, tidegate_cli.__main__ as command\n"
        "command.parser().parse_args(['status'])\n"
        "sys.exit(any(one in sys.modules for one in ('numpy', 'matplotlib', 'uvloop')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def server() -> Iterator[str]:
    """Knows no model but ``html``, which it describes for people."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith("/html"):
                self.send_error(404, "unknown model")
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    ("model", "says"),
    [("digits", "answered 404: .*unknown model"), ("html", "does not describe html")],
)
def test_a_server_without_the_model(
    server: str, capsys: pytest.CaptureFixture[str], model: str, says: str
) -> None:
    assert main(["loadgen", model, "--url", server]) == 1

    out = capsys.readouterr()
    assert not out.out
    assert re.search(says, out.err.replace("\n", " "))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--user vip:share", "no FIELD=VALUE"),
        ("--user :share=1", "a name comes first"),
        ("--rate 1e12", "lower --rate"),
        ("--rate 1e6 --seconds 20 --pattern flood --factor 100", "lower --rate"),
        ("--trace /nowhere.csv", "the trace cannot be read"),
        ("--body /nowhere.json", "/nowhere.json cannot be read"),
        ("--pattern spike --burst-begin 10", "when the run is over"),
        ("", "cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_said(
    capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    url = f"127.0.0.1:{free_port()}"

    assert main(["loadgen", "m", "--url", url, *line.split()]) == 1
    assert says in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said_before_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    url = f"127.0.0.1:{free_port()}"

    assert main(["loadgen", "m", "--url", url, "--json", str(tmp_path / "no" / "run.json")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_file_that_may_not_be_written_is_said_before_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.json"
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)  # root may write anywhere

    assert main(["loadgen", "m", "--json", str(file)]) == 1
    assert "permission denied" in capsys.readouterr().err


def test_what_must_be_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "tidegate_load.command", raising=False)
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert main(["loadgen", "m"]) == 1
    assert 'uvloop is not installed: pip install "tidegate[workbench]"' in capsys.readouterr().err
