"""Where time goes: stages by version and level, and how it went lately."""

from typing import Any

import pytest

from tidegate_sidecar.core.counters import Histogram
from tidegate_sidecar.core.profile import LATELY, STAGES
from tidegate_sidecar.core.runtime import ModelRuntime


def serve(make: Any, runtime: ModelRuntime, now: float, *levels: int, seconds: float) -> None:
    """Serve one batch: 1 ms in the queue, 2 to be written, some at the model, 4 to be given out."""
    for level in levels:
        make.submit(runtime, now, parameters={"priority": level})
    (batch,) = runtime.poll(now + 0.001)
    batch.written_at = now + 0.003
    batch.answered_at = batch.written_at + seconds
    body, length = make.reply(batch.rows)
    results = runtime.complete(batch, 200, length, body)
    runtime.finish(batch, results, batch.answered_at + 0.004)


@pytest.fixture
def runtime(make: Any) -> ModelRuntime:
    made: ModelRuntime = make.runtime()
    return made


def test_stages_add_up_for_each_level(make: Any, runtime: ModelRuntime) -> None:
    serve(make, runtime, 1.0, 1, 1, 5, seconds=0.013)
    high, low = runtime.profile.describe()
    assert [(one["version"], one["level"], one["requests"]) for one in (high, low)] == [
        (1, 1, 2),
        (1, 5, 1),
    ]
    for one in (high, low):
        means = [one["stages"][name]["mean"] for name in STAGES]
        assert means == pytest.approx([0.001, 0.002, 0.013, 0.004])
        percents = [one["stages"][name]["percent"] for name in STAGES]
        assert percents == pytest.approx([5, 10, 65, 20])
        assert 0.009 < one["stages"]["processing"]["p99"] < 0.019


def test_what_failed_is_left_out(make: Any, runtime: ModelRuntime) -> None:
    make.submit(runtime)
    (batch,) = runtime.poll(0.0)
    batch.written_at = 0.001
    runtime.finish(batch, runtime.complete(batch, 500, None, b""), 0.1)
    assert runtime.profile.describe() == []


def test_lately_forgets(make: Any, runtime: ModelRuntime) -> None:
    assert (runtime.profile.p99(), runtime.profile.batch_size()) == (None, None)
    serve(make, runtime, 0.0, 3, 3, 3, 3, seconds=4.0)
    slow = runtime.profile.p99()
    assert slow
    assert slow > 2.0
    assert runtime.profile.batch_size() == 4
    for i in range(1, 5):
        serve(make, runtime, i * LATELY, 3, seconds=0.013)
    fast = runtime.profile.p99()
    assert fast
    assert fast < 0.03
    assert runtime.profile.batch_size() == 1


def test_what_an_operator_is_told(make: Any, runtime: ModelRuntime) -> None:
    assert ModelRuntime("m", "pod").live(0.0) is None
    for i in range(10):
        serve(make, runtime, float(i), 3, 3, seconds=0.013)
    make.submit(runtime, 10.0)
    live = runtime.live(10.0)
    assert live
    assert (live.strategy, live.batch_size, live.queue_length, live.dropped) == ("Fixed", 2, 1, 0)
    assert live.fixed_seconds is not None
    assert live.seconds_per_row is not None
    assert live.fixed_seconds + 2 * live.seconds_per_row == pytest.approx(0.015)
    assert live.notes == []


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 2.0), (0.99, 2.0), (1.0, 2.0)]
)
def test_quantiles(share: float, value: float) -> None:
    histogram = Histogram((1.0, 2.0))
    assert histogram.quantile(0.5) is None
    histogram.observe(0.7, times=2)
    histogram.observe(1.7)
    histogram.observe(9.0)
    assert histogram.quantile(share) == pytest.approx(value)
