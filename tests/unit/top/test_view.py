"""From scrapes to rates and quantiles, and to what stands in the terminal."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tidegate_top.picture import Fitted, picture
from tidegate_top.scrape import Counts, Gpu, Hardware, Scrape
from tidegate_top.view import View, change, quantile, row, view

INF = float("inf")
BEFORE = Counts({"ok": 100, "expired": 5}, {0.1: 90, 0.2: 100, INF: 105}, 10, 40, 1, {1: 0})
NOW = Counts(
    {"ok": 280, "expired": 15, "rejected": 10}, {0.1: 240, 0.2: 290, INF: 305}, 60, 240, 3, {1: 2}
)


def test_rates_are_of_the_time_between() -> None:
    found = row("pod", "m", change(BEFORE, NOW), 2.0)

    assert found.throughput == 90
    assert (found.errors, found.expired, found.rejected) == (0, 0.05, 0.05)
    assert found.batch == 4
    assert found.in_flight == 3
    assert found.queue == {1: 2}
    # 150 of 200 within 0.1 s, 190 within 0.2 s: the 190th is the last of those.
    assert found.p95 == pytest.approx(0.2)


def test_nothing_in_between_is_no_rate() -> None:
    found = row("pod", "m", change(NOW, NOW), 1.0)

    assert found.throughput == 0
    assert found.p95 is found.errors is found.expired is found.rejected is found.batch is None


def test_a_sidecar_that_was_restarted_has_counted_from_0_on() -> None:
    assert change(NOW, BEFORE) == BEFORE


def test_a_model_that_is_new_counts_from_0_on() -> None:
    found = view({"a": Scrape(0, {})}, {"a": Scrape(1, {"m": BEFORE})}, {})

    assert found.rows[0].throughput == 100


@pytest.mark.parametrize(
    ("q", "buckets", "value"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0, INF: 0}, None),
        (0.5, {1.0: 10, INF: 10}, 0.5),
        (0.95, {1.0: 0, 2.0: 100, INF: 100}, 1.95),
        (0.95, {1.0: 50, 2.0: 50, INF: 100}, 2.0),
        (1.0, {1.0: 50, 2.0: 100, INF: 100}, 2.0),
    ],
)
def test_quantiles_of_a_histogram(q: float, buckets: dict[float, float], value: float) -> None:
    assert quantile(q, buckets) == (value and pytest.approx(value))


@given(st.lists(st.floats(0.001, 9.9), min_size=1), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_real_one(values: list[float], q: float) -> None:
    bounds = [0.01, 0.1, 1.0, 10.0]
    buckets = {bound: float(sum(one <= bound for one in values)) for bound in bounds}

    found = quantile(q, buckets | {INF: float(len(values))})
    real = float(np.quantile(values, q, method="inverted_cdf"))
    upper = next(bound for bound in bounds if bound >= real)
    lower = max((bound for bound in bounds if bound < real), default=0.0)

    assert found is not None
    assert lower - 1e-9 <= found <= upper + 1e-9


def test_several_pods_are_shown_together_too() -> None:
    before = {pod: Scrape(0, {"m": BEFORE}) for pod in "ab"}
    now = {pod: Scrape(2, {"m": NOW}) for pod in "ab"}

    found = view(before, now, {"c": "refused"})
    both, a, b = found.rows

    assert (a.pod, b.pod, both.pod) == ("a", "b", "all")
    assert both.throughput == a.throughput + b.throughput
    assert both.queue == {1: 4}
    assert both.p95 == a.p95
    assert both.batch == a.batch
    assert found.silent == {"c": "refused"}


def test_a_pod_that_was_silent_before_is_shown_from_its_second_scrape_on() -> None:
    assert view({}, {"a": Scrape(0, {"m": NOW})}, {}).rows == []


def shown(seen: View, width: int = 100) -> str:
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    screen.print(picture(seen, "now"))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_the_picture_has_rows_machines_and_silences() -> None:
    machine = Hardware(0.5, 2**30, 4 * 2**30, (Gpu(0.9, 2**31, 2**33), Gpu(None, None, None)))
    before = {"a": Scrape(0, {"m": BEFORE}), "b": Scrape(0, {})}
    now = {"a": Scrape(2, {"m": NOW}, machine), "b": Scrape(2, {}, Hardware())}
    lines = shown(view(before, now, {"c": "re\x1bfused"})).splitlines()

    cells = next(line.split() for line in lines if line.startswith("a "))
    assert cells[:7] == ["a", "m", "90", "200", "ms", "0.0%", "5%"]
    assert lines[2].split()[-2:] == ["SENT", "Q1"]
    used = [line for line in lines if "GiB" in line]
    assert used[0].split() == ["a", "50%", "1.0/4.0", "GiB", "90%", "2.0/8.0", "GiB", "-", "-"]
    assert lines[-1] == "c: re\ufffdfused"


@pytest.mark.parametrize("width", [20, 60, 200])
def test_any_width_will_do(width: int) -> None:
    seen = view({"a": Scrape(0, {"m": BEFORE})}, {"a": Scrape(2, {"m": NOW})}, {})

    assert all(len(line) <= width for line in shown(seen, width).splitlines())


def test_pods_of_one_deployment_are_told_apart_and_figures_whole_in_80_columns() -> None:
    pods = ("digits-triton-7c9f8b6d5-x2k4q", "digits-triton-7c9f8b6d5-abcde")
    before = {pod: Scrape(0, {"densenet_onnx_fp16": BEFORE}) for pod in pods}
    now = {pod: Scrape(2, {"densenet_onnx_fp16": NOW}) for pod in pods}
    seen = shown(view(before, now, {}), 80)

    for pod in pods:
        line = next(one for one in seen.splitlines() if pod[-5:] in one)
        assert line.split()[2:] == ["90", "200", "ms", "0.0%", "5%", "5%", "4.0", "3", "2"]


def test_what_does_not_fit_into_the_terminal_is_counted() -> None:
    pods = [f"pod-{i}" for i in range(30)]
    before = {pod: Scrape(0, {"m": BEFORE}) for pod in pods}
    seen = view(before, {pod: Scrape(2, {"m": NOW}) for pod in pods}, {})
    screen = Console(file=io.StringIO(), width=100, height=12)
    screen.print(Fitted(picture(seen, "now")))
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()

    assert len(lines) == 12
    assert lines[3].startswith("all ")  # what matters most is not what is left out
    assert lines[-1] == "… 23 more lines than the terminal has"


def test_what_fits_is_shown_whole() -> None:
    screen = Console(file=io.StringIO(), width=100, height=3)
    screen.print(Fitted(picture(View([]), "now")))
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue().splitlines() == ["now", "", "No request has come yet."]


def test_nothing_yet() -> None:
    assert "No request has come yet." in shown(View([]))
