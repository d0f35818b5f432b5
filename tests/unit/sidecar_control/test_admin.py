"""Port 9002 over a real socket."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from tidegate_contract import acknowledgement
from tidegate_contract.acknowledgement import Acknowledgement, PodReport
from tidegate_sidecar.shell.admin import Admin
from tidegate_sidecar.shell.pairs import PairsPage
from tidegate_tools.addresses import free_port

REPORT = PodReport(
    pod="triton-0", pod_uid="uid-0", ready=False, models={"m": Acknowledgement(revision=7)}
)

PROFILE = {
    "models": {
        "m": {"strategy": "Fixed", "memory": None, "waiting": 0, "requests": [], "batches": []}
    }
}


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
async def client(problems: list[str]) -> AsyncIterator[aiohttp.ClientSession]:
    port = free_port()
    admin = Admin(
        problems=lambda: problems,
        acknowledge=lambda: REPORT,
        metrics=lambda: b"a_total 1\n",
        profile=lambda: PROFILE,
        pairs=PairsPage({}).answer,
    )
    await admin.start("127.0.0.1", port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await admin.stop()


async def test_readiness_says_what_is_missing(
    client: aiohttp.ClientSession, problems: list[str]
) -> None:
    async with client.get("/readyz") as answer:
        assert answer.status == 200
    problems += ["m: there is no routing table", "n: Triton does not answer"]
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        assert (await answer.text()).splitlines() == problems
    async with client.get("/healthz") as answer:
        assert answer.status == 200


async def test_the_acknowledgement_is_what_the_operator_reads(
    client: aiohttp.ClientSession,
) -> None:
    async with client.get("/routing") as answer:
        assert acknowledgement.decode(await answer.read()) == REPORT


async def test_metrics_are_plain_text_for_prometheus(client: aiohttp.ClientSession) -> None:
    async with client.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert await answer.read() == b"a_total 1\n"


async def test_the_profile_is_json_for_programs_and_a_page_for_people(
    client: aiohttp.ClientSession,
) -> None:
    async with client.get("/profile") as answer:
        assert await answer.json() == PROFILE
    async with client.get("/profile.html") as answer:
        assert answer.content_type == "text/html"
        page = await answer.text()
        assert "No request was answered yet." in page
        assert "triton-0, 20" in page


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/routing", 405),
        ("PUT", "/readyz", 405),
        ("POST", "/profile", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/v2/repository/index", 404),
    ],
)
async def test_nothing_can_be_changed_here(
    client: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with client.request(method, path) as answer:
        assert answer.status == status
