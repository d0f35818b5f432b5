"""A/B tests end to end: API server, Prometheus, operator, two sidecars, each with a real Triton.

Users ask for a number and say whether it was right. Version 1 is right for most, version 2 for
nearly all; version 3 as well, but it fails some of the requests.
"""

import compileall
import contextlib
import json
import random
import sys
import threading
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from operator_world import Operator, World, install, observed, until

from tidegate_contract import names
from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.pods import Container, LocalPod
from tidegate_tools.processes import Launch

MODEL, USER = "digits", "x-user-id"
SIDECARS, USERS, CLIENTS = 2, 3000, 6
FAILS = 0.4
PATIENCE = 150.0
RIGHT = {1: 0.55, 2: 0.95, 3: 0.95}

SOURCE = f"""
import random

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if self.version == 3 and random.random() < {FAILS}:
            return pb.InferenceResponse(error=pb.TritonError("out of luck"))
        x = pb.get_input_tensor_by_name(request, "X").as_numpy()
        return pb.InferenceResponse([pb.Tensor("Y", x * np.float32(self.version))])
"""

CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""


class Clients:
    """Users who ask whichever pod, and rate what they got by the token that came with it."""

    def __init__(self, addresses: list[str]) -> None:
        self._urls = [
            f"http://{address}:{names.PORT_HTTP}/v2/models/{MODEL}" for address in addresses
        ]
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(CLIENTS)
        ]
        self.versions: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self.tokens: list[str] = []
        self.accepted = self.answered = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def feed_back(self, entries: Any) -> requests.Response:
        return requests.post(f"{self._urls[0]}/feedback", json=entries, timeout=PATIENCE)

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
        with requests.Session() as session:
            while not self._ended.is_set():
                rated = []
                with contextlib.suppress(requests.RequestException):
                    for _ in range(20):
                        rated += self._ask(session, chance, body)
                    url = f"{chance.choice(self._urls)}/feedback"
                    if rated:
                        answer = session.post(url, json=rated, timeout=PATIENCE)
                        if answer.ok:
                            self.accepted += answer.json()["accepted"]

    def _ask(self, session: requests.Session, chance: random.Random, body: Any) -> list[Any]:
        user = f"user-{chance.randrange(USERS)}"
        url = f"{chance.choice(self._urls)}/infer"
        answer = session.post(url, json=body, headers={USER: user}, timeout=PATIENCE)
        if not answer.ok:
            return []
        self.answered += 1
        version, arm = answer.headers[names.HEADER_VERSION], answer.headers[names.HEADER_ARM]
        token = answer.headers.get(names.HEADER_FEEDBACK)
        if token is None:
            return []
        self.versions[user].add((version, arm))
        self.tokens.append(token)
        return [{"token": token, "correct": chance.random() < RIGHT[int(version)]}]


class Scene:
    """A namespace with an operator, two pods and their users."""

    def __init__(self, world: World, clients: Clients, prometheus: str) -> None:
        self.world, self.clients, self._prometheus = world, clients, prometheus

    def apply(self, name: str, treatment: int, **spec: Any) -> None:
        whole = {
            "model": MODEL,
            "controlVersion": 1,
            "treatmentVersion": treatment,
            "assignment": {"header": USER},
            "duration": "10m",
            "minSamples": 200,
            "successMetrics": [{"name": "accuracy", "feedback": {"kind": "Binary"}}],
            **spec,
        }
        self.world.apply("ABTest", name, **whole)

    def ask_prometheus(self, query: str) -> dict[str, float]:
        """By the only label that is left."""
        url = f"{self._prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            rows = json.load(answer)["data"]["result"]
        return {next(iter(row["metric"].values())): float(row["value"][1]) for row in rows}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("abtest") / "models"
    for version in RIGHT:
        folder = directory / MODEL / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(SOURCE)
    (directory / MODEL / "config.pbtxt").write_text(CONFIG)
    compileall.compile_dir(directory, quiet=1)
    return directory


def containers(models: Path, address: str, kubeconfig: Path, state: Path) -> list[Container]:
    sidecar = (
        *(sys.executable, "-m", "tidegate_sidecar", f"--models={MODEL}", f"--host={address}"),
        f"--triton={address}:{triton.HTTP_PORT}",
        f"--model-repository={models}",
        f"--state-directory={state}",
    )
    return [
        Container("sidecar", "sidecar", Launch(sidecar, {"KUBECONFIG": str(kubeconfig)})),
        Container("triton", "triton", triton.launch(models, address)),
    ]


@pytest.fixture(scope="module")
def tested(
    control_plane: ControlPlane, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    install(control_plane)
    directory = tmp_path_factory.mktemp("tested")
    with contextlib.ExitStack() as stack:
        prometheus, targets = stack.enter_context(observed(control_plane, directory))
        subnet = stack.enter_context(Subnet.claimed())
        world = World(control_plane, prometheus, targets, "tested")
        control_plane.kubectl("create", "namespace", world.namespace)
        control_plane.wait_for_service_account(world.namespace, "default")
        addresses = [subnet.ip(number + 1) for number in range(SIDECARS)]
        log = directory / "operator.log"
        operator = Operator(world.kubeconfig, prometheus.url, world.namespace, log)
        stack.callback(operator.stop)
        operator.start()
        for number, address in enumerate(addresses):
            pod = LocalPod(
                control_plane.api,
                f"triton-{number}",
                address,
                containers(
                    models, address, control_plane.kubeconfig, directory / f"state-{number}"
                ),
                directory=directory / "pods",
                namespace=world.namespace,
                labels={names.LABEL_MODEL: MODEL},
                targets=targets,
            )
            stack.enter_context(pod)
        for number in RIGHT:
            active = {"lifecycle": "Active", "trafficPercent": 100} if number == 1 else {}
            world.apply("ModelVersion", f"{MODEL}-{number}", model=MODEL, version=number, **active)
        for number in RIGHT:
            version = f"{MODEL}-{number}"
            phase = lambda name=version: world.status(name, "modelversions").get("phase")  # noqa: E731
            until(lambda ready=phase: ready() == "Ready", f"{version} ready", PATIENCE)
        clients = stack.enter_context(Clients(addresses))
        yield Scene(world, clients, prometheus.url)


def test_harm_ends_a_test_and_control_serves_everybody_again(tested: Scene) -> None:
    errors = {"name": "errors", "errorRate": {"maxRatioToControl": 1.5, "maxExcess": 0.01}}
    tested.apply("harmful", 3, guardrails=[errors], treatmentPercent=20, stopEarly=False)
    status = tested.world.await_phase("harmful", "Stopped", plural="abtests", patience=PATIENCE)
    assert status["verdict"] == "GuardrailFailed"
    assert status["message"].startswith("GuardrailFailed: errors: ")
    table = tested.world.await_table(MODEL, lambda table: table.owner is None)
    assert [(arm.name, arm.version) for arm in table.split] == [("stable", 1)]
    tested.world.await_reasons("harmful", "TestStarted", "TestFinished")


def test_the_better_version_wins_by_what_users_say_and_is_promoted(tested: Scene) -> None:
    world, clients = tested.world, tested.clients
    clients.versions.clear()
    clients.tokens.clear()
    before = clients.accepted
    tested.apply("better", 2, onFinish="PromoteWinner")
    world.await_phase("better", "Running", plural="abtests")
    until(lambda: clients.accepted > before, "users rate answers of the test")

    used = clients.feed_back({"token": clients.tokens[-1], "correct": True})
    assert used.status_code == requests.codes.ok
    forged = clients.feed_back(
        [
            {"token": "x" * len(clients.tokens[-1]), "correct": True},
            {"token": clients.tokens[-1], "value": 1e30},
            {"correct": True},
        ]
    )
    assert forged.json()["accepted"] == 0
    assert len(forged.json()["refused"]) == 3

    status = world.await_phase("better", "Finished", plural="abtests", patience=PATIENCE)
    assert status["verdict"] == "TreatmentWins"
    (accuracy,) = status["metrics"]
    assert accuracy["control"] == pytest.approx(RIGHT[1], abs=0.1)
    assert accuracy["treatment"] == pytest.approx(RIGHT[2], abs=0.1)
    low, high = accuracy["interval"]
    assert 0 < low < RIGHT[2] - RIGHT[1] < high
    assert accuracy["p"] <= 0.05
    assert status["sampleRatio"]["verdict"] == "AsAsked"
    seen = sum(status["samples"].values())
    assert 400 <= seen <= 1.1 * USERS

    moved = {user: arms for user, arms in clients.versions.items() if len(arms) > 1}
    assert not moved, "a user stays on one version, whichever pod answers"
    assert len({arms for found in clients.versions.values() for arms in found}) == 2

    table = world.await_table(MODEL, lambda table: table.owner is None)
    assert [(arm.version, arm.weight) for arm in table.split] == [(2, 10_000)]
    assert table.experiment is None
    world.kubectl("wait", "--for=condition=Promoted", "abt/better", "--timeout=60s")
    world.kubectl("wait", "--for=condition=Ready", "abt/better", "--timeout=60s")
    row = world.kubectl("get", "abt", "better", "--no-headers")
    assert row.split()[:4] == ["better", MODEL, "Finished", "TreatmentWins"]
    world.await_reasons("better", "TestStarted", "TestFinished")
    after = clients.feed_back({"token": clients.tokens[-1], "correct": True})
    assert after.status_code == requests.codes.conflict, "no test takes feedback any more"


def test_what_was_refused_is_counted_apart(tested: Scene) -> None:
    refused = tested.ask_prometheus("sum by (outcome) (tidegate_feedback_total)")
    assert refused["accepted"] >= tested.clients.accepted * 0.9
    assert refused["forged"] >= 1
    assert refused["malformed"] >= 1


def test_a_test_that_waits_for_versions_that_nobody_declared(tested: Scene) -> None:
    tested.apply("early", 9)
    status = tested.world.await_phase("early", "Pending", plural="abtests")
    assert status["message"] == "No ModelVersion declares version 9 of digits; apply one"
    tested.world.kubectl("delete", "abt", "early")
