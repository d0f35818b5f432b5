"""What the scheduler can do at best, in virtual time: overload, and the frontier of isolation.

Overload: three times the best closed-loop goodput of a model of 2 ms + 0.2 ms a row, a tenth of it
high, deadlines of 50 ms, noise of 10%. Isolation: 20 high requests a second of 2.7 ms beside
requests of 1,024 rows at 1 ms + 0.1 ms a row without end, on a device that serves one after the
other, over the slices that the low level may send; each against what slicing without preemption can
do at best: high ones wait for those before them and for what is left of a slice, and low ones have
all other time and pay their fixed part for each slice.
"""

from typing import Final

import numpy as np
from result import report

from tidegate_batcher.simulator import Clients, Model, Poisson, Simulation
from tidegate_contract.table import LEVELS, BatchSettings, Level

NAME: Final = "simulated"
SECONDS: Final = 60.0
ISOLATED: Final = 400.0
"""Seconds: 8,000 high requests, of whose slowest hundredth it is."""
DEADLINE: Final = 0.05
SLICES: Final = (0.0025, 0.005, 0.01, 0.02, 0.05)
HIGH: Final = 0.0027
HIGH_RATE: Final = 20.0
FIXED: Final = 0.001
PER_ROW: Final = 0.0001


def overload() -> dict[str, float]:
    """Goodput at three times the capacity, and how the high level fares."""
    model = Model(fixed=0.002, per_row=0.0002, noise=0.1)

    def closed(number: int) -> float:
        clients = [Clients(model="m", number=number, deadline=DEADLINE)]
        made = Simulation({"m": model}, [], clients, np.random.default_rng(number)).run(SECONDS)
        return sum(made["m"].in_time) / SECONDS

    capacity = max(closed(number) for number in (32, 64, 128))
    load = Poisson(
        model="m",
        rates=[(0.0, 3 * capacity)],
        levels={1: 0.1, 3: 0.9},
        deadlines={1: DEADLINE, 3: DEADLINE},
    )
    made = Simulation({"m": model}, [load], [], np.random.default_rng(1)).run(SECONDS)["m"]
    return {
        "goodput_to_capacity": round(sum(made.in_time) / SECONDS / capacity, 3),
        "high_p99_to_target": round(made.quantile(0.99, 1) / DEADLINE, 3),
        "high_in_time": round(made.in_time[1] / made.offered[1], 4),
    }


def isolation(max_slice: float | None) -> dict[str, float]:
    """The high level's p99 in seconds, and the low one's rows a second."""
    levels = (*LEVELS[:4], Level(level=5, name="background", max_slice=max_slice))
    policy = BatchSettings(levels=levels, max_wait=0.0, deadline=None)
    made = Simulation(
        {
            "high": Model(fixed=HIGH, per_row=0.0, settings=policy),
            "low": Model(fixed=FIXED, per_row=PER_ROW, most=1024, settings=policy),
        },
        [Poisson(model="high", rates=[(0.0, HIGH_RATE)], levels={1: 1.0})],
        [Clients(model="low", number=2, rows=1024, level=5)],
        np.random.default_rng(2),
    ).run(ISOLATED)
    return {"p99": made["high"].quantile(0.99, 1), "rows": made["low"].rows / ISOLATED}


def frontier() -> list[dict[str, float]]:
    """Each slice's point, and its distance to the best there is for it."""
    alone = 1024 / (FIXED + 1024 * PER_ROW)
    rng = np.random.default_rng(3)
    ahead = [0.0]
    for gap in rng.exponential(1 / HIGH_RATE, 50_000).tolist():
        ahead.append(max(0.0, ahead[-1] + HIGH - gap))
    points = []
    for longest in SLICES:
        got = isolation(longest)
        rows = int((longest - FIXED) / PER_ROW)
        piece = FIXED + PER_ROW * rows
        wait = np.array(ahead) + rng.uniform(0.0, piece, len(ahead))
        best_p99 = HIGH + float(np.quantile(wait, 0.99))
        best_rows = rows / piece * (1 - HIGH_RATE * HIGH)
        points.append(
            {
                "slice_ms": longest * 1e3,
                "high_p99_to_alone": round(got["p99"] / HIGH, 2),
                "low_throughput_kept": round(got["rows"] / alone, 3),
                "to_optimum": round(max(got["p99"] / best_p99, best_rows / got["rows"]), 3),
            }
        )
    return points


def main() -> None:
    """Measure; prints the figures and keeps the frontier."""
    points = frontier()
    whole = isolation(None)
    figures = overload() | {
        "to_optimum": max(point["to_optimum"] for point in points),
        "frontier": points,
        "unsliced_high_p99_to_alone": round(whole["p99"] / HIGH, 1),
    }
    report(NAME, figures, {"frontier": points, "whole": whole})


if __name__ == "__main__":
    main()
