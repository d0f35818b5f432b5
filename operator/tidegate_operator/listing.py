"""Making the cache what the API server has: at the start, and again whatever watches tell.

A watch that begins anew lists first, and tells nothing of what was deleted while it was broken; one
that died tells nothing at all. Routing tables are what requests go by, and nobody but a watch or a
list says that one is gone: so they are listed more often than the rest.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from tidegate_operator.adapters.cluster import CONFIG_MAP, ClusterError, Listed
from tidegate_operator.cache import KINDS, Cache, Identity, ModelKey, identity

_EVERY: Final = 30.0
"""Seconds between lists of tables while watches go on undisturbed."""
_PER_TABLE: Final = 0.03
"""Seconds between them for each table, where that is more: a list of thousands costs the API server
what hundreds of writes do.
"""
_WHOLE: Final = 10
"""One list in so many is of all kinds."""
_SOON: Final = 10.0
"""Seconds from a doubt to a list: the other watches are back by then, too."""
_RETRY: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Listing:
    """Lists what there is. ``pages``: of a kind, as ``Cluster`` gives them. ``wake``: is called for
    each model that a list tells something of.
    """

    cache: Cache
    pages: Callable[[str], AsyncIterator[Listed]]
    wake: Callable[[ModelKey], None]
    _doubtful: asyncio.Event = field(default_factory=asyncio.Event)

    def doubt(self) -> None:
        """A watch began anew, or the API server could not be reached: deletions may have gone
        untold.
        """
        self._doubtful.set()

    async def begin(self) -> None:
        """List everything, however long that takes."""
        while not await self.list(KINDS):  # noqa: ASYNC110 - nothing tells when it will answer
            await asyncio.sleep(_RETRY)

    async def go_on(self) -> None:
        """List again and again, for ever."""
        for number in itertools.count(1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(_EVERY, self.cache.tables * _PER_TABLE)):
                    await self._doubtful.wait()
            doubtful = self._doubtful.is_set()
            if doubtful:
                await asyncio.sleep(_SOON)
                self._doubtful.clear()
            if not await self.list((CONFIG_MAP,) if number % _WHOLE and not doubtful else KINDS):
                self.doubt()

    async def list(self, kinds: Iterable[str]) -> bool:
        """Make the cache what the API server has; says whether it could be listed."""
        concerned: set[ModelKey] = set()
        try:
            for kind in kinds:
                there: set[Identity] = set()
                revision = 0
                async for page in self.pages(kind):
                    revision = page.revision
                    for raw in page.items:
                        there.add(identity(raw))
                        concerned |= self.cache.put(kind, raw)
                concerned |= self.cache.retain(kind, there, revision)
        except ClusterError as error:
            _log.warning("cannot list, going on with what is known: %s", error)
            return False
        finally:
            for key in concerned:
                self.wake(key)
        return True
