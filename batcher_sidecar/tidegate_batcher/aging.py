"""What keeps low levels from starving: a reserve of the device's time for who has waited longest.

While an item waits that has aged, its lane saves up the reserve, a share of all time. Once there
is anything saved, the oldest aged item goes next, and what its batch takes is paid from that, if
need be in advance: the lane is in debt then, and nobody goes by age until the debt is paid off. So
over any stretch the aged get the reserve within one batch. Items keep their level: behind an aged
one of a hundred others that came after it, critical requests go on as before.

Bound: an item of work W queued at its level, its own included, which waits alone among the aged
levels, goes within ``after`` + W / ``share`` + one batch. Work counts as what its batches take.
"""

from typing import Final

MOST: Final = 10.0
"""Seconds whose reserve is saved at most: after a server hung, the aged do not have it all."""


class Reserve:
    """The account of one lane. ``share``: of the time; ``after``: seconds until an item ages."""

    __slots__ = ("_at", "after", "saved", "share", "unpaid")

    def __init__(self, share: float, after: float) -> None:
        self.share = share
        self.after = after
        self.unpaid = 0
        """Batches in flight that went by age."""
        self.saved = 0.0
        """Seconds of device time; below 0, the debt."""
        self._at = 0.0

    def save(self, now: float, aged_at: float) -> None:
        """Save up until now. ``aged_at``: since when the oldest aged item has been aged."""
        since, self._at = self._at, now
        if not self.share:  # a policy without a reserve, maybe since now: no debt either
            self.saved = 0.0
            return
        if self.saved < 0.0:
            paid_at = since - self.saved / self.share
            if paid_at >= now:
                self.saved = (now - paid_at) * self.share
                return
            since, self.saved = paid_at, 0.0
        if aged_at > since:
            since, self.saved = aged_at, 0.0
        self.saved = min(self.saved + (now - since) * self.share, MOST * self.share)

    def may_go(self) -> bool:
        """Whether an aged item may go now."""
        return self.saved > 0.0 and not self.unpaid

    def pay(self, seconds: float) -> None:
        """Pay for a batch, or a part of it."""
        self.saved -= seconds
