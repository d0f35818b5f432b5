"""Trials on the real thing: a BatchPolicy is changed, traffic is sent, what came of it is read."""

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import urllib3
import uvloop

from tidegate_cli.cluster import POLICY, Cluster, Raw
from tidegate_cli.errors import CommandError
from tidegate_contract import names
from tidegate_load.schedule import Schedule
from tidegate_load.sender import Record, Sender
from tidegate_load.summary import summarise
from tidegate_load.users import User
from tidegate_load.wire import Script
from tidegate_tune.score import ClassOutcome, Outcome
from tidegate_tune.simulated import Cost
from tidegate_tune.space import Candidate

_TIMEOUT: Final = 60.0
"""Seconds for a policy to be applied everywhere."""
_POLL: Final = 0.2
_MILLISECOND: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One pod's sidecar. ``url``: host:port of its inference; its other port is beside it."""

    url: str

    def cost(self, model: str) -> tuple[float, float]:
        """What it has learned of the model's batches: seconds for any, and more for each row.

        Raises:
            CommandError: it does not answer, or has answered too few requests to know.
        """
        profile = self._get(names.PORT_ADMIN, "/profile")["models"].get(model, {})
        learned = max(profile.get("batches", []), key=lambda one: one["batches"], default=None)
        if learned is None or not learned["batches"]:
            raise CommandError(
                f"{self.url} has not learned yet what batches of {model} cost: send some traffic "
                "first (tidegate loadgen), or say it with --fixed and --per-row"
            )
        return learned["fixed"], learned["per_row"]

    def most(self, model: str) -> int:
        """How many rows the model takes at once.

        Raises:
            CommandError: it does not answer, or does not serve the model.
        """
        _, _, port = self.url.rpartition(":")
        config = self._get(int(port), f"/v2/models/{model}/config")
        if "max_batch_size" not in config:
            raise CommandError(f"{self.url} does not describe {model}: {config.get('error')}")
        return max(int(config["max_batch_size"]), 1)

    def batch_size(self, model: str) -> float:
        """Rows of a batch lately, the mean; 0 where there was none."""
        report = self._get(names.PORT_ADMIN, "/routing")["models"].get(model, {})
        return float((report.get("live") or {}).get("batchSize") or 0.0)

    def _get(self, port: int, path: str) -> dict[str, Any]:
        host = self.url.rpartition(":")[0]
        try:
            answer = urllib3.request(
                "GET", f"http://{host}:{port}{path}", timeout=10, retries=False
            )
            return msgspec.json.decode(answer.data, type=dict[str, Any])
        except (urllib3.exceptions.HTTPError, msgspec.DecodeError) as error:
            raise CommandError(f"{host}:{port}{path} does not answer as a sidecar: {error}") from (
                error
            )


@dataclass(slots=True, kw_only=True)
class Live:
    """Tries candidates; as a context manager it puts the policy back as it was."""

    cluster: Cluster
    namespace: str
    policy: str
    sidecar: Sidecar
    cost: Cost
    script: Script
    schedule: Schedule
    users: Sequence[User]
    model: str
    target: float
    connections: int
    _before: Raw | None = None

    def __enter__(self) -> Self:
        self._before = self.cluster.get(POLICY, self.namespace, self.policy)["spec"]
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        before = self._before or {}
        now = self.cluster.get(POLICY, self.namespace, self.policy)["spec"]
        self._patch({**dict.fromkeys(now), **before})

    def __call__(self, candidate: Candidate) -> Outcome:
        """Apply a candidate, send the traffic, and say what came of it."""
        self._patch(candidate.spec())
        self._await_applied()
        record = uvloop.run(self._send())
        if record.interrupted:
            raise KeyboardInterrupt
        summary = summarise(
            record, self.users, target=self.sidecar.url, model=self.model, pattern="tune", seed=0
        )
        classes = [
            ClassOutcome(
                name=one.name,
                offered=one.figures.scheduled,
                answered=one.figures.in_time,
                p99=one.figures.latency.p99 * _MILLISECOND if one.figures.latency else 0.0,
                target=self.target if one.deadline is None else one.deadline,
            )
            for one in summary.users
        ]
        return Outcome(classes, self.cost.efficiency(self.sidecar.batch_size(self.model)))

    def _patch(self, spec: Raw) -> None:
        self.cluster.patch(POLICY, self.namespace, self.policy, {"spec": spec})

    def _await_applied(self) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            seen = self.cluster.get(POLICY, self.namespace, self.policy)
            status = seen.get("status", {})
            current = status.get("observedGeneration") == seen["metadata"]["generation"]
            if current and status.get("phase") == "Applied":
                return
            time.sleep(_POLL)
        message = status.get("message", "nobody has looked at it: does the operator run?")
        raise CommandError(f"BatchPolicy {self.policy} was not applied within 60s: {message}")

    async def _send(self) -> Record:
        host, _, port = self.sidecar.url.rpartition(":")
        sender = Sender((host, int(port)), self.script, self.schedule, connections=self.connections)
        await sender.connect()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, sender.interrupt)
        return await sender.run(_TIMEOUT, lambda _: None)
