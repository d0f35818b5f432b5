"""Which strategy decides, and what a plug-in may do wrong."""

from importlib.metadata import EntryPoint
from math import inf
from typing import Any

import pytest

from tidegate_batcher.fixed import Fixed
from tidegate_batcher.latency import Latency
from tidegate_batcher.strategy import Decision, View
from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.strategies import BUILT_IN, Chosen, Strategies
from tidegate_sidecar.shell import strategies


class One:
    """Sends one row at a time."""

    def decide(self, view: View) -> Decision:
        return Decision(1, "one")


class Broken:
    """Fails at its second decision."""

    def __init__(self) -> None:
        self.asked = 0

    def decide(self, view: View) -> Decision:
        self.asked += 1
        return Decision(1 // (2 - self.asked), "none")


class Mute:
    """Decides nothing."""

    def decide(self, view: View) -> Decision:
        return None  # type: ignore[return-value]


def unmade() -> Fixed:
    raise OSError("no licence")


def test_a_plug_in_decides(make: Any) -> None:
    runtime = ModelRuntime("m", "pod", strategies={**BUILT_IN, "One": One})
    runtime.version_ready(make.version(instances=8))
    runtime.apply(make.table(batch=BatchSettings(strategy="One")))
    for _ in range(3):
        make.submit(runtime)
    assert [batch.rows for batch in runtime.poll(0.0)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Two", "strategy Two is not installed here; Adaptive decides"),
        ("Unmade", "strategy Unmade cannot be made: OSError('no licence'); Adaptive decides"),
        ("Broken", "strategy Broken failed: ZeroDivisionError("),
        ("Mute", "strategy Mute failed: None is no decision; Adaptive decides"),
    ],
)
def test_what_is_missing_or_fails_is_replaced_and_told(make: Any, name: str, note: str) -> None:
    plug_ins: Strategies = {**BUILT_IN, "Broken": Broken, "Mute": Mute, "Unmade": unmade}
    runtime = ModelRuntime("m", "pod", strategies=plug_ins)
    runtime.version_ready(make.version(instances=8))
    runtime.apply(make.table(batch=BatchSettings(strategy=name)))
    for _ in range(3):
        make.submit(runtime)
    assert sum(batch.rows for batch in runtime.poll(0.0)) == 3
    live = runtime.live(0.0)
    assert live
    assert live.strategy == "Adaptive"
    assert [one.startswith(note) for one in live.notes] == [True]
    runtime.apply(make.table(revision=2))
    live = runtime.live(0.0)
    assert live
    assert (live.strategy, live.notes) == ("Fixed", [])


def test_the_chosen_one_is_asked() -> None:
    assert Chosen("Fixed").name == "Fixed"
    view: dict[str, Any] = dict.fromkeys(View._fields, 0) | {"rows": 1, "most": 2, "answer_by": inf}
    view |= {"max_wait": 1.0, "target": None, "cost": Latency()}
    assert Chosen("Fixed").decide(View(**view)) == Fixed().decide(View(**view))


def test_entry_points_are_found_and_broken_ones_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(*, group: str) -> list[EntryPoint]:
        return [
            EntryPoint("Mine", "tidegate_batcher.fixed:Fixed", group),
            EntryPoint("Gone", "no_such_package:Strategy", group),
        ]

    monkeypatch.setattr(strategies, "entry_points", entry_points)
    found = strategies.installed()
    assert found.keys() == {"Adaptive", "Fixed", "Mine"}
    assert found["Mine"] is Fixed
