"""A strategy of somebody's own, which may fail: from then on Adaptive decides."""

from collections.abc import Callable
from math import isnan

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.strategy import Decision, Strategy, View


class Guarded:
    """Decides as a strategy does, as long as that works. ``failed`` is called once, with the reason
    why it does not.
    """

    def __init__(self, strategy: Strategy, failed: Callable[[str], object]) -> None:
        self._strategy = strategy
        self._failed = failed

    def decide(self, view: View) -> Decision:
        """Say what to do now."""
        try:
            decision = self._strategy.decide(view)
        except Exception as error:  # noqa: BLE001 - whatever a plug-in does, requests go on
            why = repr(error)
        else:
            if _sound(decision):
                return decision
            why = f"{decision!r} is no decision"
        self._strategy = Adaptive()
        self._failed(why)
        return self._strategy.decide(view)


def _sound(decision: object) -> bool:
    """Whether it is what was promised."""
    return (
        isinstance(decision, Decision)
        and isinstance(decision.rows, int)
        and isinstance(decision.reason, str)
        and isinstance(decision.until, (int, float))
        and not isnan(decision.until)
        and isinstance(decision.at_rows, int)
    )
