"""So many of a thing in a second, whoever wants how many."""

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """So many in a second; ``at_once``: in a row after a pause, a second's worth unless given."""

    a_second: float
    at_once: float | None = None
    _left: float = 0.0
    _at: float = 0.0

    def take(self, now: float, *, pace: float = 1.0, leave: float = 0.0) -> bool:
        """Take one, if there is one. ``pace``: times as many as usual. ``leave``: the part of those
        in a row that is for others.
        """
        most = self.a_second if self.at_once is None else self.at_once
        self._left = min(self._left + (now - self._at) * self.a_second * pace, most)
        self._at = now
        if self._left < 1.0 + leave * most:
            return False
        self._left -= 1.0
        return True
