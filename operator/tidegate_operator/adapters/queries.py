"""Asks users' own PromQL: each query once for all who ask the same, and never too many of them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Protocol

import msgspec

from tidegate_operator.adapters.prometheus import (
    SILENCE,
    Prometheus,
    PrometheusError,
    QueryRefusedError,
    in_thread,
)
from tidegate_operator.evidence import promql
from tidegate_operator.evidence.queries import Answer, QueryError

Mode = Literal["Enabled", "Namespaced", "Disabled"]

_PARALLEL: Final = 4
_FRESH: Final = 0.9
"""Seconds for which an answer serves everybody: less than the shortest interval."""


class Queries(Protocol):
    """The operator's port to what users ask of Prometheus."""

    async def ask(self, namespace: str, query: str) -> Answer:
        """The number that a query gives, on behalf of an object of that namespace."""


@dataclass(slots=True)
class PrometheusQueries:
    """The port on real Prometheuses.

    ``mode``: Enabled: every query may read everything that ``url`` has. Namespaced: queries go to
    ``url`` with ``{namespace}`` filled in, where something sees to it that they read no other
    namespace. Disabled: none is asked. ``per_second``: queries in a second, of all users together.
    ``now``: the wall clock.
    """

    mode: Mode
    url: str
    per_second: float
    now: Callable[[], float]
    asked: Callable[[bool], None] = lambda _answered: None
    _asking: dict[tuple[str, str], asyncio.Task[Answer]] = field(default_factory=dict)
    _prometheuses: dict[str, Prometheus] = field(default_factory=dict)
    _next: float = 0.0
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PARALLEL))

    async def ask(self, namespace: str, query: str) -> Answer:
        """Never raises: what is no number is said so."""
        if self.mode == "Disabled":
            return QueryError(
                self.now(),
                "this operator asks no queries of users (its setting userQueries is Disabled)",
            )
        url = self.url
        if self.mode == "Namespaced":
            url = url.replace("{namespace}", namespace)
        key = url, query
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(*key))
        return await asyncio.shield(self._asking[key])

    async def _ask(self, url: str, query: str) -> Answer:
        loop = asyncio.get_running_loop()
        try:
            turn = self._next = max(self._next + 1.0 / self.per_second, loop.time())
            await asyncio.sleep(turn - loop.time())
            async with self._slots:
                return await in_thread(partial(self._read, url, query))
        finally:
            loop.call_later(_FRESH, self._asking.pop, (url, query))

    def _read(self, url: str, query: str) -> Answer:
        at = self.now()
        prometheus = self._prometheuses.setdefault(url, Prometheus(url, whole=SILENCE))
        try:
            answer = promql.read(*prometheus.result(query), at)
        except QueryRefusedError as error:
            answer = QueryError(at, f"it is refused: {error}")
        except PrometheusError as error:
            answer = QueryError(at, str(error))
        except msgspec.DecodeError as error:
            answer = QueryError(at, f"the answer is none of Prometheus': {error}")
        self.asked(not isinstance(answer, QueryError))
        return answer
