"""What a user's own PromQL gave: a value, nothing, or an error. Three different things."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Value:
    """What a user's own query gave; ``at``: when it was asked (epoch seconds)."""

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class NoValue:
    """A user's own query gave nothing, or not a number: no data, which is no answer either way."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class QueryError:
    """A user's own query cannot be answered; ``why`` is for people."""

    at: float
    why: str


Answer = Value | NoValue | QueryError
