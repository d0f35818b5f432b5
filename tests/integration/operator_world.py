"""A namespace with an operator of its own, and pods that do as sidecars do but carry no traffic.

The operator is the real process under the chart's role, Prometheus and the API server are real.
The pods are HTTP servers on loopback addresses of their own: they adopt tables by the sidecar's
own rule, acknowledge them, and count as many requests as the table's weights say. Several models
share them.
"""

import contextlib
import http.client
import http.server
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import yaml

from tidegate_contract import names
from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import (
    Acknowledgement,
    BatchLive,
    PodReport,
    Tensor,
    VersionState,
)
from tidegate_contract.table import ErrorCheck, RoutingTable
from tidegate_sidecar.core.adoption import Adoption, Shown
from tidegate_tools import binaries
from tidegate_tools.addresses import Subnet, free_port
from tidegate_tools.api import MERGE_PATCH, Api, ApiError, answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.pods import ScrapeTargets
from tidegate_tools.processes import Process, Supervisor
from tidegate_tools.prometheus import Prometheus

ROOT = Path(__file__).parents[2]
SYSTEM, RELEASE = "operator-tests", "tidegate-tests"
GROUP = f"/apis/{names.GROUP}/{names.API_VERSION}/namespaces"
PODS = 2
PATIENCE = 60.0
FOLLOW_SECONDS = 0.05
WATCH_SECONDS = 10.0
"""Without an event for so long, tables are listed again."""
_worlds = itertools.count(1)

Raw = dict[str, Any]
TENSOR = Tensor(name="INPUT", datatype="FP32", shape=[64])


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value; an error that says what was awaited when patience is over."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:g}s"
        time.sleep(0.05)
    return found


@dataclass
class Model:
    """How a model's versions behave in every pod."""

    rate: float = 200.0
    errors: dict[int, float] = field(default_factory=dict)
    load_error: dict[int, str] = field(default_factory=dict)
    tensors: dict[int, list[Tensor]] = field(default_factory=dict)
    batching: BatchLive | None = None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class StandIn:
    """One pod: follows the tables that it is shown and counts what they send its way."""

    def __init__(self, name: str, namespace: str, address: str, models: dict[str, Model]) -> None:
        self.name, self.namespace, self.address = name, namespace, address
        self.uid = ""
        self.ready = False
        self.scrapable = True
        self.served: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._models = models
        self._adoptions: dict[str, Adoption] = {}
        self._offered: dict[str, Shown] = {}
        self._counters: defaultdict[tuple[str, str, str, str], float] = defaultdict(float)
        self._lock = threading.Lock()
        self._server = _Server((address, names.PORT_ADMIN), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def follow(self, model: str, shown: Shown, seconds: float) -> None:
        """Adopt what is shown, and serve the requests of some seconds."""
        with self._lock:
            adoption = self._adoptions.setdefault(model, Adoption(self.namespace, model))
            if self._offered.get(model) != shown:
                self._offered[model] = shown
                adoption.offer(shown)
            if adoption.table is not None:
                self.ready = True
                self._serve(model, adoption.table, seconds)

    def restart(self) -> None:
        """Count from zero again, as a sidecar that was restarted does."""
        with self._lock:
            self._counters.clear()

    def _serve(self, model: str, table: RoutingTable, seconds: float) -> None:
        behaviour = self._models[model]
        for arm in table.split:
            requests = behaviour.rate / PODS * arm.weight / contract.WHOLE * seconds
            self.served[model, arm.name] += requests
        for check in table.checks:
            for name in (names.ARM_STABLE, names.ARM_CANARY):
                for counts in ("requests", "bad"):
                    self._counters[model, name, check.id, counts] += 0.0
            for arm in table.split:
                requests = behaviour.rate / PODS * arm.weight / contract.WHOLE * seconds
                share = behaviour.errors.get(arm.version, 0.0)
                bad = requests * share if isinstance(check, ErrorCheck) else 0.0
                self._counters[model, arm.name, check.id, "requests"] += requests
                self._counters[model, arm.name, check.id, "bad"] += bad

    def _report(self) -> bytes:
        with self._lock:
            models = {model: self._acknowledgement(model) for model in self._adoptions}
        report = PodReport(pod=self.name, pod_uid=self.uid, ready=self.ready, models=models)
        return msgspec.json.encode(report)

    def _acknowledgement(self, model: str) -> Acknowledgement:
        adoption = self._adoptions[model]
        if adoption.table is None or adoption.applied is None:
            return Acknowledgement(refused=adoption.refused)
        rows = adoption.table.versions
        wanted = [row.version for row in rows if row.pods is None or self.uid in row.pods]
        return Acknowledgement(
            table_uid=adoption.applied.uid,
            revision=adoption.table.revision,
            digest=adoption.applied.digest,
            refused=adoption.refused,
            versions={version: self._state(model, version) for version in wanted},
            live=self._models[model].batching,
        )

    def _state(self, model: str, version: int) -> VersionState:
        behaviour = self._models[model]
        if version in behaviour.load_error:
            return VersionState(state="Failed", error=behaviour.load_error[version])
        tensors = behaviour.tensors.get(version, [TENSOR])
        return VersionState(state="Ready", inputs=tensors, outputs=[TENSOR])

    def _metrics(self) -> bytes:
        with self._lock:
            lines = [
                f'tidegate_check_{counts}_total{{model="{model}",arm="{arm}",check="{check}",'
                f'priority="3"}} {int(value)}\n'
                for (model, arm, check, counts), value in self._counters.items()
            ]
        return "".join(lines).encode()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        pod, pages = self, {"/routing": self._report, "/metrics": self._metrics}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = pages[self.path]()
                self.send_response(200 if pod.scrapable or self.path != "/metrics" else 503)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


class Tables:
    """The routing tables of a namespace, as a watch shows them; a deletion is not taken in."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.shown: dict[str, Shown] = {}
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._query = {"labelSelector": names.LABEL_MODEL}
        self._ended = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._connection is not None and self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(ApiError, OSError, http.client.HTTPException):
                listed = self._api.request("GET", self._url())
                for raw in listed["items"]:
                    self._take(raw)
                self._watch(listed["metadata"]["resourceVersion"])
            self._ended.wait(FOLLOW_SECONDS)

    def _watch(self, version: str) -> None:
        server = self._api.server.removeprefix("https://")
        self._connection = http.client.HTTPSConnection(
            server, context=self._api.context, timeout=WATCH_SECONDS
        )
        with contextlib.closing(self._connection) as connection:
            authorization = {"Authorization": f"Bearer {self._api.token}"}
            url = self._url(watch="true", resourceVersion=version)
            connection.request("GET", url, headers=authorization)
            for line in connection.getresponse():
                event = json.loads(line)
                if event["type"] == "ERROR" or self._ended.is_set():
                    return
                if event["type"] != "DELETED":
                    self._take(event["object"])

    def _url(self, **more: str) -> str:
        return f"{self._path}?{urllib.parse.urlencode({**self._query, **more})}"

    def _take(self, raw: Raw) -> None:
        self.shown[raw["metadata"]["labels"][names.LABEL_MODEL]] = Shown(
            text=raw["data"].get(names.TABLE_KEY, ""),
            digest=raw["data"].get(names.DIGEST_KEY, ""),
            uid=raw["metadata"]["uid"],
        )


class Fleet:
    """The pods of a namespace, and the thread that makes them follow its tables."""

    def __init__(self, api: Api, namespace: str, targets: ScrapeTargets, subnet: Subnet) -> None:
        self._api, self._namespace, self._targets = api, namespace, targets
        self._tables = Tables(api, namespace)
        self.models: defaultdict[str, Model] = defaultdict(Model)
        self.pods = [
            StandIn(f"triton-{n}", namespace, subnet.ip(n + 1), self.models) for n in range(PODS)
        ]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        for pod in self.pods:
            self._create(pod)
            self._targets.put(self._namespace, pod.name, f"{pod.address}:{names.PORT_ADMIN}")
        self._tables.start()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._tables.stop()
        for pod in self.pods:
            self._targets.remove(self._namespace, pod.name)
            pod.close()

    def served(self, model: str, arm: str) -> float:
        """Requests of an arm so far, by the pods' own books."""
        return sum(pod.served[model, arm] for pod in self.pods)

    def _create(self, pod: StandIn) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        manifest = {
            "metadata": {"name": pod.name, "labels": {"app": "stand-in"}},
            "spec": {
                "schedulingGates": [{"name": "tidegate.dev/stand-in"}],
                "automountServiceAccountToken": False,
                "containers": [{"name": "sidecar", "image": "stand-in"}],
            },
        }
        pod.uid = self._api.request("POST", path, manifest)["metadata"]["uid"]
        self._tell(pod, ready=False)

    def _tell(self, pod: StandIn, *, ready: bool) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": now}
        status = {"phase": "Running", "podIP": pod.address, "conditions": [condition]}
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod.name}/status"
        self._api.request("PATCH", path, {"status": status}, content_type=MERGE_PATCH)

    def _follow(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(FOLLOW_SECONDS):
            now = time.monotonic()
            for model, table in list(self._tables.shown.items()):
                for pod in self.pods:
                    ready = pod.ready
                    pod.follow(model, table, now - last)
                    if pod.ready and not ready:
                        self._tell(pod, ready=True)
            last = now


class Operator:
    """The operator's process, confined to one namespace."""

    def __init__(self, kubeconfig: Path, prometheus: str, namespace: str, log: Path) -> None:
        self._supervisor = Supervisor()
        self._kubeconfig, self._namespace = kubeconfig, namespace
        self.prometheus = prometheus
        self.scrape_interval = "1s"
        self.log = log
        self.port = free_port()
        self.process: Process

    def start(self, kubeconfig: Path | None = None) -> None:
        argv = [sys.executable, "-m", "tidegate_operator", f"--prometheus-url={self.prometheus}"]
        argv += [f"--scrape-interval={self.scrape_interval}", f"--namespace={self._namespace}"]
        argv += [f"--listen=127.0.0.1:{self.port}"]
        env = {**os.environ, "KUBECONFIG": str(kubeconfig or self._kubeconfig)}
        env |= {"NO_PROXY": "127.0.0.0/8", "no_proxy": "127.0.0.0/8"}
        self.process = self._supervisor.start("operator", argv, env=env, log=self.log)

    def kill(self) -> None:
        self.process.kill()

    @property
    def healthy(self) -> bool:
        return answers(f"http://127.0.0.1:{self.port}/healthz")

    def stop(self) -> None:
        self._supervisor.stop()


class World:
    """One namespace with everything in it. Its name is ``name`` and a number: never used twice."""

    def __init__(
        self, plane: ControlPlane, prometheus: Prometheus, targets: ScrapeTargets, name: str
    ) -> None:
        self.plane, self.prometheus = plane, prometheus
        self.namespace = f"{name}-{next(_worlds)}"
        self._stack = contextlib.ExitStack()
        self._targets = targets
        self.kubeconfig = plane.kubeconfig_for_service_account(SYSTEM, RELEASE)

    def __enter__(self) -> Self:
        self.plane.kubectl("create", "namespace", self.namespace)
        self.plane.wait_for_service_account(self.namespace, "default")
        subnet = self._stack.enter_context(Subnet.claimed())
        self.fleet = Fleet(self.plane.api, self.namespace, self._targets, subnet)
        self._stack.callback(self.fleet.stop)
        self.fleet.start()
        until(self._is_scraped, "every pod is scraped: before that, rollouts hold for want of data")
        self.operator = self.new_operator("operator")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _is_scraped(self) -> bool:
        return self.read(f'sum(up{{namespace="{self.namespace}"}})') == len(self.fleet.pods)

    def read(self, query: str, at: float | None = None) -> float:
        """The one number that Prometheus itself answers with, now or then; 0 for none."""
        parameters = {"query": query, **({} if at is None else {"time": str(at)})}
        url = f"{self.prometheus.url}/api/v1/query?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            rows = json.load(answer)["data"]["result"]
        return float(rows[0]["value"][1]) if rows else 0.0

    def new_operator(self, name: str) -> Operator:
        log = self.plane.directory / "logs" / f"{self.namespace}-{name}.log"
        operator = Operator(self.kubeconfig, self.prometheus.url, self.namespace, log)
        self._stack.callback(operator.stop)
        return operator

    def model(self, name: str) -> Model:
        return self.fleet.models[name]

    # What a user does.

    def apply(self, kind: str, name: str, **spec: Any) -> None:
        manifest = {
            "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def versions(self, model: str, *others: int) -> None:
        """Version 1 has the traffic, the others are there."""
        self.fleet.models[model]
        selector = {"matchLabels": {"app": "stand-in"}}
        for number in (1, *others):
            extra = {"lifecycle": "Active", "trafficPercent": 100} if number == 1 else {}
            spec = {"model": model, "version": number, "podSelector": selector, **extra}
            self.apply("ModelVersion", f"{model}-{number}", **spec)

    def rollout(self, name: str, model: str, canary: int = 2, **spec: Any) -> None:
        plan: Raw = {"initialPercent": 50, "stepPercent": 25, "stepDuration": "2s"}
        plan = {} if "steps" in spec else plan
        analysis = {"interval": "1s", "warmup": "0s", "minRequests": 20, "ackTimeout": "10s"}
        self.apply(
            "CanaryRollout",
            name,
            **{"model": model, "canaryVersion": canary, "analysis": analysis, **plan, **spec},
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    # What is there.

    def get(self, plural: str, name: str) -> Raw:
        return self.plane.api.request("GET", f"{GROUP}/{self.namespace}/{plural}/{name}")

    def status(self, name: str, plural: str = "canaryrollouts") -> Raw:
        status: Raw = self.get(plural, name).get("status", {})
        return status

    def condition(self, plural: str, name: str, type_: str) -> Raw:
        conditions = self.status(name, plural).get("conditions", [])
        return next((one for one in conditions if one["type"] == type_), {"status": ""})

    def await_phase(
        self, name: str, *phases: str, plural: str = "canaryrollouts", patience: float = PATIENCE
    ) -> Raw:
        def there() -> Raw | None:
            status = self.status(name, plural)
            return status if status.get("phase") in phases else None

        found: Raw = until(there, f"{plural} {name} in {' or '.join(phases)}", patience)
        return found

    def weights(self, name: str) -> list[int]:
        """The canary's shares that the history names, each once."""
        found = [entry["weight"] for entry in self.status(name)["history"]]
        return [one for one, before in zip(found, [None, *found], strict=False) if one != before]

    def events(self, name: str) -> list[Raw]:
        path = f"/api/v1/namespaces/{self.namespace}/events"
        query = f"?fieldSelector=involvedObject.name={name}"
        items: list[Raw] = self.plane.api.request("GET", path + query)["items"]
        return sorted(items, key=lambda one: int(one["metadata"]["resourceVersion"]))

    def reasons(self, name: str) -> list[str]:
        return [one["reason"] for one in self.events(name)]

    def await_reasons(self, name: str, *reasons: str) -> None:
        """All events of an object, in order; they are posted a moment after its status."""
        until(lambda: self.reasons(name) == list(reasons), f"events {reasons} of {name}")

    def config_map(self, model: str) -> Raw:
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{names.routing_table_name(model)}"
        return self.plane.api.request("GET", path)

    def table(self, model: str) -> RoutingTable:
        data = self.config_map(model)["data"]
        return contract.decode(data[names.TABLE_KEY], data[names.DIGEST_KEY])

    def await_table(self, model: str, such: Callable[[RoutingTable], Any]) -> RoutingTable:
        """The table once it is there and such; the API server may be away meanwhile."""

        def there() -> RoutingTable | None:
            with contextlib.suppress(ApiError):
                table = self.table(model)
                return table if such(table) else None
            return None

        found: RoutingTable = until(there, f"the table of {model}")
        return found

    def await_weight(self, model: str, percent: int) -> None:
        self.await_table(model, lambda table: weight(table) == percent)


def weight(table: RoutingTable) -> int:
    """The canary's share in percent."""
    return sum(arm.weight for arm in table.split if arm.name == names.ARM_CANARY) // 100


def install(plane: ControlPlane) -> None:
    """What the chart ships but its Deployment: kinds, service account, roles."""
    chart = ROOT / "charts" / "tidegate"
    rendered = subprocess.run(
        [
            binaries.ensure("helm"),
            *("template", RELEASE, chart, f"--namespace={SYSTEM}"),
            "--set=image.repository=none,prometheus.url=http://none",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    wanted = [one for one in yaml.safe_load_all(rendered) if one and one["kind"] != "Deployment"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    text = yaml.safe_dump_all([namespace, *wanted])
    # CRDs may be there already, as other tests apply them; theirs are the same.
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    crds = [one["metadata"]["name"] for one in wanted if one["kind"] == "CustomResourceDefinition"]
    plane.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in crds))
    plane.wait_for_service_account(SYSTEM, RELEASE)


@contextlib.contextmanager
def observed(plane: ControlPlane, directory: Path) -> Iterator[tuple[Prometheus, ScrapeTargets]]:
    """A Prometheus that scrapes all namespaces' pods every half second."""
    targets = ScrapeTargets(directory / "targets.json")
    with Prometheus(
        directory / "prometheus", sidecars=targets.path, scrape_interval_ms=500
    ) as prometheus:
        yield prometheus, targets
