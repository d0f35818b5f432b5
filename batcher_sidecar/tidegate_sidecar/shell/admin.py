"""Port 9002: probes, metrics, profile and acknowledgement. Read-only; it changes nothing here."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from tidegate_contract.acknowledgement import PodReport
from tidegate_sidecar.core import report

Json = Callable[[], dict[str, Any]]
Problems = Callable[[], list[str]]
"""What keeps the pod from being ready, each in one sentence; none: it is."""


class Admin:
    """The server of the port."""

    def __init__(
        self,
        *,
        problems: Problems,
        acknowledge: Callable[[], PodReport],
        metrics: Callable[[], bytes],
        profile: Json,
        pairs: Handler,
    ) -> None:
        self._problems = problems
        self._acknowledge = acknowledge
        self._metrics = metrics
        self._profile = profile
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/routing", self._routing)
        application.router.add_get("/metrics", self._scrape)
        application.router.add_get("/profile", self._describe)
        application.router.add_get("/profile.html", self._draw)
        application.router.add_get("/pairs", pairs)
        self._runner = web.AppRunner(application, access_log=None)

    async def start(self, host: str | None, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address is taken or not ours.
        """
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = self._problems()
        text = "".join(f"{problem}\n" for problem in problems) or "ready\n"
        return web.Response(text=text, status=503 if problems else 200)

    async def _routing(self, _: web.Request) -> web.Response:
        body = msgspec.json.encode(self._acknowledge())
        return web.Response(body=body, content_type="application/json")

    async def _describe(self, _: web.Request) -> web.Response:
        body = msgspec.json.encode(self._profile())
        return web.Response(body=body, content_type="application/json")

    async def _draw(self, _: web.Request) -> web.Response:
        profile = msgspec.to_builtins(self._profile())
        source = f"{self._acknowledge().pod}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return web.Response(text=report.render(profile, source), content_type="text/html")

    async def _scrape(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})
