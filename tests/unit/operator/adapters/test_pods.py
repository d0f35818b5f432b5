"""Asking a sidecar: only a report is one."""

from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest
from aiohttp import web

from tidegate_contract.acknowledgement import PodReport
from tidegate_operator.adapters import pods
from tidegate_operator.adapters.pods import HttpPods

REPORT = PodReport(pod="p", pod_uid="u", ready=True)


@pytest.fixture
async def answer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, bytes]]:
    said: dict[str, bytes] = {}

    async def routing(_: web.Request) -> web.Response:
        return web.Response(body=said["body"])

    application = web.Application()
    application.add_routes([web.get("/routing", routing)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setattr(pods, "PORT_ADMIN", runner.addresses[0][1])
    yield said
    await runner.cleanup()


@pytest.mark.parametrize(
    ("body", "report"),
    [(msgspec.json.encode(REPORT), REPORT), (b"<html>", None), (b"{}", None), (b"", None)],
)
async def test_reports(answer: dict[str, bytes], body: bytes, report: PodReport | None) -> None:
    answer["body"] = body
    async with aiohttp.ClientSession() as session:
        assert await HttpPods(session).ask("127.0.0.1") == report


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "PORT_ADMIN", 1)
    async with aiohttp.ClientSession() as session:
        assert await HttpPods(session).ask("127.0.0.1") is None
        assert await HttpPods(session).ask("::1") is None
