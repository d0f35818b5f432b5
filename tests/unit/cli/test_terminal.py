"""Figures as people read them."""

import pytest
from rich.table import Table

from tidegate_cli import terminal


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0.0%"),
        (0.000123, "0.012%"),
        (0.0019, "0.19%"),
        (0.05, "5%"),
        (0.0999, "10%"),
        (0.123, "12.3%"),
        (1.0, "100.0%"),
        (-0.0012, "-0.12%"),
        (-0.25, "-25%"),
    ],
)
def test_shares(value: float | None, shown: str) -> None:
    assert terminal.share(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (3.2149, "3.21"),
        (1.2e-4, "0.00012"),
        (999.7, "1,000"),
        (12345.6, "12,346"),
    ],
)
def test_figures(value: float | None, shown: str) -> None:
    assert terminal.figure(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0s"), (45, "45s"), (192.4, "3m12s"), (5400, "1h30m")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert terminal.duration(seconds) == shown


@pytest.mark.parametrize(
    ("columns", "width"), [("140", 140), ("", terminal.WIDTH), ("0", terminal.WIDTH)]
)
def test_a_pipe_is_as_wide_as_the_environment_says(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.console().width == width
    monkeypatch.delenv("COLUMNS")
    assert terminal.console().width == terminal.WIDTH


def test_lines_in_a_pipe_do_not_end_in_spaces(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("one", "a long cell")
    grid.add_row("two", "b")
    terminal.console().print(grid)
    assert capsys.readouterr().out == "one  a long cell\ntwo  b\n"
