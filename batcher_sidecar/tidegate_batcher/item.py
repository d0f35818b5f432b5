"""What waits to be batched: the part of a request that scheduling looks at."""

from collections.abc import Hashable
from math import inf


class Item:
    """A request, to those who schedule it. Times are seconds of any one steady clock.

    ``level``: its priority, 1 the highest. ``rows``: its share of a batch. ``group``: items of
    equal groups may share a batch. ``alone``: none may share one with it. ``size``: bytes of its
    inputs. ``lane``: where it waits. ``send_by``, ``answer_by``: after which it is worth nothing
    unless sent, or answered. ``sent``: where it is sent in slices, how many of its rows
    have gone. ``waits``: it is in a queue. ``withdrawn``: it left the queue for good, otherwise
    than by being sent.
    """

    __slots__ = (
        "alone",
        "answer_by",
        "arrived",
        "group",
        "lane",
        "level",
        "rows",
        "send_by",
        "sent",
        "size",
        "waits",
        "withdrawn",
    )

    def __init__(
        self,
        level: int,
        rows: int,
        group: Hashable,
        arrived: float,
        *,
        alone: bool = False,
        size: int = 0,
        send_by: float = inf,
        answer_by: float = inf,
    ) -> None:
        self.lane = 0
        self.level = level
        self.rows = rows
        self.group = group
        self.arrived = arrived
        self.alone = alone
        self.size = size
        self.send_by = send_by
        self.answer_by = answer_by
        self.sent = 0
        self.waits = False
        self.withdrawn = False
