"""The demo's clients: held-out images, sent at a steady rate whether or not answers come back.

Open loop: a slow server does not slow its clients down, so that it cannot hide. Arrivals are
Poisson from a fixed seed. Requests go round robin to the pods that are Ready, as a Service would
send them; a pod that refuses the connection has not got the request, and the next one is asked.
"""

import asyncio
import itertools
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import aiohttp
import msgspec

from tidegate_contract import names
from tidegate_demo.ledger import OK, Answer, Ledger
from tidegate_demo.reports import Rated, Reports
from tidegate_demo.train import MODEL, SEED, HeldOut

USERS: Final = 1200
STICKY_SHARE: Final = 0.6
USER_HEADER: Final = "x-user-id"
PRIORITIES: Final = (1, 3, 3, 3, 5)
DEADLINE_SECONDS: Final = 15.0


class Output(msgspec.Struct):
    """One output tensor of an answer in JSON."""

    name: str
    data: list[int]


class Reply(msgspec.Struct):
    """What the clients read of an answer."""

    outputs: list[Output]
    id: str = ""


class Traffic:
    """Clients in a thread of their own. ``ready`` are the addresses that requests go to."""

    def __init__(self, ledger: Ledger, held_out: HeldOut, rate: float) -> None:
        self._ledger = ledger
        self._images = [image.tobytes() for image in held_out.images]
        self._lists = [image.tolist() for image in held_out.images]
        self._rate = rate
        self._draw = random.Random(SEED)  # noqa: S311 - arrivals, not secrets
        self._turn = itertools.count()
        self._reports = Reports(ledger, self._next_pods)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.ready: Sequence[str] = ()

    def start(self) -> None:
        """Begin to send, again after a stop."""
        self._ended.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more; returns when what was sent has ended."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=timeout
            ) as session,
            asyncio.TaskGroup() as requests,
        ):
            reporting = requests.create_task(self._reports.send(session))
            due = time.monotonic()
            while not self._ended.is_set():
                due += self._draw.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if self.ready:
                    requests.create_task(self._ask(session))
            reporting.cancel()

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        """Send one request to the pod whose turn it is, or to the next that takes it."""
        number = self._ledger.open()
        image = self._draw.randrange(len(self._images))
        sticky = self._draw.random() < STICKY_SHARE
        user = f"user-{self._draw.randrange(USERS)}" if sticky else None
        body, headers = self._request(number, image)
        headers[names.HEADER_PRIORITY] = str(self._draw.choice(PRIORITIES))
        if user:
            headers[USER_HEADER] = user
        answer = Answer(time.time(), time.time(), image, user, pod=None, status=0)
        token = None
        for pod in self._next_pods():
            answer = replace(answer, pod=pod)
            try:
                answer, token = await _post(session, answer, number, body, headers)
                break
            except aiohttp.ClientConnectorError:
                answer = replace(answer, pod=None)
            except (aiohttp.ClientError, TimeoutError):
                break
        self._ledger.close(replace(answer, done=time.time()))
        if token is not None:
            self._reports.add(Rated(token, answer.arm, self._ledger.correct(answer)))

    def _next_pods(self) -> list[str]:
        """The pods that are Ready, the one whose turn it is first."""
        ready, turn = list(self.ready), next(self._turn)
        return [ready[(turn + offset) % len(ready)] for offset in range(len(ready))]

    def _request(self, number: int, image: int) -> tuple[bytes, dict[str, str]]:
        """KServe v2 both ways: tensors as bytes for one request, as JSON for the next."""
        tensor: dict[str, Any] = {"name": "image", "shape": [1, 64], "datatype": "FP32"}
        binary = number % 2 == 0
        if binary:
            tensor["parameters"] = {"binary_data_size": len(self._images[image])}
        else:
            tensor["data"] = self._lists[image]
        request = {"id": str(number), "inputs": [tensor], "outputs": [{"name": "label"}]}
        head = json.dumps(request).encode()
        if binary:
            return head + self._images[image], {
                "Inference-Header-Content-Length": str(len(head)),
                "Content-Type": "application/octet-stream",
            }
        return head, {"Content-Type": "application/json"}


async def _post(
    session: aiohttp.ClientSession,
    answer: Answer,
    number: int,
    body: bytes,
    headers: dict[str, str],
) -> tuple[Answer, str | None]:
    """Ask a pod and wait for what it says; with the token to report it by, while a test runs.

    Raises:
        aiohttp.ClientError, TimeoutError: nothing came back.
    """
    url = f"http://{answer.pod}:{names.PORT_HTTP}/v2/models/{MODEL}/infer"
    async with session.post(url, data=body, headers=headers) as response:
        content = await response.read()
    version = response.headers.get(names.HEADER_VERSION)
    reply = msgspec.json.decode(content, type=Reply) if response.status == OK else None
    answered = replace(
        answer,
        status=response.status,
        arm=response.headers.get(names.HEADER_ARM, names.ARM_NONE),
        version=int(version) if version else None,
        label=reply.outputs[0].data[0] if reply else None,
        own=reply is None or reply.id == str(number),
    )
    return answered, response.headers.get(names.HEADER_FEEDBACK)
