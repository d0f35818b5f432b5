"""The strategy in examples/ is a package that installs, is found by its name, and decides."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidegate_batcher.latency import Latency
from tidegate_batcher.library import Batcher
from tidegate_batcher.strategy import View
from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.strategies import Chosen
from tidegate_sidecar.shell.strategies import installed

PACKAGE = Path(__file__).parents[3] / "examples" / "strategy"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    offline = ("--disable-pip-version-check", "--no-index", f"--target={target}")
    subprocess.run([*pip, *offline, str(PACKAGE)], check=True)
    return target


@pytest.fixture
def chosen(site: Path, monkeypatch: pytest.MonkeyPatch) -> Chosen:
    monkeypatch.syspath_prepend(site)
    return Chosen("PowersOfTwo", installed())


def view(rows: int, now: float = 0.0, **changed: object) -> View:
    seen = {
        "now": now,
        "rows": rows,
        "requests": rows,
        "oldest": 0.0,
        "level": 3,
        "answer_by": 1.0,
        "least": 1,
        "most": 32,
        "max_wait": 0.005,
        "target": None,
        "optimize": "Throughput",
        "arrivals": 100.0,
        "coming_until": 1.0,
        "cost": Latency(),
        "slots": 1,
        "in_flight": 0,
    }
    return View(**(seen | changed))  # type: ignore[arg-type]


def test_it_is_found_by_the_name_that_a_policy_says(chosen: Chosen) -> None:
    assert chosen.name == "PowersOfTwo"
    assert chosen.note is None


@pytest.mark.usefixtures("chosen")
def test_the_library_finds_it_by_that_name_too() -> None:
    sizes: list[int] = []
    opened = threading.Event()

    def answer(items: list[int]) -> list[int]:
        sizes.append(len(items))
        assert opened.wait(60)
        return items

    with Batcher(answer, BatchSettings(strategy="PowersOfTwo", max_batch_size=4)) as batcher:
        tickets = [batcher.submit(i) for i in range(8)]
        opened.set()
        assert [one.result(60) for one in tickets] == list(range(8))
    assert set(sizes) <= {1, 2, 4}


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 2), (7, 4), (31, 16)])
def test_it_sends_powers_of_two_once_the_first_has_waited(
    chosen: Chosen, rows: int, size: int
) -> None:
    waiting = chosen.decide(view(rows))
    assert (waiting.rows, waiting.until) == (0, 0.005)
    assert chosen.decide(view(rows, now=0.005)).rows == size


def test_it_sends_the_largest_at_once(chosen: Chosen) -> None:
    assert chosen.decide(view(40)).rows == 32
    assert chosen.decide(view(40, most=24)).rows == 16


def test_a_deadline_ends_the_wait(chosen: Chosen) -> None:
    assert chosen.decide(view(3, now=0.001, answer_by=0.001)).rows == 2
