"""Asks sidecars what they apply: ``GET /routing`` on the admin port."""

from typing import Final, Protocol

import aiohttp
import msgspec

from tidegate_contract import acknowledgement
from tidegate_contract.acknowledgement import PodReport
from tidegate_contract.names import PORT_ADMIN

_TIMEOUT: Final = aiohttp.ClientTimeout(total=1.0)


class Pods(Protocol):
    """The operator's port to the sidecars."""

    async def ask(self, address: str) -> PodReport | None:
        """A pod's report; None where it does not answer."""


class HttpPods:
    """The port over HTTP. ``session`` bounds how many are asked at once."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, address: str) -> PodReport | None:
        """A pod that is gone, slow, or speaks something else has not acknowledged: None."""
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(
                f"http://{host}:{PORT_ADMIN}/routing", timeout=_TIMEOUT
            ) as response:
                return acknowledgement.decode(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None
