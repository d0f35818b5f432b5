"""Figures as people read them."""

import pytest

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
    [(None, "-"), (0.0, "0"), (3.2149, "3.21"), (0.00012, "0.00012"), (12345.6, "12,346")],
)
def test_figures(value: float | None, shown: str) -> None:
    assert terminal.figure(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0s"), (45, "45s"), (192.4, "3m12s"), (5400, "1h30m")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert terminal.duration(seconds) == shown
