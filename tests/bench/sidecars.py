"""One process that stands for the sidecars of thousands of models, two pods each.

To the operator each pod answers at an address of its own in 127.0.0.0/8; Prometheus scrapes all of
them at once. Tables are watched and adopted as sidecars do; requests are not served but counted as
if they came at a steady rate. Requests of this process's own: ``POST /break?model=M`` makes a
canary fail everything, ``GET /times?model=M`` tells when a scrape first showed a breach, and when
the table with the rollback was adopted.
"""

import argparse
import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import aiohttp
import msgspec
from aiohttp import web

from tidegate_contract import names
from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import Acknowledgement, PodReport, Tensor, VersionState
from tidegate_contract.table import RoutingTable, SlowCheck

FIRST_ADDRESS = IPv4Address("127.128.0.1")
PODS = 2
REQUESTS_PER_SECOND = 50.0
"""Of each model in each pod."""
ERRORS = 0.001
SLOW = 0.02
BREACH = 10.0
"""Failed requests of a canary, in each pod: a scrape that shows fewer shows no breach yet."""
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
TENSOR = Tensor(name="x", datatype="FP32", shape=[4])


def model_name(number: int) -> str:
    return f"m{number}"


def pod_name(number: int, pod: int) -> str:
    return f"m{number}-{pod}"


def address(number: int, pod: int) -> str:
    return str(FIRST_ADDRESS + number * PODS + pod)


@dataclass
class Model:
    """What its pods apply and have counted; both the same."""

    number: int
    uids: list[str]
    table: RoutingTable | None = None
    table_uid: str = ""
    digest: str = ""
    counted: dict[str, float] = field(default_factory=dict)
    failed: dict[str, float] = field(default_factory=dict)
    since: float = 0.0
    broken: bool = False
    failed_before: float = 0.0
    shown_broken_at: float | None = None
    rolled_back_at: float | None = None
    lines: list[tuple[bytes, str, float]] = field(default_factory=list)

    def adopt(self, uid: str, table: RoutingTable, digest: str, now: float) -> None:
        if self.table and (uid, table.revision) == (self.table_uid, self.table.revision):
            return
        self.count(now)
        if table.latch and self.rolled_back_at is None:
            self.rolled_back_at = now
        fresh = self.table is None or [one.id for one in self.table.checks] != [
            one.id for one in table.checks
        ]
        self.table, self.table_uid, self.digest = table, uid, digest
        if fresh:
            self.lines = list(self._check_lines(table))

    def count(self, now: float) -> None:
        for arm in self.table.split if self.table else []:
            more = (now - self.since) * REQUESTS_PER_SECOND * arm.weight / 10_000
            share = 1.0 if self.broken and arm.name == names.ARM_CANARY else ERRORS
            self.counted[arm.name] = self.counted.get(arm.name, 0.0) + more
            self.failed[arm.name] = self.failed.get(arm.name, 0.0) + more * share
        self.since = now

    def report(self, pod: int) -> PodReport:
        versions = [row.version for row in self.table.versions] if self.table else []
        ready = VersionState(state="Ready", inputs=[TENSOR], outputs=[TENSOR])
        ack = Acknowledgement(
            table_uid=self.table_uid or None,
            revision=self.table.revision if self.table else 0,
            digest=self.digest,
            versions=dict.fromkeys(versions, ready),
        )
        return PodReport(
            pod=pod_name(self.number, pod),
            pod_uid=self.uids[pod],
            ready=True,
            models={model_name(self.number): ack},
        )

    def exposition(self, now: float, *, histograms: bool) -> bytes:
        self.count(now)
        values: dict[tuple[str, float], bytes] = {}
        for arm, counted in self.counted.items():
            values[arm, -1.0] = b" %d\n" % counted
            values[arm, 0.0] = b" %d\n" % self.failed[arm]
            values[arm, 1.0] = b" %d\n" % (self.failed[arm] + (counted - self.failed[arm]) * SLOW)
        parts = [line + values.get((arm, share), b" 0\n") for line, arm, share in self.lines]
        parts += self._other_lines(histograms=histograms or len(self.counted) < PODS)
        if self.broken and self.shown_broken_at is None and self._breached():
            self.shown_broken_at = now
        return b"".join(parts)

    def _breached(self) -> bool:
        return self.failed.get(names.ARM_CANARY, 0.0) - self.failed_before >= BREACH

    def _labels(self, pod: int) -> str:
        name = model_name(self.number)
        return f'namespace="default",pod="{pod_name(self.number, pod)}",model="{name}"'

    def _check_lines(self, table: RoutingTable) -> Iterator[tuple[bytes, str, float]]:
        """Series without their values, with the arm and -1 for requests, else the kind of bad."""
        for pod in range(PODS):
            for check in table.checks:
                arms = check.bounds if isinstance(check, SlowCheck) else check.arms  # type: ignore[union-attr]
                for arm in arms:
                    version = 1 if arm == names.ARM_STABLE else 2
                    labels = (
                        f'{self._labels(pod)},version="{version}",arm="{arm}",check="{check.id}",'
                        'priority="3",bucket=""'
                    )
                    bad = 1.0 if isinstance(check, SlowCheck) else 0.0
                    yield f"{names.METRIC_CHECK_REQUESTS}_total{{{labels}}}".encode(), arm, -1.0
                    yield f"{names.METRIC_CHECK_BAD}_total{{{labels}}}".encode(), arm, bad

    def _other_lines(self, *, histograms: bool) -> list[bytes]:
        lines = []
        for pod in range(PODS):
            labels = self._labels(pod)
            lines.append(f"{names.METRIC_RESTARTS}_total{{{labels}}} 0\n")
            if not histograms:
                continue
            for arm, counted in self.counted.items():
                version = 1 if arm == names.ARM_STABLE else 2
                own = f'{labels},version="{version}",arm="{arm}"'
                for outcome, share in (("ok", 1 - ERRORS), ("server_error", ERRORS)):
                    lines.append(
                        f'{names.METRIC_REQUESTS}_total{{{own},priority="3",outcome="{outcome}"}} '
                        f"{int(counted * share)}\n"
                    )
                for bound in (*BOUNDS, float("inf")):
                    within = min(1.0, bound / 0.05) if bound < 0.1 else 1.0
                    label = "+Inf" if bound == float("inf") else repr(bound)
                    lines.append(
                        f'{names.METRIC_DURATION}_bucket{{{own},le="{label}"}} '
                        f"{int(counted * within)}\n"
                    )
        return [line.encode() for line in lines]


class Sidecars:
    """All models, and the three things that are asked of them."""

    def __init__(self, uids: list[list[str]], *, histograms: bool) -> None:
        self.models = [Model(number, pair, since=time.time()) for number, pair in enumerate(uids)]
        self._histograms = histograms

    async def watch(self, server: str, ca: str, token: str) -> None:
        """Adopt every table that is written, for ever."""
        path = f"{server}/api/v1/namespaces/default/configmaps"
        query = {"labelSelector": names.LABEL_MODEL, "watch": "1"}
        context = ssl.create_default_context(cafile=ca)
        connector = aiohttp.TCPConnector(ssl=context)
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            while True:
                async with session.get(path, params=query, timeout=timeout) as response:
                    async for line in lines_of(response.content):
                        self._adopt(json.loads(line)["object"])

    def _adopt(self, raw: dict[str, dict[str, str]]) -> None:
        text, digest = raw["data"][names.TABLE_KEY], raw["data"][names.DIGEST_KEY]
        table = contract.decode(text, digest)
        model = self.models[int(table.model.removeprefix("m"))]
        model.adopt(raw["metadata"]["uid"], table, digest, time.time())

    async def routing(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        host = request.transport.get_extra_info("sockname")[0]
        index = int(IPv4Address(host)) - int(FIRST_ADDRESS)
        report = self.models[index // PODS].report(index % PODS)
        return web.Response(body=msgspec.json.encode(report))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        now = time.time()
        response = web.StreamResponse(headers={"Content-Type": "text/plain; version=0.0.4"})
        await response.prepare(request)
        for first in range(0, len(self.models), 50):
            some = self.models[first : first + 50]
            await response.write(
                b"".join(one.exposition(now, histograms=self._histograms) for one in some)
            )
            await asyncio.sleep(0)
        return response

    async def break_(self, request: web.Request) -> web.Response:
        model = self.models[int(request.query["model"])]
        model.count(time.time())
        model.broken, model.failed_before = True, model.failed.get(names.ARM_CANARY, 0.0)
        return web.Response()

    async def times(self, request: web.Request) -> web.Response:
        model = self.models[int(request.query["model"])]
        return web.json_response({"shown": model.shown_broken_at, "back": model.rolled_back_at})

    async def live(self, _: web.Request) -> web.Response:
        """How many models give their canary traffic."""
        split = [one for one in self.models if one.table and len(one.table.split) == PODS]
        return web.Response(text=str(len(split)))


async def lines_of(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length."""
    kept = b""
    async for chunk in content.iter_any():
        *whole, kept = (kept + chunk).split(b"\n")
        for line in whole:
            yield line


async def run(given: argparse.Namespace) -> None:
    with open(given.uids, encoding="utf-8") as file:  # noqa: ASYNC230, PTH123 - once, at the start
        sidecars = Sidecars(json.load(file), histograms=given.histograms)
    application = web.Application()
    application.add_routes(
        [
            web.get("/routing", sidecars.routing),
            web.get("/metrics", sidecars.metrics),
            web.post("/break", sidecars.break_),
            web.get("/times", sidecars.times),
            web.get("/live", sidecars.live),
        ]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    for port in (names.PORT_ADMIN, given.port):
        await web.TCPSite(runner, "0.0.0.0", port, backlog=1024).start()
    await sidecars.watch(given.server, given.ca, given.token)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--uids", required=True, help="file: by model, its pods' uids (JSON)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--histograms", action="store_true")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
