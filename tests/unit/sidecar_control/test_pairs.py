"""Who gets to see the pairs, over a real socket."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tidegate_contract.acknowledgement import PodReport
from tidegate_sidecar.core.pairs import Pairs
from tidegate_sidecar.shell.admin import Admin
from tidegate_sidecar.shell.pairs import PairsPage
from tidegate_tools.addresses import free_port

TOKEN = b"open sesame\n"
GOOD = {"Authorization": "Bearer open sesame"}


@pytest.fixture
def page() -> PairsPage:
    return PairsPage({"m": Pairs(), "other": Pairs()})


@pytest.fixture
async def client(page: PairsPage) -> AsyncIterator[aiohttp.ClientSession]:
    port = free_port()
    admin = Admin(
        problems=list,
        acknowledge=lambda: PodReport(pod="p", pod_uid="u", ready=True),
        metrics=lambda: b"",
        profile=dict,
        pairs=page.answer,
    )
    await admin.start("127.0.0.1", port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await admin.stop()


@pytest.mark.parametrize(
    ("path", "fields", "status", "reason"),
    [
        ("/pairs?model=m", {}, 401, "a token is needed"),
        ("/pairs?model=m", {"Authorization": "Basic open sesame"}, 401, "a token is needed"),
        ("/pairs?model=m", {"Authorization": "Bearer "}, 401, "a token is needed"),
        ("/pairs?model=m", {"Authorization": "Bearer open"}, 403, "not the token"),
        ("/pairs?model=m", {"Authorization": "Bearer grüße"}, 403, "not the token"),
        ("/pairs?model=m", {"tidegate-token": "open"}, 403, "not the token"),
        ("/pairs?model=other", GOOD, 404, "Secret tidegate-pairs-other"),
        ("/pairs?model=nobody", GOOD, 404, "not served here"),
        ("/pairs", GOOD, 404, "?model=NAME"),
    ],
)
async def test_who_is_refused_and_why(
    client: aiohttp.ClientSession,
    page: PairsPage,
    path: str,
    fields: dict[str, str],
    status: int,
    reason: str,
) -> None:
    page.open("m", TOKEN)
    async with client.get(path, headers=fields) as answer:
        assert answer.status == status
        assert reason in (await answer.json())["error"]
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("fields", [GOOD, {"tidegate-token": "open sesame"}])
async def test_who_has_the_token_sees_them(
    client: aiohttp.ClientSession, page: PairsPage, fields: dict[str, str]
) -> None:
    page.open("m", TOKEN)
    async with client.get("/pairs?model=m", headers=fields) as answer:
        assert answer.status == 200
        assert await answer.json() == {"pairs": []}


def test_without_the_secret_nothing_is_kept() -> None:
    kept = Pairs()
    page = PairsPage({"m": kept})
    assert not kept.wanted
    page.open("m", TOKEN)
    assert kept.wanted
    page.close("m")
    assert not kept.wanted


@pytest.mark.parametrize("token", [b"", b"  \n"])
async def test_an_empty_token_opens_nothing(
    client: aiohttp.ClientSession, page: PairsPage, token: bytes
) -> None:
    page.open("m", TOKEN)
    page.open("m", token)
    async with client.get("/pairs?model=m", headers={"tidegate-token": ""}) as answer:
        assert answer.status == 404
