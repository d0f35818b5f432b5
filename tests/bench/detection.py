"""How many polls until a canary that errs r times as often as stable is rolled back?

The configuration is that of `canaries`: 1% errors, a tenth of 500 requests a poll, r0 = 1, level
0.05. Medians over runs that were not already rolled back before the fault began. early: bad from
the first poll. late: the fault begins after 20 and after 160 good polls. worst: the largest median
over faults that begin after any of 1 to 299 polls (a grid), and in the middle of a poll.
"""

import argparse
import sys

import numpy as np
from canaries import LOOKS, RATE, Canaries
from result import report

NAME = "detection"
RATIOS = (1.5, 2.0, 3.0, 5.0)
LATE = (20, 160)
STARTS = (1, 5, 10, 40, 80, 120, 200, 240, 299)
PATIENCE = 600


def main() -> None:
    """Play all of them, print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    samples = {}
    for times in RATIOS:
        for start in (0, *LATE, *STARTS):
            many = runs if start in {0, *LATE} else runs // 4
            samples[times, start] = _detected(many, times, start)
        print(f"ratio {times} played", file=sys.stderr, flush=True)
    figures = {
        "early": {str(times): _median(samples[times, 0]) for times in RATIOS},
        **{
            f"late_{start}": {str(times): _median(samples[times, start]) for times in RATIOS}
            for start in LATE
        },
        "worst": {str(times): _worst(samples, times, runs) for times in RATIOS},
        "runs": runs,
        "looks": LOOKS,
    }
    report(NAME, figures, {f"{times} after {start}": s for (times, start), s in samples.items()})


def _detected(runs: int, times: float, start: int, begun: float = 0.0) -> list[float]:
    """Polls from the fault to the rollback. ``begun``: the share of the first poll before it."""
    random = np.random.default_rng([round(10 * times), start, round(10 * begun)])
    canaries = Canaries(runs, random)
    for look in range(start + PATIENCE):
        bad = times if look > start else begun + (1 - begun) * times if look == start else 1.0
        canaries.look(canaries.poll(RATE * bad, RATE))
        if np.isfinite(canaries.alarmed).all():
            break
    after = canaries.alarmed[canaries.alarmed > start] - start - begun
    return [round(float(one), 1) for one in after]


def _worst(samples: dict[tuple[float, int], list[float]], times: float, runs: int) -> float:
    """In the middle of a poll as well: the median of what that leaves to wait."""
    medians = [_median(found) for (r, _), found in samples.items() if r == times]
    medians += [_median(_detected(runs // 4, times, start, 0.5)) for start in (0, 160, 299)]
    return max(medians)


def _median(found: list[float]) -> float:
    return float(np.median(found))


if __name__ == "__main__":
    main()
