"""Trials on the real thing: a BatchPolicy is changed, traffic is sent, what came of it is read."""

import asyncio
import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import urllib3
import uvloop

from tidegate_cli.cluster import POLICY, Cluster, Raw
from tidegate_cli.errors import CommandError, reason
from tidegate_contract import names
from tidegate_load.schedule import Schedule
from tidegate_load.sender import Record, Sender
from tidegate_load.summary import summarise
from tidegate_load.users import User
from tidegate_load.wire import Script
from tidegate_top import scrape
from tidegate_top.scrape import Counts
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
        profile = self._read(names.PORT_ADMIN, "/profile").get("models", {}).get(model, {})
        learned = max(profile.get("batches", []), key=lambda one: one["batches"], default=None)
        if learned is None or not learned["batches"]:
            raise CommandError(
                f"{self.url} has not learned yet what batches of {model} cost: send some traffic "
                "first (tidegate loadgen), or say it with --fixed and --per-row"
            )
        return learned["fixed"], learned["per_row"]

    def size(self, model: str) -> tuple[int, int]:
        """How many rows the model takes at once, and how many batches at a time: its instances.

        Raises:
            CommandError: it does not answer, or does not serve the model.
        """
        _, _, port = self.url.rpartition(":")
        config = self._read(int(port), f"/v2/models/{model}/config")
        if "max_batch_size" not in config:
            raise CommandError(f"{self.url} does not describe {model}: {config.get('error')}")
        instances = sum(
            group.get("count", 1) * max(len(group.get("gpus", ())), 1)
            for group in config.get("instance_group", ())
        )
        return max(int(config["max_batch_size"]), 1), max(instances, 1)

    def counts(self, model: str) -> Counts:
        """What it has counted of the model.

        Raises:
            CommandError: it does not answer.
        """
        text = self._get(names.PORT_ADMIN, "/metrics").decode(errors="replace")
        try:
            return scrape.read(0.0, text, None).models.get(model, Counts())
        except (ValueError, KeyError) as error:
            raise self._strange(names.PORT_ADMIN, "/metrics", error) from error

    def _read(self, port: int, path: str) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self._get(port, path), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise self._strange(port, path, error) from error

    def _get(self, port: int, path: str) -> bytes:
        host = self.url.rpartition(":")[0]
        try:
            return urllib3.request(
                "GET", f"http://{host}:{port}{path}", timeout=10, retries=False
            ).data
        except urllib3.exceptions.HTTPError as error:
            raise self._strange(port, path, error) from error

    def _strange(self, port: int, path: str, error: Exception) -> CommandError:
        host = self.url.rpartition(":")[0]
        return CommandError(f"{host}:{port}{path} does not answer as a sidecar: {reason(error)}")


@dataclass(frozen=True, slots=True)
class Policy:
    """A BatchPolicy that is changed for a while. ``spec``: as it was."""

    cluster: Cluster
    namespace: str
    name: str
    spec: Raw

    @classmethod
    def found(cls, cluster: Cluster, namespace: str, name: str, model: str) -> Self:
        """The policy of a model.

        Raises:
            CommandError: it is for other models.
            ClusterError: there is none, or the API server cannot be reached, or refuses.
        """
        spec = cluster.get(POLICY, namespace, name)["spec"]
        if model not in spec["models"]:
            others = ", ".join(spec["models"])
            raise CommandError(f"BatchPolicy {name} is for {others}, not for {model}")
        return cls(cluster, namespace, name, spec)

    def change(self, changes: Raw) -> None:
        """Change some fields, and wait until every pod applies them.

        Raises:
            ClusterError: the API server cannot be reached, or refuses.
            CommandError: they were not applied in time.
        """
        self.cluster.patch(POLICY, self.namespace, self.name, {"spec": changes})
        self._await_applied()

    def restore(self, changes: Raw) -> None:
        """Give some fields the values that they had.

        Raises:
            CommandError: the API server cannot be reached, or refuses.
        """
        body = {"spec": before(self.spec, changes)}
        try:
            self.cluster.patch(POLICY, self.namespace, self.name, body)
        except CommandError as error:
            raise CommandError(
                f"BatchPolicy {self.name} is not as it was before: {error}\nPut it back by: "
                f"kubectl patch batchpolicy {self.name} -n {self.namespace} --type merge "
                f"-p '{json.dumps(body)}'"
            ) from error

    def _await_applied(self) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            seen = self.cluster.get(POLICY, self.namespace, self.name)
            status = seen.get("status", {})
            current = status.get("observedGeneration") == seen["metadata"]["generation"]
            if current and status.get("phase") == "Applied":
                return
            time.sleep(_POLL)
        message = status.get("message", "nobody has looked at it: does the operator run?")
        raise CommandError(f"BatchPolicy {self.name} was not applied within 60s: {message}")


def before(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> Raw:
    """The JSON merge patch (RFC 7396) that undoes changes to what was a spec."""
    return {
        name: before(spec.get(name) or {}, value) if isinstance(value, Mapping) else spec.get(name)
        for name, value in changes.items()
    }


@dataclass(slots=True, kw_only=True)
class Live:
    """Tries candidates; as a context manager it puts the policy back as it was.

    ``drain``: seconds to wait for a trial's last answers. ``target``: as of ``Simulated``.
    """

    policy: Policy
    sidecar: Sidecar
    cost: Cost
    script: Script
    schedule: Schedule
    users: Sequence[User]
    model: str
    target: float
    connections: int
    drain: float
    _tried: Raw = field(default_factory=dict)

    def __enter__(self) -> Self:
        _end_gently()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        if self._tried:
            ours = signal.signal(signal.SIGINT, signal.SIG_IGN)  # one Ctrl-C is enough
            try:
                self.policy.restore(self._tried)
            finally:
                signal.signal(signal.SIGINT, ours)

    def __call__(self, candidate: Candidate) -> Outcome:
        """Apply a candidate, send the traffic, and say what came of it."""
        self._tried = candidate.spec()
        self.policy.change(self._tried)
        start = self.sidecar.counts(self.model)
        record = uvloop.run(self._send())
        _end_gently()
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
        end = self.sidecar.counts(self.model)
        batches, rows = end.batches - start.batches, end.rows - start.rows
        return Outcome(classes, self.cost.efficiency(rows / batches if batches > 0 else 0.0))

    async def _send(self) -> Record:
        host, _, port = self.sidecar.url.rpartition(":")
        address = host.strip("[]"), int(port)
        sender = Sender(address, self.script, self.schedule, connections=self.connections)
        await sender.connect()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, sender.interrupt)
        return await sender.run(self.drain, lambda _: None)


def _end_gently() -> None:
    """Let SIGTERM end the search as Ctrl-C does, with the policy put back; an event loop that ends
    forgets that.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
