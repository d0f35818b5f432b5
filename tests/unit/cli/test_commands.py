"""The commands on data: what they print where there is little, and where they refuse."""

from typing import Any

import pytest
from rich.console import Console
from shelf import Clock, Shelf, abtest, rollout

from tidegate_cli.arguments import parser
from tidegate_cli.cluster import CONFIG_MAP, Raw
from tidegate_cli.commands import World
from tidegate_cli.errors import CommandError, NoSidecarError, NotFoundError


def run(shelf: Shelf, clock: Clock, line: str) -> int:
    options = parser().parse_args(line.split())
    code: int = options.run(World(shelf, Console(width=100), clock), options)
    return code


def serving_pod() -> Raw:
    meta = {"name": "triton-0", "namespace": "default"}
    return {"kind": "Pod", "metadata": meta, "status": {"phase": "Running", "podIP": ""}}


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        ("status -n empty", NotFoundError, "no model in empty: apply a ModelVersion"),
        ("diff one-vs-two", CommandError, "only rollouts mirror"),
        ("catch-up digits", CommandError, "no live split to catch up with"),
        ("discover digits --direct", NoSidecarError, "no address yet.*without --direct"),
        ("watch --until-finished", CommandError, "needs the name"),
    ],
)
def test_refusals(shelf: Shelf, clock: Clock, line: str, error: Any, says: str) -> None:
    shelf.put(abtest())
    shelf.put(serving_pod())
    del shelf.objects[CONFIG_MAP, "default", "tidegate-routing-digits"]

    with pytest.raises(error, match=says):
        run(shelf, clock, line)


def test_a_watch_is_left_at_any_time(
    shelf: Shelf, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave() -> None:
        raise KeyboardInterrupt

    clock.then = [leave]

    assert run(shelf, clock, "watch -n empty") == 0
    assert "No model yet." in capsys.readouterr().out


def test_a_watch_for_the_end_follows_one_rollout(
    shelf: Shelf, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    clock.then = [lambda: shelf.put(rollout(phase="RolledBack", message="errors: too many"))]

    assert run(shelf, clock, "watch digits-2 --until-finished") == 1
    assert "errors: too many" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (b'{"digits": {"undeclared": [1, 2]}}', "all versions that Triton has are declared"),
        (b'{"digits": {"undeclared": [4, 1]}}', "no ModelVersion names version 4"),
        (b'{"bert": {"undeclared": [4]}}', "no pod serves it"),
    ],
)
def test_discoveries(
    shelf: Shelf, clock: Clock, capsys: pytest.CaptureFixture[str], models: bytes, says: str
) -> None:
    shelf.put(serving_pod())
    report = b'{"pod": "triton-0", "podUid": "u", "ready": true, "models": ' + models + b"}"
    shelf.pages = {"triton-0": report}

    assert run(shelf, clock, "discover digits") == 0
    assert says in capsys.readouterr().out


def test_a_model_that_no_object_names_is_discovered_all_the_same(
    shelf: Shelf, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.put(serving_pod())
    report = b'{"pod": "t", "podUid": "u", "ready": true, "models": {"bert": {"undeclared": [1]}}}'
    shelf.pages = {"triton-0": report}

    assert run(shelf, clock, "discover bert --write") == 0
    assert "name: bert-1" in capsys.readouterr().out


def test_nothing_to_catch_up_leaves_the_output_empty(
    shelf: Shelf, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shelf, clock, "catch-up digits") == 0
    assert capsys.readouterr() == ("", "digits: the specs say what is live\n")
