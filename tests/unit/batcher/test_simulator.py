"""The simulator, and by it what the scheduler promises: overload, isolation, bursts that gather."""

from typing import Literal

import numpy as np
import pytest

from tidegate_batcher.fixed import Fixed
from tidegate_batcher.simulator import (
    Arrivals,
    Clients,
    Load,
    Model,
    Outcome,
    Poisson,
    Simulation,
    Trace,
)
from tidegate_contract.table import LEVELS, BatchSettings, Level


def run(
    model: Model,
    *loads: Load,
    clients: tuple[Clients, ...] = (),
    seconds: float = 10.0,
    seed: int = 1,
) -> Outcome:
    rng = np.random.default_rng(seed)
    return Simulation({"m": model}, loads, clients, rng).run(seconds)["m"]


def poisson(rate: float, **more: float) -> Poisson:
    return Poisson(model="m", rates=[(0.0, rate)], levels={3: 1.0}, **more)  # type: ignore[arg-type]


def test_one_server_waits_as_theory_says() -> None:
    """An M/D/1 queue at half load: the mean time in the system is 1.5 service times."""
    policy = BatchSettings(max_wait=0.0, max_batch_size=1)
    model = Model(fixed=0.01, per_row=0.0, settings=policy, strategy=Fixed())
    outcome = run(model, poisson(50.0), seconds=400.0)
    centres = 1e-6 * 10 ** ((np.arange(900) + 0.5) / 100)
    mean = (outcome.seconds[3] * centres).sum() / outcome.seconds[3].sum()
    assert mean == pytest.approx(0.015, rel=0.1)
    assert outcome.busy / 400.0 == pytest.approx(0.5, rel=0.05)


def test_equal_seeds_have_equal_outcomes() -> None:
    model = Model(fixed=0.002, per_row=0.0001, noise=0.2)
    one, same, other = (run(model, poisson(900.0), seconds=3.0, seed=seed) for seed in (1, 1, 2))
    assert (one.seconds == same.seconds).all()
    assert (one.batches, one.offered) == (same.batches, same.offered)
    assert (one.seconds != other.seconds).any()


def test_everybody_who_comes_ends_somehow() -> None:
    policy = BatchSettings(queue_max_size=50, on_full="DropLowest")
    model = Model(fixed=0.01, per_row=0.001, noise=0.3, settings=policy, slots=2)
    deadlines = {1: 0.2, 3: 0.1, 5: 1.0}
    load = Poisson(
        model="m",
        rates=[(0.0, 200.0), (2.0, 3_000.0), (3.0, 200.0)],  # a spike
        levels={1: 1.0, 3: 1.0, 5: 1.0},
        rows=3,
        deadlines=deadlines,
    )
    made = run(model, load)
    for level in deadlines:
        ends = made.answered[level] + made.expired[level] + made.refused[level]
        assert made.offered[level] == ends + made.rejected[level] > 0
        assert made.in_time[level] <= made.answered[level]
    assert sum(made.rejected) > 0
    assert made.in_time[1] / made.offered[1] > made.in_time[5] / made.offered[5]


def test_a_trace_is_replayed() -> None:
    times = np.array([0.5, 11.0, 25.0])
    ones = np.ones(3, np.int64)
    trace = Trace(model="m", arrivals=Arrivals(times, ones * 2, ones, np.array([1.0, 1.0, 0.001])))
    outcome = run(Model(fixed=0.01, per_row=0.0), trace, seconds=30.0)
    assert (outcome.offered[2], outcome.answered[2], outcome.in_time[2]) == (3, 3, 2)


def test_a_shared_device_slows_all_and_a_serial_one_the_later() -> None:
    model = Model(fixed=0.1, per_row=0.0, strategy=Fixed(), settings=BatchSettings(max_wait=0.0))
    both = [
        Trace(
            model=name,
            arrivals=Arrivals(
                np.array([0.0]), np.array([1]), np.array([1]), np.array([float("inf")])
            ),
        )
        for name in "ab"
    ]
    ends = {}
    devices: tuple[Literal["Serial", "Shared"], ...] = ("Serial", "Shared")
    for device in devices:
        rng = np.random.default_rng(1)
        made = Simulation({"a": model, "b": model}, both, [], rng, device=device).run(1.0)
        ends[device] = [made[name].quantile(1.0) for name in "ab"]
    assert ends["Serial"] == pytest.approx([0.1, 0.2], rel=0.03)
    assert ends["Shared"] == pytest.approx([0.2, 0.2], rel=0.03)


@pytest.mark.parametrize("number", [2, 8, 64])
def test_clients_who_come_back_together_share_a_batch(number: int) -> None:
    """Who sends at once what is there serves them in halves that never meet."""
    clients = (Clients(model="m", number=number, think=0.0003),)
    adaptive = Model(fixed=0.002, per_row=0.0001, noise=0.05, most=64)
    at_once = Model(
        fixed=0.002,
        per_row=0.0001,
        noise=0.05,
        most=64,
        strategy=Fixed(),
        settings=BatchSettings(max_wait=0.0),
    )
    ours, theirs = (run(one, clients=clients, seconds=5.0) for one in (adaptive, at_once))
    assert sum(ours.answered) > 1.15 * sum(theirs.answered)
    assert ours.quantile(0.5, 3) < theirs.quantile(0.5, 3)


def test_one_client_is_never_made_to_wait() -> None:
    clients = (Clients(model="m", number=1, think=0.0003),)
    outcome = run(Model(fixed=0.002, per_row=0.0001), clients=clients, seconds=5.0)
    assert outcome.worst[3] == 0.0


@pytest.mark.parametrize("deadline", [0.05, 0.1])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_under_three_times_its_capacity_a_server_does_what_it_can(
    deadline: float, noise: float
) -> None:
    """Answers in time are at least nine tenths of the best, and a tenth of all loses nothing."""
    model = Model(fixed=0.002, per_row=0.0002, noise=noise)
    seconds = 5.0
    best = max(
        sum(run(model, clients=(Clients(model="m", number=n),), seconds=seconds).answered) / seconds
        for n in (32, 64, 128)
    )
    load = Poisson(
        model="m",
        rates=[(0.0, 3 * best)],
        levels={1: 0.1, 3: 0.9},
        deadlines={1: deadline, 3: deadline},
    )
    outcome = run(model, load, seconds=seconds)
    assert sum(outcome.in_time) / seconds >= 0.9 * best
    assert outcome.quantile(0.99, 1) <= deadline
    assert outcome.in_time[1] >= 0.99 * outcome.offered[1]


def waits(rate: float, service: float) -> np.ndarray:
    """Of an M/D/1 queue, by Lindley's recursion."""
    gaps = np.random.default_rng(6).exponential(1 / rate, 20_000)
    found = [0.0]
    for gap in gaps[1:].tolist():
        found.append(max(0.0, found[-1] + service - gap))
    return np.array(found)


@pytest.mark.parametrize("max_slice", [0.0025, 0.005, 0.01, 0.02])
def test_a_low_level_sliced_is_as_near_as_can_be_to_the_best(max_slice: float) -> None:
    """The frontier of slicing without preemption, on a device that serves one after the other.

    A high request waits for those before it, as if there were no low level, and for what is left of
    a slice, which it meets at any of its points (Fuhrmann and Cooper, Stochastic Decompositions in
    the M/G/1 Queue with Generalized Vacations, 1985). The low level has all the time that the high
    one leaves, and pays its a for each slice again.
    """
    a, b, high, rate, seconds = 0.001, 0.0001, 0.0027, 20.0, 100.0
    levels = (*LEVELS[:4], Level(level=5, name="background", max_slice=max_slice))
    policy = BatchSettings(levels=levels, max_wait=0.0, deadline=None)
    low = Model(fixed=a, per_row=b, most=1024, settings=policy)
    first = Model(fixed=high, per_row=0.0, settings=policy)
    rng = np.random.default_rng(5)
    made = Simulation(
        {"high": first, "low": low},
        [Poisson(model="high", rates=[(0.0, rate)], levels={1: 1.0})],
        [Clients(model="low", number=2, rows=1024, level=5)],
        rng,
    ).run(seconds)
    rows = int((max_slice - a) / b)
    piece = a + b * rows
    best_p99 = high + float(np.quantile(waits(rate, high) + rng.uniform(0.0, piece, 20_000), 0.99))
    best_rows = rows / piece * (1 - rate * high) * seconds
    assert made["high"].quantile(0.99, 1) <= 1.1 * best_p99
    assert made["low"].rows >= best_rows / 1.1


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_slices_grow_to_what_fits_though_a_high_level_was_there_first(noise: float) -> None:
    """So only batches of one row are known when the first large request comes."""
    a, b, bound = 0.0014, 0.0001, 0.002
    levels = (*LEVELS[:4], Level(level=5, name="background", max_slice=bound))
    policy = BatchSettings(levels=levels, deadline=None)
    model = Model(fixed=a, per_row=b, noise=noise, most=1024, settings=policy)
    high = Poisson(model="m", rates=[(0.0, 50.0)], levels={1: 1.0})
    times = np.arange(1.0, 20.0)
    large = Arrivals(times, np.full(19, 5), np.full(19, 1024), np.full(19, np.inf))
    outcome = run(model, high, Trace(model="m", arrivals=large), seconds=20.0)
    assert outcome.answered[5] >= 18
    assert outcome.rows / outcome.batches > 3.0  # of 6 that fit, those of the high level included
    assert outcome.quantile(0.99, 1) < 2 * bound + 2 * a


def test_a_target_does_not_hold_batches_to_one_row_for_ever() -> None:
    """A little traffic first, by which half of a batch's time is taken to be each row's."""
    policy = BatchSettings(target_latency=0.010)
    for noise in (0.0, 0.1):
        model = Model(fixed=0.004, per_row=0.00001, noise=noise, settings=policy)
        load = Poisson(model="m", rates=[(0.0, 5.0), (10.0, 1000.0)], levels={3: 1.0})
        outcome = run(model, load, seconds=30.0)
        assert outcome.answered[3] == outcome.offered[3]
        assert outcome.quantile(0.9) <= 0.010
