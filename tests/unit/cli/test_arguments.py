"""The command line: what it takes, and that it documents itself."""

import argparse
from pathlib import Path

import pytest

from tidegate_cli.arguments import parser

ROOT = Path(__file__).parents[3]


def words() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    found: dict[str, argparse.ArgumentParser] = action.choices
    return found


@pytest.mark.parametrize("word", list(words()))
def test_every_example_of_the_help_is_understood(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([word, "--help"])
    assert ended.value.code == 0
    examples = capsys.readouterr().out.split("examples:\n")[1].splitlines()

    assert examples
    for line in examples:
        command = line.split(" && ")[0].split(" > ")[0].replace('"wrong tokenizer"', "tokenizer")
        assert callable(parser().parse_args(command.split()[2:]).run)


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()

    assert [word for word in words() if f"`{word}" not in page] == []


@pytest.mark.parametrize(
    "line",
    [
        "status digits -o xml",
        "abort digits-2",
        "promote",
        "promote digits-2 --timeout -1",
        "promote digits-2 --timeout nan",
        "promote digits-2 --timeout soon",
        "diff digits-2 --limit x",
        "watch --every 0",
        "diff digits-2 --limit 0",
        "status --until-finished",
        "",
    ],
)
def test_what_makes_no_sense_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(line.split())

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "usage: kubectl tidegate" in said
    assert "invalid _" not in said  # the name of a function helps nobody


def test_not_waiting_can_be_asked_for() -> None:
    assert parser().parse_args(["promote", "digits-2", "--timeout", "0"]).timeout == 0.0
