"""The command line of a search, and what it asks of a sidecar."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tidegate_cli.__main__ import main
from tidegate_cli.arguments import parser
from tidegate_cli.errors import CommandError
from tidegate_tune.command import _cost

SAID = "--fixed 4ms --per-row 200us --most 8 --seconds 0.5"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server() -> Iterator[str]:
    """Describes its model, and has learned nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v2/models/m/config"
            groups = [{"count": 2, "gpus": [0, 1]}, {"count": 1}]
            config = {"max_batch_size": 16, "instance_group": groups}
            body = json.dumps(config if found else {"error": "unknown model"})
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{made.server_address[1]}"
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    "line",
    [
        "--url 10.0.0.7",
        "--most 0",
        "--slots 0",
        "--trials 0",
        "--plot search.foo",
        "--fixed ms",
        "--fixed 4",
        "--weights a,b,c,d",
        "--weights nan,1,1,1",
        "--seed -1",
    ],
)
def test_what_makes_no_sense_is_refused_with_the_form_that_is_wanted(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["tune", "m", *line.split()])

    assert ended.value.code == 2
    assert " must " in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--output", "--plot", "--journal"])
def test_a_file_that_cannot_be_written_is_said_before_the_search(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "no" / "file.png")

    assert main(["tune", "m", *SAID.split(), flag, nowhere]) == 1
    out = capsys.readouterr()
    assert "there is no folder" in out.err
    assert not out.out


def test_a_search_goes_on_under_the_same_load_only(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["tune", "m", *SAID.split()]
    assert main([*line, "--rate", "300", "--trials", "2"]) == 0
    assert main([*line, "--rate", "300", "--trials", "3"]) == 0
    assert "2 trials are kept" in capsys.readouterr().err
    assert main([*line, "--rate", "30", "--trials", "3"]) == 1
    assert "another --journal" in capsys.readouterr().err


def test_the_policy_alone_goes_to_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "m", *SAID.split(), "--trials", "1"]) == 0
    out = capsys.readouterr()
    assert yaml.safe_load(out.out)["kind"] == "BatchPolicy"
    assert "default policy" in out.err


def test_what_was_found_is_shown_though_the_next_trial_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object) -> None:
        raise CommandError("the server is gone")

    line = ["tune", "m", *SAID.split(), "--trials"]
    assert main([*line, "1"]) == 0
    found = policy(capsys.readouterr().out)
    monkeypatch.setattr("tidegate_tune.simulated.Simulated.__call__", lost)
    assert main([*line, "2"]) == 1
    out = capsys.readouterr()
    assert policy(out.out) == found
    assert "the server is gone" in out.err


def test_one_that_is_broken_off_again_has_the_best_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    line = ["tune", "m", *SAID.split(), "--trials"]
    assert main([*line, "2"]) == 0
    found = policy(capsys.readouterr().out)
    monkeypatch.setattr("tidegate_tune.simulated.Simulated.__call__", interrupted)
    assert main([*line, "3"]) == 130
    assert policy(capsys.readouterr().out) == found


def policy(out: str) -> object:
    return yaml.safe_load(out[out.index("apiVersion") :])


def test_only_what_was_not_said_is_asked(server: str) -> None:
    said = ["--fixed", "4ms", "--per-row", "200us", "--seconds", "0.5", "--trials", "1"]
    assert main(["tune", "m", *said, "--url", server, "--output", "policy.yaml"]) == 0
    assert yaml.safe_load(Path("policy.yaml").read_text())["spec"]["maxBatchSize"] == 16


@pytest.mark.parametrize(("said", "slots"), [("", 5), ("--slots 2", 2)])
def test_the_models_instances_are_asked(server: str, said: str, slots: int) -> None:
    line = f"tune m --url {server} --fixed 4ms --per-row 200us {said}"
    assert _cost(parser().parse_args(line.split())).slots == slots


def test_a_server_without_the_model_is_said(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ["--fixed", "4ms", "--per-row", "200us"]
    assert main(["tune", "other", *said, "--url", server]) == 1
    assert "does not describe other: unknown model" in capsys.readouterr().err
