"""Spans of batches: the sidecar's process, a real Triton, and a collector that reads OTLP.

Between sidecar and Triton stands a relay that keeps the heads of what is sent. A batch is two rows,
and waits until it is full: who goes with whom is certain.
"""

import os
import re
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from triton_server import PATIENCE, TritonServer, lay_out
from tritonclient.grpc import InferenceServerClient, InferInput

from tidegate_contract import names
from tidegate_contract import table as contract
from tidegate_contract.table import Arm, BatchSettings, LoadedVersion, RoutingTable, Share
from tidegate_tools.addresses import Subnet
from tidegate_tools.api import answers
from tidegate_tools.processes import Process, Supervisor

MODEL = "echo"
RAISE = -1
MODEL_SOURCE = f"""
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        values = pb.get_input_tensor_by_name(request, "x").as_numpy()
        if (values == {RAISE}).any():
            return pb.InferenceResponse(error=pb.TritonError("it was told to raise"))
        return pb.InferenceResponse([pb.Tensor("y", values)])
"""
CONFIG = """
backend: "python" max_batch_size: 2
input [{ name: "x" data_type: TYPE_INT32 dims: [1] }]
output [{ name: "y" data_type: TYPE_INT32 dims: [1] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
_HEAD = re.compile(rb"POST /v2/models/echo/versions/1/infer HTTP/1.1\r\n(.*?)\r\n\r\n", re.DOTALL)


class Collector:
    """Takes OTLP over HTTP; ``hangs``: it accepts, and never answers."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.hangs = False
        self.asked = 0
        self._ended = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Collector"]:
        made = cls()
        thread = threading.Thread(target=made._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            made._ended.set()
            made._server.shutdown()
            made._server.server_close()
            thread.join()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        self.asked += 1
        if self.hangs:
            self._ended.wait()
            return
        for of_one in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(
                {one.key: one.value.string_value for one in of_one.resource.attributes}
            )
            self.spans += [span for scope in of_one.scope_spans for span in scope.spans]

    def of(self, *traces: int) -> list[Span]:
        """Spans that are linked to any of the traces."""
        return [span for span in list(self.spans) if set(linked(span)) & set(traces)]


def linked(span: Span) -> list[int]:
    return sorted(int.from_bytes(link.trace_id, "big") for link in span.links)


def attributes(span: Span) -> dict[str, Any]:
    kinds = {one.key: one.value.WhichOneof("value") for one in span.attributes}
    return {one.key: getattr(one.value, str(kinds[one.key])) for one in span.attributes}


def traceparent(span: Span) -> bytes:
    """Without the flags, of which others than the sampled one may be set."""
    return f"00-{span.trace_id.hex()}-{span.span_id.hex()}".encode()


class Relay:
    """Passes on to Triton what the sidecar sends, and keeps the heads of inference requests."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._sent: list[bytearray] = []
        relay = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                kept = bytearray()
                relay._sent.append(kept)
                with socket.create_connection((host, int(port))) as upstream:
                    back = threading.Thread(target=_pump, args=(upstream, self.request))
                    back.start()
                    _pump(self.request, upstream, kept)
                    back.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    @classmethod
    @contextmanager
    def running(cls, target: str) -> Iterator["Relay"]:
        made = cls(target)
        thread = threading.Thread(target=made._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            made._server.shutdown()
            made._server.server_close()
            thread.join()

    @property
    def heads(self) -> list[bytes]:
        return [head for kept in list(self._sent) for head in _HEAD.findall(bytes(kept))]

    @property
    def traceparents(self) -> set[bytes]:
        lines = (line for head in self.heads for line in head.split(b"\r\n"))
        return {line[13:-3] for line in lines if line.startswith(b"traceparent: ")}


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None = None) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept += data
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Sidecar:
    """The sidecar's process, which exports to a collector."""

    def __init__(
        self, supervisor: Supervisor, subnet: Subnet, triton: str, tables: Path, collector: str
    ) -> None:
        ip = subnet.ip(2)
        self.infer = f"http://{ip}:{names.PORT_HTTP}/v2/models/{MODEL}/infer"
        self.grpc = f"{ip}:{names.PORT_GRPC}"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "POD_NAME": "triton-0",
            "POD_UID": "uid-0",
            "POD_NAMESPACE": "default",
            "TIDEGATE_MODELS": MODEL,
            "TIDEGATE_HOST": ip,
            "TIDEGATE_TRITON": triton,
            "TIDEGATE_TRITON_METRICS": "off",
            "TIDEGATE_TABLE_DIRECTORY": str(tables),
            "TIDEGATE_DRAIN_GRACE": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        argv = [sys.executable, "-m", "tidegate_sidecar"]
        log = tables.parent / f"sidecar-{ip}.log"
        self.process: Process = supervisor.start("sidecar", argv, env=environment, log=log)
        ready = f"http://{ip}:{names.PORT_ADMIN}/readyz"
        self.process.wait_until(lambda: answers(ready), PATIENCE)

    def ask(self, *values: int, trace: str = "") -> requests.Response:
        body = {"name": "x", "datatype": "INT32", "shape": [len(values), 1], "data": values}
        headers = {"traceparent": trace} if trace else {}
        return requests.post(self.infer, json={"inputs": [body]}, headers=headers, timeout=PATIENCE)

    def call(self, *values: int, trace: str) -> Any:
        tensor = InferInput("x", [len(values), 1], "INT32")
        tensor.set_data_from_numpy(np.array(values, np.int32).reshape(-1, 1))
        with InferenceServerClient(self.grpc) as client:
            return client.infer(MODEL, [tensor], headers={"traceparent": trace})


class World:
    """All of it; ``sidecar``: the one whose collector answers."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        models = directory / "models"
        lay_out(models, MODEL, MODEL_SOURCE, CONFIG)
        self._tables = directory / "tables"
        _write_table(self._tables)
        self.server = stack.enter_context(TritonServer.running(models))
        self.relay = stack.enter_context(Relay.running(self.server.http))
        self.collector = stack.enter_context(Collector.running())
        self._stack = stack
        self.sidecar = self.start(self.collector)

    def start(self, collector: Collector) -> Sidecar:
        supervisor = self._stack.enter_context(Supervisor())
        subnet = self._stack.enter_context(Subnet.claimed())
        return Sidecar(supervisor, subnet, self.relay.address, self._tables, collector.url)

    def until(self, check: Callable[[], Any]) -> Any:
        """The first true answer."""
        deadline = time.monotonic() + PATIENCE
        while not (found := check()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return found

    def spans(self, count: int, *traces: int) -> list[Span]:
        """So many spans that are linked to the traces; in the order in which they began."""
        self.until(lambda: len(self.collector.of(*traces)) >= count)
        found = sorted(self.collector.of(*traces), key=lambda span: span.start_time_unix_nano)
        assert len(found) == count
        return found


def _write_table(directory: Path) -> None:
    settings = BatchSettings(strategy="Fixed", max_batch_size=2, max_wait=PATIENCE)
    text, digest = contract.encode(
        RoutingTable(
            namespace="default",
            model=MODEL,
            revision=1,
            split_revision=1,
            split=[Arm(name="stable", version=1, weight=10_000)],
            versions=[LoadedVersion(version=1)],
            batch=settings,
            baseline=[Share(version=1, weight=10_000)],
        )
    )
    folder = directory / names.routing_table_name(MODEL)
    folder.mkdir(parents=True)
    (folder / names.TABLE_KEY).write_text(text)
    (folder / names.DIGEST_KEY).write_text(digest)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, tmp_path_factory.mktemp("tracing"))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


def parent(trace: int, flags: str = "01") -> str:
    return f"00-{trace:032x}-{trace + 1:016x}-{flags}"


def test_requests_of_two_protocols_share_a_span(world: World, threads: ThreadPoolExecutor) -> None:
    asked: list[Future[Any]] = [
        threads.submit(world.sidecar.ask, 5, trace=parent(1)),
        threads.submit(world.sidecar.call, 6, trace=parent(2)),
    ]
    assert asked[0].result().json()["outputs"][0]["data"] == [5]
    assert asked[1].result().as_numpy("y").tolist() == [[6]]
    (span,) = world.spans(1, 1, 2)
    assert (linked(span), span.parent_span_id) == ([1, 2], b"")
    assert (span.name, span.kind) == (f"infer {MODEL}", Span.SPAN_KIND_CLIENT)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    found = attributes(span)
    assert found.pop("tidegate.batch.longest_wait") >= 0
    assert found == {
        "tidegate.model": MODEL,
        "tidegate.version": 1,
        "tidegate.arm": "stable",
        "tidegate.level": 3,
        "tidegate.batch.rows": 2,
        "tidegate.batch.requests": 2,
        "http.response.status_code": 200,
    }
    assert traceparent(span) in world.relay.traceparents
    resource = world.collector.resources[0]
    assert resource["service.name"] == "tidegate-sidecar"
    assert resource["k8s.pod.name"] == "triton-0"


def test_what_is_not_traced_has_no_span(world: World, threads: ThreadPoolExecutor) -> None:
    before = world.relay.traceparents
    sent = len(world.relay.heads)
    asked = [
        threads.submit(world.sidecar.ask, 5),
        threads.submit(world.sidecar.ask, 6, trace=parent(11, "00")),
    ]
    assert [one.result().status_code for one in asked] == [200, 200]
    assert len(world.relay.heads) == sent + 1
    assert world.relay.traceparents == before
    known = len(world.collector.spans)
    assert world.sidecar.ask(7, 8, trace=parent(12)).status_code == 200
    (span,) = world.spans(1, 12)
    assert len(world.collector.spans) == known + 1  # exported in the order in which they ended
    assert (span.trace_id, span.parent_span_id) == ((12).to_bytes(16), (13).to_bytes(8))
    assert traceparent(span) in world.relay.traceparents


def test_a_batch_that_failed_and_its_halves(world: World, threads: ThreadPoolExecutor) -> None:
    asked = [
        threads.submit(world.sidecar.ask, RAISE, trace=parent(21)),
        threads.submit(world.sidecar.ask, 6, trace=parent(22)),
    ]
    assert [one.result().status_code for one in asked] == [500, 200]
    whole, *halves = world.spans(3, 21, 22)
    assert linked(whole) == [21, 22]
    assert whole.status.code == Status.STATUS_CODE_ERROR
    assert "it was told to raise" in whole.status.message
    assert attributes(whole)["http.response.status_code"] == 500
    codes = {linked(half)[0]: half.status.code for half in halves}
    assert codes == {21: Status.STATUS_CODE_ERROR, 22: Status.STATUS_CODE_UNSET}
    told = world.relay.traceparents
    assert all(traceparent(span) in told for span in (whole, *halves))


def test_each_slice_of_a_request_is_a_batch(world: World) -> None:
    answer = world.sidecar.ask(1, 2, 3, 4, trace=parent(31)).json()
    assert answer["outputs"][0]["data"] == [1, 2, 3, 4]
    for span in world.spans(2, 31):
        assert (span.trace_id, span.parent_span_id) == ((31).to_bytes(16), (32).to_bytes(8))
        found = attributes(span)
        assert (found["tidegate.batch.rows"], found["tidegate.batch.requests"]) == (2, 1)
        assert traceparent(span) in world.relay.traceparents


def test_a_collector_that_never_answers_holds_nobody_up(world: World) -> None:
    with Collector.running() as collector:
        collector.hangs = True
        sidecar = world.start(collector)
        assert sidecar.ask(1, 2, trace=parent(41)).status_code == 200
        world.until(lambda: collector.asked)
        for _ in range(50):
            assert sidecar.ask(1, 2, trace=parent(41)).status_code == 200
        sidecar.process.signal(signal.SIGTERM)
        assert world.until(lambda: sidecar.process.poll() is not None)
        assert sidecar.process.poll() == 0
        assert "the last spans were not exported" in sidecar.process.tail()
