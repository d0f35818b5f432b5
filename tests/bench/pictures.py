"""Draws the pictures of docs/statistics.md, from the same played canaries as the benchmarks."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from canaries import LOOKS, RATE, Canaries, Floats, Z, z
from scipy import special, stats
from svg import BLUE, GREEN, GREY, INK, ORANGE, RED, Chart

from tidegate_operator.evidence import means, ratio
from tidegate_operator.evidence.ratio import RatioEvidence, Stratum

FOLDER = Path(__file__).parents[2] / "docs" / "statistics"
LEVEL = 0.05
POLLS = [(0, "0"), (60, "60"), (120, "120"), (180, "180"), (240, "240"), (300, "300")]
LATE = 160


def main() -> None:
    """Draw all of them."""
    for name, draw in PICTURES.items():
        draw().write(FOLDER / f"{name}.svg")


def evidence() -> Chart:
    """E over polls for canaries good and bad."""
    ticks = [(0.1, "0.1"), (1, "1"), (20, "20"), (100, "100"), (1000, "1,000")]
    chart = Chart(
        "Evidence of harm, poll by poll",
        ("polls (500 requests each, a tenth to the canary, 1% errors)", POLLS),
        ("E", ticks),
        log_y=True,
    )
    healthy = _paths(lambda _: 1.0, 12, seed=3)
    for path in healthy:
        chart.line(path[::2], GREY, width=1)
    chart.line(healthy[0][-1:], GREY, "12 canaries just", width=1, shift=-7)
    chart.text(chart.x(LOOKS) + 6, chart.y(healthy[0][-1][1]) + 12, "like stable", fill=GREY)
    chart.line(_until_proven(_paths(lambda _: 3.0, 1, seed=5)[0]), RED, "errs 3x as often")
    chart.line(_until_proven(_paths(lambda _: 1.5, 1, seed=6)[0]), ORANGE, "1.5x", shift=-9)
    late = _paths(lambda t: 3.0 if t >= LATE else 1.0, 1, seed=8)[0]
    chart.line(_until_proven(late), BLUE, "3x from poll 160 on")
    chart.level(1 / LEVEL, "rolled back at 20", INK)
    return chart


def looking() -> Chart:
    """False alarms so far, of two ways to look at every poll."""
    runs = 2000
    canaries = Canaries(runs, np.random.default_rng(1))
    sums, naive = np.zeros((4, runs)), np.zeros(runs, bool)
    by_z, ours = [(0.0, 0.0)], [(0.0, 0.0)]
    for look in range(1, LOOKS + 1):
        counts = canaries.poll(RATE, RATE)
        canaries.look(counts)
        sums += counts
        naive |= z(sums) > Z
        by_z.append((look, 100 * float(naive.mean())))
        ours.append((look, 100 * float(np.isfinite(canaries.alarmed).mean())))
    chart = Chart(
        "Healthy canaries rolled back so far",
        ("polls that one has looked at", POLLS),
        ("percent of 2,000", [(share, str(share)) for share in range(0, 51, 10)]),
    )
    chart.line(by_z, RED, "a z-test at 5%,")
    chart.text(chart.x(LOOKS) + 6, chart.y(by_z[-1][1]) + 18, "repeated at each poll", fill=RED)
    chart.line(ours, BLUE, "Tidegate's test", shift=4)
    chart.level(100 * LEVEL, "the level: 5%")
    return chart


def detection() -> Chart:
    """Share of bad canaries found so far."""
    chart = Chart(
        "Bad canaries found so far",
        (
            "polls since the fault began",
            [(1, "1"), (3, "3"), (10, "10"), (30, "30"), (100, "100"), (300, "300")],
        ),
        ("percent", [(0, "0"), (25, "25"), (50, "50"), (75, "75"), (100, "100")]),
        log_x=True,
    )
    for times, colour in ((5.0, RED), (3.0, ORANGE), (2.0, GREEN), (1.5, BLUE)):
        for start in (0, LATE):
            chart.line(_found(times, start), colour, dashed=start > 0)
    for row, (text, colour) in enumerate(
        (
            ("errs 5x as often", RED),
            ("3x", ORANGE),
            ("2x", GREEN),
            ("1.5x", BLUE),
            ("solid: from the start", INK),
            ("dashed: after 160", INK),
            ("good polls", INK),
        )
    ):
        chart.text(chart.x(300) + 8, 70 + 20 * row, text, fill=colour)
    return chart


def interval() -> Chart:
    """The ratio that is shown, with its interval."""
    ticks = [(0.25, "0.25"), (0.5, "0.5"), (1, "1"), (2, "2"), (4, "4"), (8, "8")]
    chart = Chart(
        "The ratio to stable and its 95% interval",
        ("polls in this step", POLLS),
        ("times as many errors", ticks),
        log_y=True,
    )
    random = np.random.default_rng(11)
    for times, colour, label in ((1.0, BLUE, "truth: 1"), (2.0, RED, "truth: 2")):
        state, lows, highs, middle = RatioEvidence(), [], [], []
        for poll in range(1, LOOKS + 1):
            n = int(random.binomial(500, 0.1))
            look = Stratum(
                n,
                int(random.binomial(n, RATE * times)),
                500 - n,
                int(random.binomial(500 - n, RATE)),
            )
            state = ratio.observe(state, [look], max_ratio=1.0, planned_looks=LOOKS)
            found = ratio.interval(state, LEVEL)
            if poll >= 5:
                lows.append((poll, max(found.low, 1e-9)))
                highs.append((poll, min(found.high, 1e9)))
                middle.append((poll, max(ratio.estimate(state) or 0.0, 1e-9)))
        chart.band(lows, highs, colour)
        chart.line(middle, colour, label)
    return chart


def difference() -> Chart:
    """An A/B test's interval that may be read at any time, and one that may be read once."""
    chart = Chart(
        "An A/B test: difference of success rates, 40% against 43%",
        (
            "users in both arms",
            [(1000, "1,000"), (3000, "3,000"), (10_000, "10,000"), (30_000, "30,000")],
        ),
        (
            "percentage points",
            [(-10, "-10"), (-5, "-5"), (0, "0"), (5, "+5"), (10, "+10"), (15, "+15")],
        ),
        log_x=True,
    )
    random = np.random.default_rng(21)
    good = [(random.random(15_000) < share).cumsum() for share in (0.40, 0.43)]
    points = np.unique(np.geomspace(500, 15_000, 150).astype(int))
    rows = []
    for n in points:
        arms = [means.Units.of_successes(int(n), int(arm[n - 1])) for arm in good]
        found = means.effect(*arms)
        low, high = means.interval(found, 2 * n, LEVEL, 5000)
        once = 1.96 * found.error
        rows.append((2.0 * n, found.difference, low, high, once))
    chart.band([(r[0], 100 * r[2]) for r in rows], [(r[0], 100 * r[3]) for r in rows], BLUE)
    chart.line([(r[0], 100 * r[1]) for r in rows], BLUE, "difference")
    for sign in (-1, 1):
        edge = [(r[0], 100 * (r[1] + sign * r[4])) for r in rows]
        chart.line(edge, ORANGE, width=1, dashed=True)
    chart.text(chart.x(30_000) + 6, chart.y(8), "band: may be read", fill=BLUE)
    chart.text(chart.x(30_000) + 6, chart.y(8) + 15, "at any time", fill=BLUE)
    chart.text(chart.x(30_000) + 6, chart.y(-3), "dashed: holds for", fill=ORANGE)
    chart.text(chart.x(30_000) + 6, chart.y(-3) + 15, "one reading only", fill=ORANGE)
    chart.level(0, "no difference", INK)
    wins = next((r[0] for r in rows if r[2] > 0), None)
    if wins is not None:
        chart.moment(wins, "wins")
    return chart


def latency() -> Chart:
    """What a ratio of shares means in milliseconds."""
    chart = Chart(
        "Why latency is compared by latency, not by the share that is slow",
        (
            "canary's latency, times stable's",
            [(1, "1"), (1.1, "1.1"), (1.2, "1.2"), (1.3, "1.3"), (1.4, "1.4"), (1.5, "1.5")],
        ),
        (
            "times as many requests beyond stable's 95th percentile",
            [(1, "1"), (1.5, "1.5"), (3, "3"), (6, "6"), (12, "12")],
        ),
        log_y=True,
    )
    for spread, colour, label, shift in (
        (0.25, RED, "steady latency", 0),
        (0.5, ORANGE, "usual", 0),
        (0.8, BLUE, "widely spread", 0),
    ):
        bound = float(stats.lognorm.ppf(0.95, spread))
        times = np.linspace(1, 1.5, 101)
        beyond = [float(stats.lognorm.sf(bound, spread, scale=t)) / 0.05 for t in times]
        chart.line(list(zip(times.tolist(), beyond, strict=True)), colour, label, shift=shift)
        crossing = math.exp(spread * (special.ndtri(0.95) - special.ndtri(1 - 0.075)))
        chart.dot(crossing, 1.5, colour)
    chart.level(1.5, "ratio of shares 1.5")
    return chart


def _paths(times: Callable[[int], float], runs: int, seed: int) -> list[list[tuple[float, float]]]:
    canaries = Canaries(runs, np.random.default_rng(seed))
    looks = [canaries.look(canaries.poll(RATE * times(look), RATE)) for look in range(LOOKS)]
    table: Floats = np.exp(np.minimum(np.array([np.zeros(runs), *looks]), 30.0))
    return [[(t, float(e)) for t, e in enumerate(table[:, run])] for run in range(runs)]


def _until_proven(path: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Until a little after the rollback: there is no canary any more."""
    end = next((i for i, (_, e) in enumerate(path) if e >= 1 / LEVEL), len(path) - 1)
    return path[: end + 1]


def _found(times: float, start: int) -> list[tuple[float, float]]:
    canaries = Canaries(1000, np.random.default_rng(start + round(10 * times)))
    for look in range(start + 300):
        canaries.look(canaries.poll(RATE * (times if look >= start else 1.0), RATE))
    after = np.sort(canaries.alarmed[canaries.alarmed > start] - start)
    polls = np.unique(np.geomspace(1, 300, 80).astype(int))
    return [(int(n), 100 * float((after <= n).mean())) for n in polls]


PICTURES: dict[str, Callable[[], Chart]] = {
    "evidence": evidence,
    "looking": looking,
    "detection": detection,
    "interval": interval,
    "difference": difference,
    "latency": latency,
}


if __name__ == "__main__":
    main()
