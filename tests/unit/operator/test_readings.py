"""What is asked of Prometheus when: seldom, of few, and nothing that is old is shown as new."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from tidegate_operator.adapters.metrics import BEFORE_AT_ONCE, ModelKey, Rates, Readings
from tidegate_operator.readings import Evidence, moment
from tidegate_operator.rollout.observation import Before, LiveMetrics, Unreadable

KEY = ("n", "m")
LIVE = {1: LiveMetrics(requests_per_second=1)}


@dataclass
class Prometheus:
    ahead: float = 0.0
    now: float = 1000.0
    up: bool = True
    clock_read: int = 0
    read: list[list[ModelKey]] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    rated: list[float] = field(default_factory=list)
    asked: list[list[ModelKey]] = field(default_factory=list)

    async def time(self) -> float | Unreadable:
        self.clock_read += 1
        return self.now + self.ahead if self.up else Unreadable("away")

    async def samples(
        self, models: Collection[ModelKey], at: float, span: float, silence: float
    ) -> Readings | Unreadable:
        self.read.append(list(models))
        self.spans.append(span)
        self.silences.append(silence)
        return Readings(at) if self.up else Unreadable("away")

    async def rates(self) -> Rates | Unreadable:
        self.rated.append(self.now)
        return Rates({KEY: LIVE}) if self.up else Unreadable("away")

    async def before(
        self, models: Sequence[ModelKey], rates: Rates
    ) -> Mapping[ModelKey, Before] | Unreadable:
        self.asked.append(list(models))
        return {key: Before(restarts=1) for key in models} if self.up else Unreadable("away")


def evidence(prometheus: Prometheus) -> Evidence:
    return Evidence(metrics=prometheus, now=lambda: prometheus.now)


async def every_second(prometheus: Prometheus, asks: Evidence, seconds: int) -> None:
    for _ in range(seconds):
        prometheus.now += 1
        if asks.due(prometheus.now):
            await asks.refresh()


@pytest.mark.parametrize("ahead", [-30.0, 0.0, 30.0])
async def test_samples_reach_back_to_a_time_on_prometheus_clock(ahead: float) -> None:
    prometheus = Prometheus(ahead=ahead)
    asks = evidence(prometheus)
    for _ in range(2):
        await asks.samples([KEY], 1000.0 + ahead - 10.0, 10.0)
    assert all(10 <= span < 15 for span in prometheus.spans)
    assert asks.skew == ahead


async def test_its_clock_is_read_now_and_then_and_after_a_failure() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    for _ in range(60):
        await asks.samples([KEY], 990.0, 10.0)
        prometheus.now += 2.5
    assert prometheus.clock_read == 10
    prometheus.up = False
    assert isinstance(await asks.samples([KEY], 990.0, 10.0), Unreadable)
    prometheus.up, prometheus.ahead = True, 30.0
    found = await asks.samples([KEY], 990.0, 10.0)
    assert isinstance(found, Readings)
    assert found.at == prometheus.now + 30.0


async def test_a_clock_that_stands_still_is_a_cache() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    assert isinstance(await asks.samples([KEY], 990.0, 10.0), Readings)
    prometheus.now += 20.0
    prometheus.ahead -= 20.0
    assert isinstance(await asks.samples([KEY], 990.0, 10.0), Unreadable)


@pytest.mark.parametrize(("interval", "silence"), [(2.0, 5.0), (30.0, 10.0), (600.0, 20.0)])
async def test_more_patience_where_looks_are_rare(interval: float, silence: float) -> None:
    prometheus = Prometheus()
    await evidence(prometheus).samples([KEY], 990.0, interval)
    assert prometheus.silences == [silence]


def test_models_are_judged_in_parts() -> None:
    moments = [moment(("n", f"m-{number}"), 10.0) for number in range(1000)]
    assert set(moments) == {0.0, 2.5, 5.0, 7.5}
    assert all(200 < moments.count(one) < 300 for one in set(moments))


async def test_nothing_is_asked_of_a_prometheus_whose_time_is_not_known() -> None:
    prometheus = Prometheus(up=False)
    assert isinstance(await evidence(prometheus).samples([KEY], 990.0, 10.0), Unreadable)
    assert prometheus.spans == []


async def test_rates_once_a_minute_and_not_for_ever() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    await every_second(prometheus, asks, 300)
    assert len(prometheus.rated) == 5
    assert asks.live(KEY) == LIVE
    assert asks.live(("n", "other")) == {}
    prometheus.up = False
    await every_second(prometheus, asks, 300)
    assert asks.live(KEY) == {}


async def test_before_is_asked_for_models_that_want_it_a_few_at_a_time() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    models = [("n", f"m{number}") for number in range(BEFORE_AT_ONCE + 5)]
    assert [asks.before(key) for key in models] == [None] * len(models)
    await every_second(prometheus, asks, 10)
    assert [len(one) for one in prometheus.asked] == [BEFORE_AT_ONCE, 5]
    assert [asks.before(key) for key in models] == [Before(restarts=1)] * len(models)


async def test_who_waits_for_nothing_else_is_asked_for_first() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    models = [("n", f"m{number}") for number in range(BEFORE_AT_ONCE + 5)]
    for key in models:
        asks.before(key)
    asks.hurry(models[-1])
    await every_second(prometheus, asks, 3)
    assert prometheus.asked[0] == [models[-1], *models[: BEFORE_AT_ONCE - 1]]


async def test_models_that_start_one_after_the_other_share_questions() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    for number in range(600):
        asks.before(("n", f"m{number}"))
        await every_second(prometheus, asks, 1)
    assert 600 - 15 <= sum(map(len, prometheus.asked)) <= 600
    assert len(prometheus.asked) <= 600 / 10 + 3


async def test_before_is_kept_fresh_while_it_is_wanted() -> None:
    prometheus = Prometheus()
    asks = evidence(prometheus)
    asks.before(KEY)
    await every_second(prometheus, asks, 3)
    for _ in range(10):
        await every_second(prometheus, asks, 30)
        assert asks.before(KEY) == Before(restarts=1)
    prometheus.up = False
    for _ in range(4):
        asks.before(KEY)
        await every_second(prometheus, asks, 30)
    assert asks.before(KEY) is None


async def test_before_waits_for_an_answer_without_hurry() -> None:
    prometheus = Prometheus(up=False)
    asks = evidence(prometheus)
    asks.before(KEY)
    await every_second(prometheus, asks, 50)
    assert 5 <= len(prometheus.rated) <= 15
    prometheus.up = True
    await every_second(prometheus, asks, 10)
    assert asks.before(KEY) == Before(restarts=1)
