"""``kubectl tidegate`` on a real API server: with objects as the operator writes them, and with
sidecars that the API server itself reaches.
"""

import base64
import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import yaml

from tidegate_contract import names, table
from tidegate_contract.table import Arm, LoadedVersion, Owner, RoutingTable, Share
from tidegate_tools import binaries
from tidegate_tools.addresses import Subnet
from tidegate_tools.api import MERGE_PATCH, Api
from tidegate_tools.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
NAMESPACE, MODEL = "cli", "digits"
GROUP = f"/apis/{names.GROUP}/{names.API_VERSION}/namespaces/{NAMESPACE}"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
PLURALS = {"ModelVersion": "modelversions", "CanaryRollout": "canaryrollouts", "ABTest": "abtests"}
TOKEN = "opens-the-pairs"

Raw = dict[str, Any]


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass
class World:
    """The namespace, and the command as a user of it runs it."""

    plane: ControlPlane
    kubeconfig: Path

    @property
    def api(self) -> Api:
        return self.plane.api

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.plane.directory),
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": str(ROOT / "cli"),
            "PYTHONIOENCODING": "utf-8",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tidegate_cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> Ended:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return Ended(process.returncode, out, err)

    def get(self, kind: str, name: str) -> Raw:
        return self.api.request("GET", f"{GROUP}/{PLURALS[kind]}/{name}")

    def create(self, kind: str, name: str, spec: Raw, status: Raw | None = None) -> Raw:
        body = {
            "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        created = self.api.request("POST", f"{GROUP}/{PLURALS[kind]}", body)
        self.tell(kind, name, status or {})
        return created

    def tell(self, kind: str, name: str, status: Raw) -> None:
        """Write a status as the operator does."""
        path = f"{GROUP}/{PLURALS[kind]}/{name}/status"
        self.api.request("PATCH", path, {"status": status}, content_type=MERGE_PATCH)

    def write_table(self, content: RoutingTable) -> None:
        """Write a table as the operator does: a server-side apply."""
        text, digest = table.encode(content)
        name = names.routing_table_name(content.model)
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {names.LABEL_MODEL: content.model}},
            "data": {names.TABLE_KEY: text, names.DIGEST_KEY: digest},
        }
        path = f"{CORE}/configmaps/{name}?fieldManager={names.FIELD_MANAGER}&force=true"
        self.api.request("PATCH", path, body, content_type="application/apply-patch+yaml")


def until(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within a minute"
        time.sleep(0.05)
    return found


def prepare(plane: ControlPlane) -> World:
    """The namespace with a canary in its second step, and its predecessor that was rolled back."""
    plane.kubectl("apply", "--filename", str(ROOT / "crds"))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    plane.make_namespace(NAMESPACE)
    plane.wait_for_service_account(NAMESPACE, "default")
    grant(plane)
    world = World(plane, plane.kubeconfig_for_service_account(NAMESPACE, "default"))
    until(lambda: world.run("export").code == 0, "the API server serves the new kinds")
    for version, traffic, live in ((1, 100, 80), (2, None, 20)):
        spec = {"model": MODEL, "version": version, "lifecycle": "Active" if traffic else "Testing"}
        spec |= {"trafficPercent": traffic} if traffic else {}
        world.create("ModelVersion", f"digits-{version}", spec, version_status(live))
    world.create(
        "CanaryRollout",
        "digits-wrong",
        {"model": MODEL, "canaryVersion": 2},
        {"phase": "RolledBack", "message": "Rolled back to version 1 from 5%: errors", "weight": 0},
    )
    world.create("CanaryRollout", "digits-2", {"model": MODEL, "canaryVersion": 2}, STEPPING)
    world.write_table(split(world, canary=20))
    return world


def grant(plane: ControlPlane) -> None:
    """What docs/cli.md says that its commands need, and nothing else."""
    page = (ROOT / "docs" / "cli.md").read_text()
    (rules,) = [part.split("```")[0] for part in page.split("```yaml\n") if "rules:" in part]
    role = yaml.safe_load(rules)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "person"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": role["metadata"]["name"],
        },
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE}],
    }
    for one in (role, binding):
        plane.kubectl("apply", f"--namespace={NAMESPACE}", "--filename=-", stdin=json.dumps(one))


def version_status(live: int) -> Raw:
    return {
        "phase": "Ready",
        "lifecycle": "Active",
        "trafficPercent": live,
        "pods": {"ready": 2, "total": 2},
        "message": "Serving",
        "observedGeneration": 1,
        "display": {"traffic": f"{live}%", "pods": "2/2", "requests": "118/s", "errors": "0.1%"},
    }


STEPPING: Raw = {
    "phase": "Progressing",
    "reason": "Analysing",
    "message": "At 20% (step 2/4): gathering evidence; the next step comes after 10m in all",
    "plan": [
        {"percent": 5, "duration": "10m"},
        {"percent": 20, "duration": "10m"},
        {"percent": 50, "duration": "1h", "gate": "Manual"},
        {"percent": 100},
    ],
    "currentStep": 2,
    "totalSteps": 4,
    "weight": 20,
    "stableVersion": 1,
    "verdict": "Inconclusive",
    "stepElapsed": 192.5,
    "clockRunningSince": "2026-12-01T09:00:00.000Z",
    "revision": {"wanted": 14, "acknowledgedPods": 2, "totalPods": 2},
    "stepRequests": {"stable": 41230, "canary": 10311},
    "metrics": [
        {
            "name": "errors",
            "verdict": "Pass",
            "stable": 0.0011,
            "canary": 0.0019,
            "ratio": 1.73,
            "interval": [0.81, 3.42],
            "evidence": 3.21,
            "threshold": 200,
            "reason": "20 bad of 10,311: within success; no harm against stable shown",
        },
        {
            "name": "latency",
            "verdict": "Inconclusive",
            "stable": 0.041,
            "canary": 0.052,
            "evidence": 0.02,
            "threshold": 200,
            "reason": "536 of 10,311 slower than 100ms",
        },
    ],
    "history": [
        {
            "time": "2026-12-01T08:40:00.000Z",
            "from": "New",
            "to": "Gating",
            "weight": 0,
            "reason": "Loading",
        },
        {
            "time": "2026-12-01T08:50:00.000Z",
            "from": "Gating",
            "to": "Progressing",
            "weight": 5,
            "reason": "Analysing",
        },
        {
            "time": "2026-12-01T09:00:00.000Z",
            "from": "Progressing",
            "to": "Progressing",
            "weight": 20,
            "reason": "Analysing",
        },
    ],
    "checkpoint": {"gatingSince": 1.0},
    "observedGeneration": 1,
}


def split(world: World, canary: int) -> RoutingTable:
    uid = world.get("CanaryRollout", "digits-2")["metadata"]["uid"]
    arms = [Arm(name=names.ARM_STABLE, version=1, weight=(100 - canary) * 100)]
    arms += [Arm(name=names.ARM_CANARY, version=2, weight=canary * 100)] if canary else []
    return RoutingTable(
        namespace=NAMESPACE,
        model=MODEL,
        revision=14,
        split_revision=14,
        owner=Owner(kind="CanaryRollout", name="digits-2", uid=uid),
        split=arms,
        versions=[LoadedVersion(version=1), LoadedVersion(version=2)],
        baseline=[Share(version=1, weight=table.WHOLE)],
        claims={1: 100},
    )


@dataclass
class Sidecar:
    """A pod of the API server whose admin port is served from here, on this machine's address."""

    world: World
    name: str
    address: str
    pages: dict[str, bytes]
    asked: list[dict[str, str]]

    def create(self) -> None:
        manifest = {
            "metadata": {"name": self.name, "labels": {names.LABEL_MODEL: MODEL}},
            "spec": {
                "schedulingGates": [{"name": "tidegate.dev/stand-in"}],
                "automountServiceAccountToken": False,
                "containers": [{"name": "sidecar", "image": "stand-in"}],
            },
        }
        self.world.api.request("POST", f"{CORE}/pods", manifest)
        status = {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]}
        path = f"{CORE}/pods/{self.name}/status"
        self.world.api.request("PATCH", path, {"status": status}, content_type=MERGE_PATCH)

    def delete(self) -> None:
        self.world.api.request("DELETE", f"{CORE}/pods/{self.name}?gracePeriodSeconds=0")

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        pages, asked = self.pages, self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append({"path": self.path, **dict(self.headers.items())})
                path = self.path.partition("?")[0]
                sent = {self.headers.get("tidegate-token"), self.headers.get("Authorization")}
                allowed = path != "/pairs" or sent in ({TOKEN, None}, {f"Bearer {TOKEN}", None})
                body = pages.get(path, b"no such page") if allowed else b"wrong token"
                self.send_response(200 if allowed and path in pages else 403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@contextlib.contextmanager
def sidecar(world: World, name: str, address: str, pages: dict[str, Raw]) -> Iterator[Sidecar]:
    encoded = {path: json.dumps(page).encode() for path, page in pages.items()}
    one = Sidecar(world, name, address, encoded, [])
    server = http.server.ThreadingHTTPServer((address, names.PORT_ADMIN), one.handler())
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    one.create()
    try:
        yield one
    finally:
        one.delete()
        server.shutdown()
        server.server_close()


def routing(undeclared: list[int]) -> Raw:
    acked = {"revision": 14, "versions": {}, "undeclared": undeclared}
    return {"pod": "triton", "podUid": "u", "ready": True, "models": {MODEL: acked}}


def tensor(*data: Any) -> Raw:
    return {"datatype": "INT64", "shape": [len(data)], "data": list(data)}


PAIRS: Raw = {
    "pairs": [
        {
            "at": 1764581400.0,
            "request": {"INPUT": {**tensor(*range(40)), "truncated": True}},
            "parameters": {},
            "stable": {"LABEL": tensor(7), "SCORES": tensor(1, 9)},
            "canary": {"LABEL": tensor(1), "SCORES": tensor(1, 9)},
            "difference": "LABEL: 7 and 1",
        },
        {
            "at": 1764581460.0,
            "request": {"INPUT": {"datatype": "BYTES", "shape": [1], "data": ["\x1b[2Jwiped"]}},
            "parameters": {"beam": 4},
            "stable": {"LABEL": tensor(3)},
            "canary": {"error": "500 CUDA out of memory"},
            "difference": "the canary failed",
        },
    ]
}


@pytest.fixture(scope="module")
def address() -> str:
    """An address of this machine that the API server is willing to proxy to: no loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; documentation address, RFC 5737
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own: str = probe.getsockname()[0]
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return own


@pytest.fixture(scope="module")
def world(control_plane: ControlPlane) -> Iterator[World]:
    yield prepare(control_plane)
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture
def rollout(world: World) -> Iterator[World]:
    """The rollout as it was, whatever a test does to it."""
    yield world
    path = f"{GROUP}/canaryrollouts/digits-2"
    world.tell("CanaryRollout", "digits-2", {"lastVerb": None})
    calm = {"spec": {"suspend": False}, "metadata": {"annotations": None}}
    world.api.request("PATCH", path, calm, content_type=MERGE_PATCH)
    generation = world.get("CanaryRollout", "digits-2")["metadata"]["generation"]
    world.tell("CanaryRollout", "digits-2", {**STEPPING, "observedGeneration": generation})


class Operator:
    """Acts on one annotation as the operator does: status first, then the annotation goes, and only
    if it is still the one that was acted on.
    """

    def __init__(self, world: World, verb: str, status: Raw) -> None:
        self._world, self._key, self._status = world, f"{names.GROUP}/{verb}", status
        self.saw = ""
        self._thread = threading.Thread(target=self._act, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _annotation(self) -> str:
        meta = self._world.get("CanaryRollout", "digits-2")["metadata"]
        return str(meta.get("annotations", {}).get(self._key, ""))

    def _act(self) -> None:
        self.saw = until(self._annotation, "the annotation")
        last = f"{self._key.partition('/')[2]}={self.saw}"
        self._world.tell("CanaryRollout", "digits-2", {**self._status, "lastVerb": last})
        at = "/metadata/annotations/" + self._key.replace("/", "~1")
        self._world.plane.kubectl(
            "patch",
            "cro",
            "digits-2",
            f"--namespace={NAMESPACE}",
            "--type=json",
            "--patch",
            json.dumps(
                [{"op": "test", "path": at, "value": self.saw}, {"op": "remove", "path": at}]
            ),
        )


def test_status_shows_the_split_the_owner_and_the_evidence(world: World) -> None:
    ended = world.run("status")

    assert ended.code == 0, ended.err
    for line in (
        r"stable +version 1 +80% +█+",
        r"canary +version 2 +20% +█+",
        r"CanaryRollout digits-2 owns the traffic",
        r"Progressing · step 2 of 4 at 20% · Inconclusive · 41,230 \+ 10,311 requests",
        r"plan  5% ✓  20% ◂  50% \(gate\)  100%   3m12s of 10m",
        r"errors +Pass +0.11% +0.19% +1.73 +0.81 to 3.42 +3.21 of 200",
    ):
        assert re.search(line, ended.out), line
    assert max(len(line.rstrip()) for line in ended.out.splitlines()) <= 100
    assert "digits-wrong" not in ended.out


def test_status_of_one_model_has_its_history_and_its_past(world: World) -> None:
    ended = world.run("status", MODEL)

    assert re.search(r"08:50:00 +Gating +Progressing +5%", ended.out)
    assert "digits-wrong: RolledBack" in ended.out


def test_documents_are_equal_for_an_equal_cluster(world: World) -> None:
    exported, shown = world.run("export"), world.run("status", "-o", "json")
    as_yaml = world.run("export", "-o", "yaml", "--model", MODEL)

    document = json.loads(exported.out)
    assert exported.out == shown.out == world.run("export").out
    assert yaml.safe_load(as_yaml.out) == document
    (model,) = document["models"]
    assert model["owner"] == {"kind": "CanaryRollout", "name": "digits-2"}
    assert [one["percent"] for one in model["split"]] == [20, 80]
    assert [one["name"] for one in model["versions"]] == ["digits-1", "digits-2"]
    assert [len(one["history"]) for one in model["rollouts"]] == [3, 0]
    assert all("checkpoint" not in one["status"] for one in model["rollouts"])


def test_kubectl_finds_the_plugin_and_passes_its_exit_code_on(world: World, tmp_path: Path) -> None:
    plugin = tmp_path / "kubectl-tidegate"
    plugin.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tidegate_cli "$@"\n')
    plugin.chmod(0o755)
    path = f"{tmp_path}:{world.environment['PATH']}"
    ended = [
        subprocess.run(
            [binaries.ensure("kubectl"), "tidegate", *arguments],
            env={**world.environment, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        for arguments in (("status", MODEL, "--namespace", NAMESPACE), ("promote", "digits-3"))
    ]

    assert ended[0].returncode == 0, ended[0].stderr
    assert "digits-2 owns the traffic" in ended[0].stdout
    assert ended[1].returncode == 3
    assert "did you mean digits-2" in ended[1].stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("status", "digts"), 3, "did you mean digits?"),
        (("status", "--all-namespaces"), 4, "cannot list resource"),
        (("status", "--context", "elsewhere"), 4, "elsewhere"),
        (("promote", "digits-wrong"), 1, "is RolledBack already"),
        (("retry", "digits-2"), 1, "only what was rolled back or failed"),
        (("resume", "digits-2"), 1, "not suspended"),
        (("abort", "digits-2", "--reason", " "), 2, "must say something"),
        (("abort", "abt/digits-2", "--reason", "x"), 3, "no ABTest digits-2"),
        (("abort", "pod/digits-2", "--reason", "x"), 3, "it is cro or abt"),
        (("watch", "--until-finished"), 1, "needs the name"),
        (("diff", "digits-2"), 6, "Secret tidegate-pairs-digits"),
        (("discover", MODEL), 6, "tidegate.dev/model=digits"),
    ],
)
def test_errors_say_what_and_have_their_code(
    world: World, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ended = world.run(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_an_api_server_that_is_away_is_named(world: World, tmp_path: Path) -> None:
    config = json.loads(world.kubeconfig.read_text())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        away = tmp_path / "away"
        away.write_text(json.dumps(config))
        ended = world.run("status", "--kubeconfig", str(away))

    assert ended.code == 4
    assert f"https://127.0.0.1:{port} cannot be reached" in ended.err
    assert "refused" in ended.err


def test_promote_names_the_step_that_it_leaves(rollout: World) -> None:
    moved = {**STEPPING, "currentStep": 3, "weight": 50, "message": "At 50% (step 3/4): live"}
    with Operator(rollout, "promote", moved) as operator:
        ended = rollout.run("promote", "digits-2")

    assert operator.saw == "step@2"
    assert (ended.code, ended.err) == (0, "")
    assert "Progressing at 20% → Progressing at 50%. At 50% (step 3/4): live" in ended.out


def test_a_verb_that_changes_nothing_says_so(rollout: World) -> None:
    kept = {**STEPPING, "message": "At 20%: version 2 cannot be promoted, errors fail"}
    with Operator(rollout, "promote", kept) as operator:
        ended = rollout.run("promote", "cro/digits-2", "--full")

    assert operator.saw == "full"
    assert ended.code == 1
    assert "it changed nothing: still Progressing at 20%" in ended.out


def test_abort_carries_its_reason(rollout: World) -> None:
    back = {**STEPPING, "phase": "RollingBack", "weight": 0, "message": "Rolling back: aborted"}
    with Operator(rollout, "abort", back) as operator:
        ended = rollout.run("abort", "digits-2", "--reason", "wrong tokenizer")

    assert operator.saw == "wrong tokenizer"
    assert ended.code == 0
    assert "→ RollingBack at 0%" in ended.out


def test_retries_are_told_from_each_other(rollout: World) -> None:
    rollout.tell("CanaryRollout", "digits-2", {**STEPPING, "phase": "RolledBack", "weight": 0})
    again = {**STEPPING, "phase": "Gating", "weight": 0, "currentStep": 0}
    values = []
    for _ in range(2):
        rollout.tell("CanaryRollout", "digits-2", {**STEPPING, "phase": "RolledBack", "weight": 0})
        with Operator(rollout, "retry", again) as operator:
            assert rollout.run("retry", "digits-2").code == 0
        values.append(operator.saw)

    assert values[0] != values[1]


def test_a_verb_that_nobody_hears_stays_and_says_how_to_take_it_back(rollout: World) -> None:
    ended = rollout.run("promote", "digits-2", "--timeout", "0.5")

    assert ended.code == 5
    assert "kubectl annotate cro/digits-2 -n cli tidegate.dev/promote-" in ended.err
    annotations = rollout.get("CanaryRollout", "digits-2")["metadata"]["annotations"]
    assert annotations == {"tidegate.dev/promote": "step@2"}


def test_suspend_waits_until_the_status_observes_it(rollout: World) -> None:
    assert rollout.run("suspend", "digits-2", "--timeout", "0.5").code == 5
    assert rollout.get("CanaryRollout", "digits-2")["spec"]["suspend"] is True

    process = rollout.start("resume", "digits-2")
    until(
        lambda: not rollout.get("CanaryRollout", "digits-2")["spec"]["suspend"], "the spec changes"
    )
    generation = rollout.get("CanaryRollout", "digits-2")["metadata"]["generation"]
    rollout.tell("CanaryRollout", "digits-2", {**STEPPING, "observedGeneration": generation})

    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "resume acted on. At 20%" in out


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("RolledBack", 1)])
def test_watch_ends_as_the_rollout_does(rollout: World, phase: str, code: int) -> None:
    process = rollout.start("watch", "digits-2", "--until-finished", "--every", "0.1")
    assert process.stdout is not None
    seen = [process.stdout.readline()]
    while "step 2 of 4" not in seen[-1]:
        seen.append(process.stdout.readline())
    rollout.tell("CanaryRollout", "digits-2", {"phase": phase, "message": "over"})

    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    assert phase in out


def test_watch_ends_well_with_ctrl_c(world: World) -> None:
    process = world.start("watch", MODEL, "--every", "0.1")
    assert process.stdout is not None
    assert MODEL in process.stdout.readline()
    process.send_signal(signal.SIGINT)

    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "Traceback" not in out


def test_catch_up_prints_what_the_api_server_takes_as_the_live_split(rollout: World) -> None:
    promoted = split(rollout, canary=0)
    live = [Share(version=2, weight=table.WHOLE)]
    rollout.write_table(msgspec.structs.replace(promoted, owner=None, baseline=live))
    behind = {"type": "SpecBehind", "status": "True", "reason": "LiveDiffers", "message": "moved"}
    behind["lastTransitionTime"] = "2026-12-01T09:00:00Z"
    for name in ("digits-1", "digits-2"):
        rollout.tell("ModelVersion", name, {"conditions": [behind]})
    ended = rollout.run("catch-up", MODEL)
    shown = rollout.run("status", MODEL)

    assert ended.code == 0, ended.err
    first, second = yaml.safe_load_all(ended.out)
    assert (first["spec"]["trafficPercent"], first["spec"]["lifecycle"]) == (0, "Active")
    assert (second["spec"]["trafficPercent"], second["spec"]["lifecycle"]) == (100, "Active")
    rollout.plane.kubectl("apply", "--dry-run=server", "--filename=-", stdin=ended.out)
    assert "Spec behind live: 1, 2. kubectl tidegate catch-up digits" in " ".join(shown.out.split())

    for name in ("digits-1", "digits-2"):
        rollout.tell("ModelVersion", name, {"conditions": None})
    rollout.write_table(split(rollout, canary=20))
    nothing = rollout.run("catch-up", MODEL)
    assert (nothing.code, nothing.out) == (0, "")


def test_discover_asks_through_the_api_server(world: World, address: str) -> None:
    with sidecar(world, "triton-0", address, {"/routing": routing([2, 3, 5])}):
        found, written = world.run("discover", MODEL), world.run("discover", MODEL, "--write")

    assert (found.code, found.err) == (0, "")
    assert "no ModelVersion names version 3, 5" in found.out
    manifests = list(yaml.safe_load_all(written.out))
    assert [one["metadata"]["name"] for one in manifests] == ["digits-3", "digits-5"]
    assert {one["spec"]["lifecycle"] for one in manifests} == {"Testing"}
    world.plane.kubectl("apply", "--dry-run=server", "--filename=-", stdin=written.out)


def test_loopback_pods_are_reached_directly_and_silent_ones_named(world: World) -> None:
    with (
        Subnet.claimed() as subnet,
        sidecar(world, "triton-0", subnet.ip(1), {"/routing": routing([3])}),
    ):
        silent = Sidecar(world, "triton-1", subnet.ip(2), {}, [])
        silent.create()
        found, refused = world.run("discover", MODEL, "--direct"), world.run("discover", MODEL)
        silent.delete()

    assert found.code == 0
    assert "version 3" in found.out
    assert "pod triton-1 left out" in found.err
    assert refused.code == 6
    assert "triton-0: " in refused.err
    assert "--direct asks the pods' own addresses" in refused.err


def test_pairs_are_shown_side_by_side_to_whoever_may_read_the_token(
    world: World, address: str
) -> None:
    secret = {
        "metadata": {"name": names.pairs_secret_name(MODEL)},
        "data": {"token": base64.b64encode(f"{TOKEN}\n".encode()).decode()},
    }
    world.api.request("POST", f"{CORE}/secrets", secret)
    with sidecar(world, "triton-0", address, {"/pairs": PAIRS}) as pod:
        shown, direct = world.run("diff", "digits-2"), world.run("diff", "digits-2", "--direct")
        document = json.loads(world.run("diff", "digits-2", "-o", "json", "--limit", "1").out)
    world.api.request("DELETE", f"{CORE}/secrets/{names.pairs_secret_name(MODEL)}")

    assert (shown.code, shown.err) == (0, "")
    assert shown.out == direct.out
    assert re.search(r"stable, version 1 +canary, version 2", shown.out)
    assert re.search(r"LABEL: INT64 \[1\]: 7 +LABEL: INT64 \[1\]: 1", shown.out)
    assert re.search(r"error: \(not given\) +error: 500 CUDA out of memory", shown.out)
    assert "\x1b" not in shown.out
    assert [one["difference"] for one in document["pairs"]] == ["the canary failed"]
    assert pod.asked[0]["path"] == "/pairs?model=digits"


def test_top_finds_the_pods_and_asks_them_through_the_api_server(
    world: World, address: str
) -> None:
    metrics = (
        f'tidegate_queue_length{{model="{MODEL}",version="1",arm="stable",priority="2"}} 17\n'
        f'tidegate_inflight{{model="{MODEL}",version="1",arm="stable"}} 3\n'
    )
    with sidecar(world, "triton-0", address, {}) as pod:
        pod.pages["/metrics"] = metrics.encode()
        for which in ((), ("--model", MODEL), ("--direct",)):
            shown = world.run("top", "--once", "--every", "0.1", *which)
            assert (shown.code, shown.err) == (0, "")
            assert re.search(rf"^triton-0 +{MODEL} .* 3 +17$", shown.out, re.MULTILINE)
    assert world.run("top", "--once").code == 6
