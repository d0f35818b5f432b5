"""The sidecar's control side on a real API server and a real Triton.

The models append their version to a file at each start, so that a version that was loaded
again without need is seen.
"""

import compileall
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from tidegate_contract import acknowledgement, names
from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import Acknowledgement
from tidegate_contract.table import (
    Arm,
    Assignment,
    BatchSettings,
    DisagreementCheck,
    Experiment,
    LoadedVersion,
    Mirror,
    Outcome,
    RoutingTable,
    Share,
)
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.api import ApiError, answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.processes import Process, Supervisor

NAMESPACE = "default"
POD_UID = "uid-0"
PATIENCE = 60.0
NO_ANSWER = 0

MODEL_SOURCE = '''
import os
import pathlib
import signal
import time

import numpy as np
import triton_python_backend_utils as pb

HERE = pathlib.Path(__file__).parent
MODEL, VERSION = HERE.parent.name, HERE.name


def told(name):
    """A file beside the source says how the version misbehaves."""
    file = HERE / name
    return file.read_text() if file.exists() else None


class TritonPythonModel:
    def initialize(self, arguments):
        with (HERE.parents[2] / f"{MODEL}.started").open("a") as log:
            log.write(f"{VERSION}\\n")
        if told("broken") is not None:
            raise RuntimeError("the weights of this version are broken")
        if told("crash") is not None:
            os.kill(os.getppid(), signal.SIGKILL)
        while told("endless") is not None:  # its load ends when the file is taken away
            time.sleep(0.05)
        self.limit = int(told("limit") or 0)
        self.no_zeros = told("no-zeros") is not None

    def execute(self, requests):
        rows = sum(len(pb.get_input_tensor_by_name(one, "X").as_numpy()) for one in requests)
        return [self.answer(one, rows) for one in requests]

    def answer(self, request, rows):
        values = pb.get_input_tensor_by_name(request, "X").as_numpy()
        if self.limit and rows > self.limit:
            return pb.InferenceResponse(error=pb.TritonError(f"no memory for {rows} rows"))
        if self.no_zeros and not values.any():
            return pb.InferenceResponse(error=pb.TritonError("the logarithm of zero"))
        return pb.InferenceResponse([pb.Tensor("Y", values * np.float32(VERSION))])
'''

CONFIG = """
backend: "python"
max_batch_size: 4
input [{ name: "X" data_type: TYPE_FP32 dims: [ 2 ] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


def eventually(check: Callable[[], Any], what: str) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := check()):
        assert time.monotonic() < deadline, f"it never came to this: {what}"
        time.sleep(0.05)
    return answer


class Models:
    """A model repository of small models, and which versions were started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "models"
        self.directory.mkdir()

    def add(self, model: str, *versions: int, config: str = CONFIG) -> None:
        (self.directory / model).mkdir()
        (self.directory / model / "config.pbtxt").write_text(config)
        for version in versions:
            place = self.directory / model / str(version)
            place.mkdir()
            (place / "model.py").write_text(MODEL_SOURCE)
        # What Python would write beside the sources would count as a change of the versions.
        compileall.compile_dir(self.directory / model, quiet=1)

    def tell(self, model: str, version: int, what: str, text: str = "") -> Path:
        file = self.directory / model / str(version) / what
        file.write_text(text)
        return file

    def started(self, model: str) -> Counter[int]:
        log = self.directory.parent / f"{model}.started"
        return Counter(map(int, log.read_text().split())) if log.exists() else Counter()


class TritonServer:
    """A real Triton on an address of its own."""

    def __init__(self, models: Models, ip: str, supervisor: Supervisor, log: Path) -> None:
        self.ip = ip
        self.models = models
        self._supervisor = supervisor
        self._log = log
        self.process: Process

    def start(self) -> None:
        launch = triton.launch(self.models.directory, self.ip)
        self.process = self._supervisor.start("triton", launch.argv, env=launch.env, log=self._log)
        url = f"http://{self.ip}:{triton.HTTP_PORT}/v2/health/live"
        self.process.wait_until(lambda: answers(url), PATIENCE)

    def versions(self, model: str) -> set[int]:
        """The versions that are ready, by its own word."""
        url = f"http://{self.ip}:{triton.HTTP_PORT}/v2/repository/index"
        rows = requests.post(url, timeout=PATIENCE).json()
        return {
            int(row["version"])
            for row in rows
            if row["name"] == model and row.get("state") == "READY"
        }

    def has(self, model: str, versions: set[int]) -> bool:
        """Whether these versions are ready, and no others."""
        return self.versions(model) == versions

    def batches(self, model: str, version: int) -> int:
        """How many batches a version has run since it was loaded, by its own word."""
        url = f"http://{self.ip}:{triton.HTTP_PORT}/v2/models/{model}/versions/{version}/stats"
        (row,) = requests.get(url, timeout=PATIENCE).json()["model_stats"]
        return int(row["execution_count"])


class Tables:
    """One model's table at the API server, written as the operator would."""

    def __init__(self, control_plane: ControlPlane, model: str) -> None:
        self._api = control_plane.api
        self.model = model
        self._name = names.routing_table_name(model)
        self._collection = f"/api/v1/namespaces/{NAMESPACE}/configmaps"

    def put(self, table: RoutingTable, digest: str | None = None) -> None:
        text, right = contract.encode(table)
        data = {names.TABLE_KEY: text, names.DIGEST_KEY: digest or right}
        body = {"metadata": {"name": self._name}, "data": data}
        try:
            self._api.request("PUT", f"{self._collection}/{self._name}", body)
        except ApiError as error:
            if error.status != 404:
                raise
            self._api.request("POST", self._collection, body)

    def delete(self) -> None:
        self._api.request("DELETE", f"{self._collection}/{self._name}")

    def make(
        self,
        revision: int,
        *baseline: int,
        others: dict[int, list[str] | None] | None = None,
    ) -> RoutingTable:
        """Equal shares of the baseline's versions; ``others`` are loaded beside them."""
        share = contract.WHOLE // len(baseline)
        rows = dict.fromkeys(baseline, None) | (others or {})
        return RoutingTable(
            namespace=NAMESPACE,
            model=self.model,
            revision=revision,
            split_revision=revision,
            split=[Arm(name="stable", version=v, weight=share) for v in baseline],
            versions=[LoadedVersion(version=v, pods=pods) for v, pods in rows.items()],
            baseline=[Share(version=v, weight=share) for v in baseline],
        )


class Sidecar:
    """The sidecar's process beside a Triton, and what it says of itself."""

    def __init__(self, server: TritonServer, model: str, directory: Path) -> None:
        self.model = model
        self.url = f"http://{server.ip}:{names.PORT_HTTP}"
        self.admin = f"http://{server.ip}:{names.PORT_ADMIN}"
        self.state = directory / "state"
        self._server = server
        self._log = directory / "sidecar.log"
        self._supervisor = Supervisor()
        self.process: Process

    def start(self, *flags: str, kubeconfig: Path | None, repository: bool = True) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "POD_NAME": "triton-0",
            "POD_UID": POD_UID,
            "POD_NAMESPACE": NAMESPACE,
            "TIDEGATE_MODELS": self.model,
            "TIDEGATE_HOST": self._server.ip,
            "TIDEGATE_TRITON": f"{self._server.ip}:{triton.HTTP_PORT}",
            "TIDEGATE_STATE_DIRECTORY": str(self.state),
            "TIDEGATE_DRAIN_GRACE": "1",
        }
        if kubeconfig:
            environment["KUBECONFIG"] = str(kubeconfig)
        if repository:
            environment["TIDEGATE_MODEL_REPOSITORY"] = str(self._server.models.directory)
        argv = [sys.executable, "-m", "tidegate_sidecar", *flags]
        self.process = self._supervisor.start("sidecar", argv, env=environment, log=self._log)
        self.process.wait_until(lambda: answers(f"{self.admin}/healthz"), PATIENCE)

    def stop(self) -> None:
        self._supervisor.stop()

    def log(self) -> str:
        return self._log.read_text()

    def readiness(self) -> tuple[int, str]:
        answer = requests.get(f"{self.admin}/readyz", timeout=PATIENCE)
        return answer.status_code, answer.text

    def acknowledged(self) -> Acknowledgement:
        answer = requests.get(f"{self.admin}/routing", timeout=PATIENCE)
        report = acknowledgement.decode(answer.content)
        assert (report.pod, report.pod_uid) == ("triton-0", POD_UID)
        return report.models[self.model]

    def until(self, check: Callable[[Acknowledgement], Any], what: str) -> Acknowledgement:
        def checked() -> Acknowledgement | None:
            said = self.acknowledged()
            return said if check(said) else None

        found: Acknowledgement = eventually(checked, what)
        return found

    def until_ready(self, revision: int, *versions: int) -> Acknowledgement:
        def check(said: Acknowledgement) -> bool:
            ready = {v for v, state in said.versions.items() if state.state == "Ready"}
            return said.revision == revision and ready == set(versions)

        return self.until(check, f"revision {revision} with versions {versions}")

    def infer(self, version: int | None = None, user: str | None = None) -> requests.Response:
        path = f"/versions/{version}" if version else ""
        values = {"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
        url = f"{self.url}/v2/models/{self.model}{path}/infer"
        headers = {"x-user": user} if user else {}
        return requests.post(url, json={"inputs": [values]}, headers=headers, timeout=PATIENCE)

    def feed_back(self, entries: Any) -> requests.Response:
        url = f"{self.url}/v2/models/{self.model}/feedback"
        return requests.post(url, json=entries, timeout=PATIENCE)

    def metrics(self) -> dict[str, float]:
        """By name and labels as they are written."""
        lines = requests.get(f"{self.admin}/metrics", timeout=PATIENCE).text.splitlines()
        rows = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}


class _GpuPage(BaseHTTPRequestHandler):
    """Triton's metrics of one GPU: its memory is as full as the server's ``used`` says."""

    def do_GET(self) -> None:
        used = self.server.used  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        for name, value in (("total", 1), ("used", used)):
            self.wfile.write(f'nv_gpu_memory_{name}_bytes{{gpu_uuid="g"}} {value}\n'.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def gpu(used: float) -> Iterator[Any]:
    """A page that says how full a GPU is; its ``used`` may be changed."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _GpuPage) as page:
        page.used = used  # type: ignore[attr-defined]
        thread = threading.Thread(target=page.serve_forever)
        thread.start()
        try:
            yield page
        finally:
            page.shutdown()
            thread.join()


@contextmanager
def traffic(sidecar: Sidecar, *versions: int) -> Iterator[Counter[tuple[int | None, int]]]:
    """Requests without a pause, by the split and to each version; counted by status."""
    seen: Counter[tuple[int | None, int]] = Counter()
    stop = threading.Event()

    def send(version: int | None) -> None:
        while not stop.is_set():
            try:
                status = sidecar.infer(version).status_code
            except requests.RequestException:
                status = NO_ANSWER
            seen[version, status] += 1

    threads = [threading.Thread(target=send, args=(one,)) for one in (None, *versions)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(seen) >= len(threads), "every kind of request was answered")
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    directory = tmp_path_factory.mktemp("triton")
    with Subnet.claimed() as subnet, Supervisor() as supervisor:
        made = TritonServer(Models(directory), subnet.ip(2), supervisor, directory / "triton.log")
        made.start()
        yield made


@pytest.fixture
def model(request: pytest.FixtureRequest, server: TritonServer) -> str:
    """A model of the test's own, versions 1 to 4."""
    name: str = request.node.name.removeprefix("test_")[:60].strip("_")
    server.models.add(name, 1, 2, 3, 4)
    return name


@pytest.fixture
def tables(control_plane: ControlPlane, model: str) -> Tables:
    return Tables(control_plane, model)


@pytest.fixture
def kubeconfig(control_plane: ControlPlane, model: str) -> Path:
    """May do what the chart lets a sidecar do: follow its table, and its two keys."""
    account = names.object_name("sidecar", model)
    control_plane.kubectl("create", "serviceaccount", account)
    for resource, name in (
        ("configmaps", names.routing_table_name(model)),
        ("secrets", names.feedback_secret_name(model)),
        ("secrets", names.pairs_secret_name(model)),
    ):
        role = f"{account}-{name}"
        rules = ["--verb=list,watch", f"--resource={resource}", f"--resource-name={name}"]
        control_plane.kubectl("create", "role", role, *rules)
        binding = [f"--role={role}", f"--serviceaccount={NAMESPACE}:{account}"]
        control_plane.kubectl("create", "rolebinding", role, *binding)
    return control_plane.kubeconfig_for_service_account(NAMESPACE, account)


@pytest.fixture
def sidecar(server: TritonServer, model: str, tmp_path: Path) -> Iterator[Sidecar]:
    made = Sidecar(server, model, tmp_path)
    yield made
    made.stop()
    url = f"http://{server.ip}:{triton.HTTP_PORT}/v2/repository/models/{model}/unload"
    requests.post(url, json={}, timeout=PATIENCE)


def test_a_pod_becomes_ready_with_its_table_and_its_versions(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path
) -> None:
    sidecar.start(kubeconfig=kubeconfig)
    assert sidecar.readiness() == (503, f"{sidecar.model}: there is no routing table\n")
    assert not answers(f"{sidecar.url}/v2/health/ready")
    tables.put(tables.make(1, 1, 2))
    said = sidecar.until_ready(1, 1, 2)
    assert said.versions[2].inputs == [acknowledgement.Tensor(name="X", datatype="FP32", shape=[2])]
    eventually(lambda: sidecar.readiness() == (200, "ready\n"), "ready")
    assert answers(f"{sidecar.url}/v2/health/ready")
    assert sidecar.infer(2).json()["outputs"][0]["data"] == [2.0, 4.0]


def test_a_pod_of_two_models_is_ready_when_both_are(
    sidecar: Sidecar, tables: Tables, server: TritonServer, control_plane: ControlPlane
) -> None:
    server.models.add("Second", 1)
    second = Tables(control_plane, "Second")
    tables.put(tables.make(1, 1))
    sidecar.start("--models", f"{sidecar.model},Second", kubeconfig=control_plane.kubeconfig)
    sidecar.until_ready(1, 1)
    waiting = (503, "Second: there is no routing table\n")
    eventually(lambda: sidecar.readiness() == waiting, "only the second model is missing")
    second.put(second.make(7, 1))
    eventually(lambda: sidecar.readiness()[0] == 200, "ready")
    assert server.versions("Second") == {1}


def test_a_third_version_loads_while_two_serve(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1, 2))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2)
    with traffic(sidecar, 1, 2) as seen:
        tables.put(tables.make(2, 1, 2, others={3: None}))
        sidecar.until_ready(2, 1, 2, 3)
        tables.put(tables.make(3, 1, 2))
        sidecar.until_ready(3, 1, 2)
        eventually(lambda: server.versions(sidecar.model) == {1, 2}, "version 3 is unloaded")
    assert {status for _, status in seen} == {200}, seen
    assert server.models.started(sidecar.model) == {1: 1, 2: 1, 3: 1}


def test_a_load_that_takes_long_keeps_no_request_waiting(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    endless = [server.models.tell(sidecar.model, version, "endless") for version in (3, 4)]
    tables.put(tables.make(1, 1, 2))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2)
    with traffic(sidecar, 1, 2) as seen:
        for version, file in zip((3, 4), endless, strict=True):
            started = server.models.started(sidecar.model)[version]
            tables.put(tables.make(version, 1, 2, others={3: None, version: None}))
            eventually(
                lambda v=version, n=started: server.models.started(sidecar.model)[v] > n,
                f"version {version} is being loaded",
            )
            before = dict(seen)
            for kind in [(None, 200), (1, 200), (2, 200)]:
                eventually(
                    lambda k=kind, b=before: seen[k] > b[k] + 50,
                    f"requests of {kind} are answered while version {version} loads",
                )
            file.unlink()
            sidecar.until_ready(version, 1, 2, *range(3, version + 1))
    assert {status for _, status in seen} == {200}, seen


def test_an_edited_table_is_refused_and_reported(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path
) -> None:
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    good = sidecar.until_ready(1, 1)
    tables.put(tables.make(2, 2), digest="0" * 64)
    said = sidecar.until(lambda said: said.refused, "the table is refused")
    assert "edited by hand" in str(said.refused)
    assert (said.revision, said.digest) == (1, good.digest)
    assert sidecar.readiness()[0] == 200
    tables.put(tables.make(3, 1))
    assert sidecar.until_ready(3, 1).refused is None


def test_a_deleted_table_stays_in_force(sidecar: Sidecar, tables: Tables, kubeconfig: Path) -> None:
    tables.put(tables.make(5, 1))
    sidecar.start(kubeconfig=kubeconfig)
    before = sidecar.until_ready(5, 1)
    tables.delete()
    eventually(lambda: "was deleted" in sidecar.log(), "the deletion is seen")
    assert sidecar.acknowledged() == before
    assert sidecar.infer().status_code == 200
    tables.put(tables.make(4, 2))
    said = sidecar.until(lambda said: said.refused, "a lower revision is refused")
    assert "revision 4 is lower than 5" in str(said.refused)
    tables.put(tables.make(6, 1))
    after = sidecar.until_ready(6, 1)
    assert after.table_uid != before.table_uid


def test_the_api_server_goes_and_comes_back(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, control_plane: ControlPlane
) -> None:
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    control_plane.stop_api_server()
    try:
        eventually(lambda: "cannot be followed" in sidecar.log(), "it is missed")
        assert sidecar.infer().status_code == 200
        assert sidecar.readiness()[0] == 200
        sidecar.stop()
        sidecar.start(kubeconfig=kubeconfig)
        assert sidecar.acknowledged().revision == 1
        eventually(lambda: sidecar.readiness()[0] == 200, "ready from its own copy")
        assert sidecar.infer().status_code == 200
    finally:
        control_plane.start_api_server()
    tables.put(tables.make(2, 1))
    sidecar.until_ready(2, 1)


def test_a_mounted_table_is_enough(sidecar: Sidecar, tables: Tables, tmp_path: Path) -> None:
    folder = tmp_path / "tables" / names.routing_table_name(sidecar.model)
    folder.mkdir(parents=True)
    text, digest = contract.encode(tables.make(3, 1))
    (folder / names.TABLE_KEY).write_text(text)
    (folder / names.DIGEST_KEY).write_text(digest)
    sidecar.start("--table-directory", str(folder.parent), kubeconfig=None)
    said = sidecar.until_ready(3, 1)
    assert said.table_uid is None
    eventually(lambda: sidecar.readiness()[0] == 200, "ready")


def test_the_api_server_overrules_the_pods_own_copy(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path
) -> None:
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    sidecar.stop()
    tables.put(tables.make(2, 2))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(2, 2)


def test_a_version_that_fails_to_load_harms_no_other(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    broken = server.models.tell(sidecar.model, 3, "broken")
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    with traffic(sidecar) as seen:
        tables.put(tables.make(2, 1, others={3: None, 4: None, 9: None}))
        said = sidecar.until(
            lambda said: (
                {3, 4, 9} <= said.versions.keys()
                and "Loading" not in {state.state for state in said.versions.values()}
            ),
            "all were tried",
        )
        assert {v: state.state for v, state in said.versions.items()} == {
            1: "Ready",
            3: "Failed",
            4: "Ready",
            9: "Failed",
        }
        assert "the weights of this version are broken" in str(said.versions[3].error)
        assert said.versions[9].error == "the version is not in the model repository"
        broken.unlink()
        tables.put(tables.make(3, 1, others={3: [POD_UID], 4: None}))
        sidecar.until_ready(3, 1, 3, 4)
    assert {status for _, status in seen} == {200}, seen
    assert server.models.started(sidecar.model)[1] == 1


def test_a_broken_baseline_version_leaves_the_other_one_serving(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    server.models.tell(sidecar.model, 2, "broken")
    tables.put(tables.make(1, 1, 2))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    status, text = sidecar.readiness()
    assert status == 503
    assert f"{sidecar.model}: version 2 is not ready: " in text
    assert sidecar.infer(1).status_code == 200


def test_a_pod_loads_when_its_turn_comes(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1, others={2: ["uid-of-another-pod"]}))
    sidecar.start(kubeconfig=kubeconfig)
    assert sidecar.until_ready(1, 1).versions.keys() == {1}
    tables.put(tables.make(2, 1, others={2: ["uid-of-another-pod", POD_UID]}))
    sidecar.until_ready(2, 1, 2)
    tables.put(tables.make(3, 1, others={2: ["uid-of-another-pod"]}))
    sidecar.until_ready(3, 1, 2)
    assert server.models.started(sidecar.model) == {1: 1, 2: 1}


def test_zeros_that_a_version_refuses_are_no_fault_and_a_batch_too_large_is(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    server.models.tell(sidecar.model, 2, "no-zeros")
    server.models.tell(sidecar.model, 3, "limit", "2")
    tables.put(tables.make(1, 1, others={2: None, 3: None}))
    sidecar.start(kubeconfig=kubeconfig)
    said = sidecar.until(
        lambda said: 3 in said.versions and said.versions[3].error, "version 3 failed"
    )
    assert said.versions[2].state == "Ready"
    assert said.versions[3].error == "warm-up with a batch of 4: no memory for 4 rows"
    assert server.versions(sidecar.model) == {1, 2}


def test_a_sidecar_that_restarts_finds_its_versions_as_they_are(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1, others={2: None, 3: None}))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2, 3)
    sidecar.stop()
    tables.put(tables.make(2, 1, others={2: ["uid-of-another-pod"], 4: None}))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(2, 1, 2, 4)
    eventually(lambda: server.versions(sidecar.model) == {1, 2, 4}, "version 3 is unloaded")
    assert server.models.started(sidecar.model) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_without_the_repository_triton_is_asked_for_the_configuration(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig, repository=False)
    sidecar.until_ready(1, 1)
    tables.put(tables.make(2, 1, others={2: None}))
    sidecar.until_ready(2, 1, 2)
    # Version 4, the highest on disk, is what config.pbtxt means without a policy of its own.
    assert server.models.started(sidecar.model) == {4: 1, 1: 1, 2: 1}
    assert server.versions(sidecar.model) == {1, 2}


def test_versions_keep_the_shapes_that_triton_completed_for_each(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    completing = textwrap.indent(
        textwrap.dedent(
            """
            @staticmethod
            def auto_complete_config(config):
                size = 3 if VERSION == "4" else 2
                config.add_input({"name": "X", "data_type": "TYPE_FP32", "dims": [size]})
                config.add_output({"name": "Y", "data_type": "TYPE_FP32", "dims": [size]})
                return config
            """
        ),
        "    ",
    )
    folder = server.models.directory / sidecar.model
    (folder / "config.pbtxt").write_text('backend: "python"\nmax_batch_size: 4\n')
    for source in folder.glob("*/model.py"):
        source.write_text(MODEL_SOURCE + completing)
    compileall.compile_dir(folder, quiet=1, force=True)
    tables.put(tables.make(1, 1, others={4: None}))
    sidecar.start(kubeconfig=kubeconfig)
    said = sidecar.until_ready(1, 1, 4)
    assert [said.versions[version].inputs[0].shape for version in (1, 4)] == [[2], [3]]
    assert server.models.started(sidecar.model) == {1: 1, 4: 1}


def test_a_version_is_unloaded_without_a_reload_of_the_others(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1, others={2: None, 3: None}))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2, 3)
    with traffic(sidecar) as seen:
        batches = [server.batches(sidecar.model, 1)]
        for revision, others in ((2, [3]), (3, []), (4, [2]), (5, [])):
            tables.put(tables.make(revision, 1, others=dict.fromkeys(others)))
            sidecar.until_ready(revision, 1, *others)
            wanted = {1, *others}
            eventually(partial(server.has, sidecar.model, wanted), f"it has {wanted} alone")
            batches.append(server.batches(sidecar.model, 1))
    assert batches == sorted(batches)  # a version that is loaded again begins to count anew
    assert {status for _, status in seen} == {200}, seen
    assert server.models.started(sidecar.model) == {1: 1, 2: 2, 3: 1}


def test_versions_that_nobody_declared_are_told(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path
) -> None:
    tables.put(tables.make(1, 1, others={2: None}))
    sidecar.start(kubeconfig=kubeconfig)
    # Until it has its table, nobody has declared any to it.
    sidecar.until(lambda said: said.undeclared == [3, 4], "they are found")
    tables.put(tables.make(2, 1, others={3: None}))
    assert sidecar.until_ready(2, 1, 3).undeclared == [2, 4]


def test_how_it_batches_is_told(sidecar: Sidecar, tables: Tables, kubeconfig: Path) -> None:
    def batched(revision: int, strategy: str) -> None:
        settings = BatchSettings(strategy=strategy, max_wait=0.0)
        tables.put(msgspec.structs.replace(tables.make(revision, 1), batch=settings))

    batched(1, "learned")
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    for _ in range(30):
        assert sidecar.infer().ok
    live = sidecar.until_ready(1, 1).live
    assert live is not None
    assert (live.strategy, live.batch_size, live.queue_length, live.dropped) == (
        "Adaptive",
        1,
        0,
        0,
    )
    assert any("learned is not installed" in note for note in live.notes)
    assert live.p99 is not None
    assert live.fixed_seconds is not None
    assert live.seconds_per_row is not None
    assert live.fixed_seconds + live.seconds_per_row > 0
    batched(2, "Fixed")
    live = sidecar.until_ready(2, 1).live
    assert live is not None
    assert (live.strategy, live.notes) == ("Fixed", [])


def test_who_names_a_version_is_told(sidecar: Sidecar, tables: Tables, kubeconfig: Path) -> None:
    tables.put(tables.make(1, 1, others={2: None}))
    sidecar.start(kubeconfig=kubeconfig)
    assert sidecar.until_ready(1, 1, 2).direct_at == {}
    started = time.time()
    sidecar.infer()
    assert sidecar.infer(2).status_code == 200
    (at,) = sidecar.acknowledged().direct_at.items()
    assert at[0] == 2
    assert started - 1 < at[1] < time.time() + 1  # the clocks that are compared tick in ms


def test_feedback_on_a_tests_answers(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, control_plane: ControlPlane
) -> None:
    running = msgspec.structs.replace(
        tables.make(1, 1, others={2: None}),
        split=[
            Arm(name="control", version=1, weight=5_000),
            Arm(name="treatment", version=2, weight=5_000),
        ],
        assignment=Assignment(header="x-user", salt="uid", unassigned=1),
        experiment=Experiment(uid="uid", outcomes=[Outcome(name="accuracy", kind="Binary")]),
    )
    tables.put(running)
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2)
    assert names.HEADER_FEEDBACK not in sidecar.infer(user="anna").headers
    assert sidecar.feed_back({"token": "x", "correct": True}).status_code == 503
    secret = names.feedback_secret_name(sidecar.model)
    control_plane.kubectl(
        "create", "secret", "generic", secret, "--from-literal=key=0123456789abcdef"
    )
    eventually(lambda: names.HEADER_FEEDBACK in sidecar.infer(user="anna").headers, "a token")
    assert names.HEADER_FEEDBACK not in sidecar.infer().headers
    assert sidecar.infer().headers[names.HEADER_ARM] == names.ARM_UNASSIGNED

    answers_ = [sidecar.infer(user=f"user-{i}") for i in range(40)]
    arms = Counter(answer.headers[names.HEADER_ARM] for answer in answers_)
    tokens = [answer.headers[names.HEADER_FEEDBACK] for answer in answers_]
    for kind in (tokens[:1], tokens[1:]):
        entries = [{"token": token, "correct": True} for token in kind]
        assert sidecar.feed_back(entries).json() == {"accepted": len(kind), "refused": []}
    # Another start of the pod takes the tokens of the last one, and forgets what it took.
    sidecar.stop()
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2)
    eventually(lambda: names.HEADER_FEEDBACK in sidecar.infer(user="anna").headers, "a token")
    again = [{"token": token, "correct": True} for token in tokens]
    forged = {"token": tokens[0][:-1] + ("A" if tokens[0][-1] != "A" else "B"), "correct": True}
    receipt = sidecar.feed_back([*again, again[0], forged]).json()
    assert receipt == {
        "accepted": 40,
        "refused": [{"index": 40, "reason": "used"}, {"index": 41, "reason": "forged"}],
    }
    shown = sidecar.metrics()
    for arm in (names.ARM_CONTROL, names.ARM_TREATMENT):
        counted = sum(
            value
            for series, value in shown.items()
            if series.startswith(f"{names.METRIC_FEEDBACK}_count_total{{") and f'"{arm}"' in series
        )
        assert counted == arms[arm] > 0
    users = sidecar.acknowledged().users
    assert users is not None
    assert users.arms.keys() <= arms.keys()
    tables.put(tables.make(2, 1, others={2: None}))
    sidecar.until_ready(2, 1, 2)
    assert sidecar.feed_back(again).status_code == 409


def test_pairs_of_shadows_are_kept_while_there_is_a_token(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, control_plane: ControlPlane
) -> None:
    def pairs(token: str) -> requests.Response:
        url = f"{sidecar.admin}/pairs?model={sidecar.model}"
        return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE)

    mirrored = msgspec.structs.replace(
        tables.make(1, 1, others={2: None}),
        mirror=Mirror(version=2, weight=10_000),
        checks=[DisagreementCheck(id="agreement@1", tolerance=0.001)],
    )
    tables.put(mirrored)
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2)
    assert sidecar.infer().headers[names.HEADER_VERSION] == "1"
    assert pairs("sesame").status_code == 404
    secret = names.pairs_secret_name(sidecar.model)
    control_plane.kubectl("create", "secret", "generic", secret, "--from-literal=token=sesame")
    eventually(lambda: pairs("sesame").ok, "the pairs are open")
    assert pairs("mustard").status_code == 403
    sidecar.infer()
    (pair,) = eventually(lambda: pairs("sesame").json()["pairs"], "a pair is kept")
    assert pair["request"]["X"]["data"] == pair["stable"]["Y"]["data"] == [1, 2]
    assert pair["canary"]["Y"]["data"] == [2, 4]
    disagreed = f'tidegate_mirror_total{{arm="shadow",model="{sidecar.model}",outcome="disagreed"'
    shown = sidecar.metrics()
    assert sum(value for series, value in shown.items() if series.startswith(disagreed)) == 2
    bad = [value for series, value in shown.items() if series.startswith(names.METRIC_CHECK_BAD)]
    assert sum(bad) == 2
    control_plane.kubectl("delete", "secret", secret)
    eventually(lambda: pairs("sesame").status_code == 404, "the pairs are gone")


def test_a_model_without_a_table_is_left_alone(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    server.models.add("bystander", 1, 2)
    loaded = f"http://{server.ip}:{triton.HTTP_PORT}/v2/repository/models/bystander/load"
    requests.post(loaded, json={}, timeout=PATIENCE).raise_for_status()
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    assert server.versions("bystander") == {2}


def test_triton_is_killed_and_comes_back_with_the_right_versions(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1, 2, others={3: None}))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1, 2, 3)
    server.process.kill()
    try:
        eventually(lambda: "Triton does not answer" in sidecar.readiness()[1], "it is missed")
        assert sidecar.infer().status_code == 503
        tables.put(tables.make(2, 2, others={3: None}))
    finally:
        server.start()
    sidecar.until_ready(2, 2, 3)
    eventually(lambda: sidecar.readiness()[0] == 200, "ready")
    assert server.versions(sidecar.model) == {2, 3}
    metrics = requests.get(f"{sidecar.admin}/metrics", timeout=PATIENCE).text
    assert f'tidegate_triton_restarts_total{{model="{sidecar.model}"}} 1.0' in metrics


def test_a_version_that_takes_triton_down_is_left_alone_after_the_second_time(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    server.models.tell(sidecar.model, 3, "crash")
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    tables.put(tables.make(2, 1, others={3: None, 4: None}))
    for _ in range(2):
        eventually(lambda: not server.process.alive, "Triton died")
        server.start()
    said = sidecar.until_ready(2, 1, 4)
    assert "Triton went away" in str(said.versions[3].error)
    assert server.models.started(sidecar.model)[3] == 2


def test_a_sidecar_ends_well_when_it_is_told_to(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path
) -> None:
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    sidecar.until_ready(1, 1)
    sidecar.process.signal(signal.SIGTERM)
    assert eventually(lambda: not sidecar.process.alive, "it ended")
    assert sidecar.process.poll() == 0


def test_a_wrong_setting_ends_it_with_one_message() -> None:
    environment = {"PATH": os.environ["PATH"], "POD_NAME": "triton-0"}
    ended = subprocess.run(
        [sys.executable, "-m", "tidegate_sidecar"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    assert ended.stderr.endswith("error: --models or TIDEGATE_MODELS must be given\n")


def test_short_memory_makes_batches_smaller_and_loads_wait(
    sidecar: Sidecar, tables: Tables, kubeconfig: Path, server: TritonServer
) -> None:
    tables.put(tables.make(1, 1))
    sidecar.start(kubeconfig=kubeconfig)
    eventually(lambda: "Triton's metrics name no GPU" in sidecar.log(), "Triton was asked")
    sidecar.stop()
    with gpu(0.95) as page:
        sidecar.start(f"--triton-metrics=127.0.0.1:{page.server_port}", kubeconfig=kubeconfig)
        sidecar.until_ready(1, 1)
        said = sidecar.until(lambda said: said.live and said.live.notes, "batches are smaller")
        assert said.live
        assert "GPU memory is 95% used" in said.live.notes[0]
        tables.put(tables.make(2, 1, others={2: None}))
        said = sidecar.until(lambda said: said.revision == 2, "the table is here")
        reason = "it waits for memory: GPU memory is 95% used"
        assert said.versions[2] == acknowledgement.VersionState(state="Loading", error=reason)
        assert sidecar.infer().status_code == 200
        assert server.models.started(sidecar.model)[2] == 0
        page.used = 0.2
        sidecar.until_ready(2, 1, 2)
