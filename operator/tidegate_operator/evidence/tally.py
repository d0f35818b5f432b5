"""What is counted of one check and one arm."""

from tidegate_operator.api.meta import Wire


class Tally(Wire, frozen=True, kw_only=True):
    """Requests that a check concerned, and how many of them were bad."""

    requests: int = 0
    bad: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(requests=self.requests + other.requests, bad=self.bad + other.bad)

    @property
    def rate(self) -> float | None:
        """Share of bad requests; None where there were none at all."""
        return self.bad / self.requests if self.requests else None
