"""Durations and timestamps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.api.quantity import duration, epoch, octets, seconds, timestamp


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("0s", 0), ("1m500ms", 60.5)],
)
def test_seconds(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "s", "1", "1d", "-1s", "1.5s", "1s ", "100000s", "1h1m1s1ms1s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (0.3, "300ms"),
        (2.5, "2.5s"),
        (3, "3s"),
        (45.4, "45s"),
        (60, "1m"),
        (5400, "1h30m"),
        (3661, "1h1m1s"),
    ],
)
def test_durations_for_people(value: float, text: str) -> None:
    assert duration(value) == text


@given(st.integers(1, 359_999))
def test_whole_seconds_survive(value: int) -> None:
    assert seconds(duration(value)) == value


@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_survive_a_timestamp(milliseconds: int) -> None:
    assert round(epoch(timestamp(milliseconds / 1000)) * 1000) == milliseconds


def test_timestamps_are_utc() -> None:
    assert timestamp(0.5) == "1970-01-01T00:00:00.500Z"
    assert epoch("1970-01-01T01:00:00+01:00") == 0


@pytest.mark.parametrize(
    ("amount", "octets_"),
    [
        (5, 5),
        ("5", 5),
        ("64Mi", 64 * 2**20),
        ("1.5Gi", 3 * 2**29),
        (".5Ki", 512),
        ("1Ei", 2**60),
        ("2k", 2000),
        ("1.5G", 1_500_000_000),
        ("1E", 10**18),
        ("2E3", 2000),
        ("1e9", 10**9),
        ("25e-1", 3),
        ("+7", 7),
        ("2000m", 2),
        ("1500m", 2),
    ],
)
def test_amounts_of_memory(amount: int | str, octets_: int) -> None:
    assert octets(amount) == octets_


@pytest.mark.parametrize("text", ["", "Mi", "-1", "1GB", "1 Gi", "1Ki5", "1e999999999", "."])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of memory"):
        octets(text)
