"""How fast is the batcher's pure core on one core, and how long does a simulated day take?

The core: requests of one row each are offered, taken out in batches of 32 and finished, by the
default strategy with default deadlines; making the requests counts too. The day: 1,000 requests a
second in five levels before a model that takes 20 ms + 0.2 ms a row, a quarter of an hour of it
simulated and the time extrapolated. Both by this process's own CPU time, as other processes' load
is not the question; the median of five.
"""

from statistics import median
from time import process_time
from typing import Final

import numpy as np
from result import report

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.item import Item
from tidegate_batcher.scheduler import Scheduler
from tidegate_batcher.simulator import Model, Poisson, Simulation
from tidegate_contract.table import BatchSettings

NAME: Final = "core_simulation"
REPETITIONS: Final = 5
REQUESTS: Final = 320_000
BATCH: Final = 32
SIMULATED: Final = 900.0
DAY: Final = 86_400.0
RATE: Final = 1_000.0


def core() -> float:
    """Requests a second through the scheduler."""
    made = Scheduler()
    made.configure(BatchSettings(), Adaptive(), {})
    made.open(1, slots=1, most=BATCH)
    now, answered = 0.0, 0
    began = process_time()
    for _ in range(REQUESTS // BATCH):
        for _ in range(BATCH):
            now += 1e-5
            made.offer(Item(3, 1, "group", now, answer_by=now + 30.0), 1, now)
        (batch,) = made.poll(now)
        now += 1e-3
        made.finished(batch, now)
        answered += len(batch.members)
    assert answered == REQUESTS
    return answered / (process_time() - began)


def day(seed: int) -> float:
    """Seconds for a day, extrapolated."""
    load = Poisson(
        model="m",
        rates=[(0.0, RATE)],
        levels={1: 0.05, 2: 0.15, 3: 0.5, 4: 0.2, 5: 0.1},
        deadlines=dict.fromkeys(range(1, 6), 30.0),
    )
    model = Model(fixed=0.02, per_row=0.0002, noise=0.1)
    simulation = Simulation({"m": model}, [load], [], np.random.default_rng(seed))
    began = process_time()
    outcome = simulation.run(SIMULATED)["m"]
    took = process_time() - began
    assert sum(outcome.answered) == sum(outcome.offered)
    return took * DAY / SIMULATED


def main() -> None:
    """Measure; prints the figures and keeps each repetition's."""
    rates = [core() for _ in range(REPETITIONS)]
    days = [day(seed) for seed in range(REPETITIONS)]
    samples = {"requests_per_second": rates, "seconds_for_a_day_at_1000": days}
    figures = {
        "requests_per_second": round(median(rates)),
        "requests_per_second_least": round(min(rates)),
        "seconds_for_a_day_at_1000": round(median(days), 1),
        "seconds_for_a_day_at_1000_most": round(max(days), 1),
    }
    report(NAME, figures, samples)


if __name__ == "__main__":
    main()
