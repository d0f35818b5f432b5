"""Places for what is done at once, those that matter most first."""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Places:
    """So many at once. Whoever waits goes by rank, the lowest first, then in order of arrival."""

    free: int
    _waiting: list[tuple[int, int, asyncio.Future[None]]] = field(default_factory=list)
    _arrivals: Iterator[int] = field(default_factory=itertools.count)

    @contextlib.asynccontextmanager
    async def taken(self, rank: int) -> AsyncIterator[None]:
        """Have a place, once there is one."""
        await self._take(rank)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, rank: int) -> None:
        if self.free:
            self.free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was told already
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1
