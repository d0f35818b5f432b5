"""What the demo's users say of a test's answers: they know the right digit.

Twice a second all answers since the last time are reported in one request, to whichever pod's turn
it is. A pod that refuses the connection has not got them, and the next one is asked; where a
connection breaks nobody knows, and a report that is sent again could be counted twice.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import msgspec

from tidegate_contract import names
from tidegate_demo.ledger import OK, Ledger, Report
from tidegate_demo.train import MODEL

PAUSE_SECONDS: Final = 0.5
UNAVAILABLE: Final = 503


class Refused(msgspec.Struct):
    """A report that was not counted, by its place among those that were sent."""

    index: int


class Receipt(msgspec.Struct):
    """What a sidecar says of the reports that it was sent."""

    refused: list[Refused]


class Rated(msgspec.Struct):
    """An answer with the token that it came with, and whether it was right."""

    token: str
    arm: str
    correct: bool


class Reports:
    """Gathers what users have to say, and sends it. ``pods``: in which order they are asked."""

    def __init__(self, ledger: Ledger, pods: Callable[[], Sequence[str]]) -> None:
        self._ledger = ledger
        self._pods = pods
        self._rated: list[Rated] = []

    def add(self, rated: Rated) -> None:
        """Report an answer when it is time."""
        self._rated.append(rated)

    async def send(self, session: aiohttp.ClientSession) -> None:
        """Send what there is, now and then, until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if self._rated:
                rated, self._rated = self._rated, []
                await self._to_one_of_them(session, rated)

    async def _to_one_of_them(self, session: aiohttp.ClientSession, rated: Sequence[Rated]) -> None:
        for pod in self._pods():
            try:
                await self._to(session, pod, rated)
            except aiohttp.ClientConnectorError:
                continue
            except (aiohttp.ClientError, TimeoutError):
                pass
            return

    async def _to(self, session: aiohttp.ClientSession, pod: str, rated: Sequence[Rated]) -> None:
        """Report to a pod, and enter what it counted; it may not know the tokens' key yet.

        Raises:
            aiohttp.ClientError, TimeoutError: nothing came back.
        """
        url = f"http://{pod}:{names.PORT_HTTP}/v2/models/{MODEL}/feedback"
        entries = [{"token": one.token, "correct": one.correct} for one in rated]
        async with session.post(url, json=entries) as response:
            content = await response.read()
        if response.status == UNAVAILABLE:
            self._rated.extend(rated)
        if response.status != OK:
            return
        refused = {one.index for one in msgspec.json.decode(content, type=Receipt).refused}
        for index, one in enumerate(rated):
            if index not in refused:
                self._ledger.reported(Report(time.time(), one.arm, one.correct))
