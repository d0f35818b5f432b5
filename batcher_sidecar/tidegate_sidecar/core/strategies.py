"""Which strategy decides on batches: the policy's, as far as it is installed and works."""

from collections.abc import Callable, Mapping
from typing import Final

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.guarded import Guarded
from tidegate_batcher.strategy import Decision, Strategy, View

Strategies = Mapping[str, Callable[[], Strategy]]
"""What makes the strategies that a policy may name, by name."""

BUILT_IN: Final[Strategies] = {"Adaptive": Adaptive, "Fixed": Fixed}


class Chosen:
    """The strategy that a policy names; Adaptive where that is not installed, or once it fails.

    ``name``: of the one that decides. ``note``: why it is another than the policy's; None: it is
    not.
    """

    def __init__(self, name: str, installed: Strategies = BUILT_IN) -> None:
        self.name = name
        self.note: str | None = None
        self._strategy: Strategy
        make = installed.get(name)
        if make is None:
            self._replace(f"strategy {name} is not installed here")
            return
        try:
            self._strategy = Guarded(make(), self._fail)
        except Exception as error:  # noqa: BLE001 - whatever a plug-in does, requests go on
            self._replace(f"strategy {name} cannot be made: {error!r}")

    def decide(self, view: View) -> Decision:
        """Say what to do now."""
        return self._strategy.decide(view)

    def _fail(self, why: str) -> None:
        self._replace(f"strategy {self.name} failed: {why}")

    def _replace(self, why: str) -> None:
        self.name = "Adaptive"
        self.note = f"{why}; Adaptive decides"
        self._strategy = Adaptive()
