"""An item of a program of one's own: what is to be processed, and where the answer goes.

It stands apart from ``library`` because that stays interpreted in a compiled build, and what is
interpreted cannot inherit from ``Item`` there.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

from tidegate_batcher.item import Item

Value = TypeVar("Value")
Ticket = TypeVar("Ticket")


class Entry(Item, Generic[Value, Ticket]):
    """An item with its ``value`` and the ``ticket`` of who waits for it."""

    __slots__ = ("ticket", "value")

    def __init__(
        self,
        value: Value,
        ticket: Ticket,
        level: int,
        group: Hashable,
        arrived: float,
        answer_by: float,
    ) -> None:
        super().__init__(level, 1, group, arrived, answer_by=answer_by)
        self.value = value
        self.ticket = ticket
