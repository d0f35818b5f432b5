"""A stand-in for a kubelet: pods whose containers are processes of this machine.

The Pod is an object of the API server, with a loopback address of its own, so that the
standard ports stay the same in every pod. Its status says what is true: Ready only while
every process lives and the sidecar says so. A dead process is restarted after a back-off,
and a Pod that somebody deletes is stopped as a kubelet would.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tidegate_tools.api import MERGE_PATCH, Api, ApiError, answers
from tidegate_tools.processes import Launch, Process, Supervisor

READINESS_PORT = 9002
GATE = "tidegate.dev/local-process"
POLL_SECONDS = 0.25
LOOK_AT_OBJECT_EVERY = 2.0
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 20.0
CALM_SECONDS = 30.0  # a process that has lived so long starts again with the first back-off
STOP_GRACE = 15.0
ACCOUNT_TIMEOUT = 15.0
NOT_FOUND = 404
CONFLICT = 409
FORBIDDEN = 403


@dataclass(frozen=True)
class Container:
    """What one container runs.

    In `launch`, `$(POD_NAME)`, `$(POD_NAMESPACE)`, `$(POD_UID)` and `$(POD_IP)` are replaced
    as in a Pod's own `command`; the same four are set in its environment.
    """

    name: str
    image: str
    launch: Launch


@dataclass
class _Running:
    """A container's process and its history."""

    container: Container
    process: Process | None = None
    restarts: int = 0
    started: float = 0.0
    backoff: float = FIRST_BACKOFF
    restart_at: float | None = None
    last_exit: dict[str, Any] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive


class ScrapeTargets:
    """The file from which Prometheus learns the sidecars' addresses."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._targets: dict[tuple[str, str], str] = {}
        self._write()

    def put(self, namespace: str, pod: str, address: str) -> None:
        """Adds a pod, or moves it to another address."""
        with self._lock:
            self._targets[namespace, pod] = address
            self._write()

    def remove(self, namespace: str, pod: str) -> None:
        """Forgets a pod."""
        with self._lock:
            self._targets.pop((namespace, pod), None)
            self._write()

    def _write(self) -> None:
        entries = [
            {"targets": [address], "labels": {"namespace": namespace, "pod": pod}}
            for (namespace, pod), address in sorted(self._targets.items())
        ]
        beside = self.path.with_name(f".{self.path.name}.new")
        beside.write_text(json.dumps(entries, indent=1))
        beside.replace(self.path)


class LocalPod:
    """One pod: an object of the API server, and the processes that it stands for.

    Containers start in the order given and stop in reverse.
    """

    def __init__(
        self,
        api: Api,
        name: str,
        ip: str,
        containers: Sequence[Container],
        *,
        directory: Path,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        targets: ScrapeTargets | None = None,
        readiness_port: int = READINESS_PORT,
    ) -> None:
        self.name, self.namespace, self.ip = name, namespace, ip
        self.uid = ""
        self._api = api
        self._labels, self._annotations = dict(labels or {}), dict(annotations or {})
        self._directory = directory / name
        self._targets = targets
        self._address = f"{ip}:{readiness_port}"
        self._supervisor = Supervisor()
        self._running = [_Running(container) for container in containers]
        self._patched: dict[str, Any] | None = None
        self._ready_since: tuple[bool, str] = (False, now())
        self._looked_at = 0.0
        self._ended = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._watch, name=f"pod-{name}", daemon=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def path(self) -> str:
        """The object's path on the API server."""
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    @property
    def ready(self) -> bool:
        """Whether every process lives and the sidecar says that it is ready."""
        if not all(one.alive for one in self._running):
            return False
        return answers(f"http://{self._address}/readyz")

    def start(self) -> None:
        """Creates the object, starts the processes and keeps the status true from now on."""
        self.uid = self._create()["metadata"]["uid"]
        for one in self._running:
            self._start(one)
        if self._targets:
            self._targets.put(self.namespace, self.name, self._address)
        self._thread.start()

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Returns once the status that was written says Ready."""
        deadline = time.monotonic() + timeout
        while not (self._patched and self._ready_since[0]):
            if self._ended.is_set() or time.monotonic() > deadline:
                raise TimeoutError(f"pod {self.name} is not ready; logs in {self._directory}")
            time.sleep(0.05)

    def process(self, container: str) -> Process:
        """A container's process, as it is now."""
        (found,) = [one.process for one in self._running if one.container.name == container]
        if found is None:
            raise LookupError(f"container {container} of pod {self.name} was not started")
        return found

    def kill(self, container: str) -> None:
        """Kills a container's process as a crash would; it is restarted after a back-off."""
        self.process(container).kill()

    def stop(self, grace: float = STOP_GRACE) -> None:
        """SIGTERM to the processes, the last one first; then the object goes."""
        self._ended.set()
        if self._thread.ident and threading.current_thread() is not self._thread:
            self._thread.join()
        self._terminate(grace)

    def _terminate(self, grace: float) -> None:
        self._ended.set()
        with self._lock:
            if self._targets:
                self._targets.remove(self.namespace, self.name)
            self._supervisor.stop(grace)
        with contextlib.suppress(ApiError):  # it is gone already, or the API server is
            self._api.request("DELETE", f"{self.path}?gracePeriodSeconds=0")

    def _create(self) -> dict[str, Any]:
        """Creates the Pod, once its namespace's service account is there."""
        collection = f"/api/v1/namespaces/{self.namespace}/pods"
        deadline = time.monotonic() + ACCOUNT_TIMEOUT
        while True:
            try:
                return self._api.request("POST", collection, self._manifest())
            except ApiError as error:
                again = error.status == FORBIDDEN and "service account" in str(error).lower()
                again = again or "serviceaccount" in str(error)
                if error.status == CONFLICT:  # left by a run that was killed
                    self._api.request("DELETE", f"{self.path}?gracePeriodSeconds=0")
                elif not again or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "labels": self._labels,
                "annotations": self._annotations,
            },
            "spec": {
                # On no node: a real cluster's garbage collector takes pods of a node that is
                # not there after a minute, and leaves those that wait to be scheduled.
                "schedulingGates": [{"name": GATE}],
                "automountServiceAccountToken": False,
                "containers": [
                    {"name": one.container.name, "image": one.container.image}
                    for one in self._running
                ],
            },
        }

    def _start(self, one: _Running) -> None:
        container = one.container
        facts = {
            "POD_NAME": self.name,
            "POD_NAMESPACE": self.namespace,
            "POD_UID": self.uid,
            "POD_IP": self.ip,
        }
        launch = expanded(container.launch, facts)
        log = self._directory / f"{container.name}.log"
        one.process = self._supervisor.start(
            f"{self.name}/{container.name}", launch.argv, env=launch.env, log=log
        )
        one.started, one.restart_at = time.monotonic(), None

    def _watch(self) -> None:
        """Until the end: restarts what died, and says in the status what is true."""
        while not self._ended.wait(POLL_SECONDS):
            with self._lock:
                for one in self._running:
                    self._restart_if_due(one)
            try:
                self._report()
                if self._must_go():
                    self._terminate(STOP_GRACE)
            except ApiError:
                self._patched = None  # the server's state is unknown: say it all again

    def _restart_if_due(self, one: _Running) -> None:
        moment = time.monotonic()
        if one.alive or self._ended.is_set():
            return
        if one.restart_at is None and one.process:
            if moment - one.started > CALM_SECONDS:
                one.backoff = FIRST_BACKOFF
            one.restart_at = moment + one.backoff
            one.backoff = min(one.backoff * 2, LONGEST_BACKOFF)
            one.last_exit = {"exitCode": one.process.poll() or 0, "finishedAt": now()}
        elif one.restart_at is not None and moment >= one.restart_at:
            one.restarts += 1
            self._start(one)

    def _report(self) -> None:
        """Patches the status where it has changed."""
        ready = self.ready
        if ready != self._ready_since[0]:
            self._ready_since = (ready, now())
        status = self._status(ready)
        if status != self._patched:
            body = {"status": status}
            self._api.request("PATCH", f"{self.path}/status", body, content_type=MERGE_PATCH)
            self._patched = status

    def _status(self, ready: bool) -> dict[str, Any]:
        yes_no = str(ready)
        condition = {"status": yes_no, "lastTransitionTime": self._ready_since[1]}
        always = {"status": "True", "lastTransitionTime": self._ready_since[1]}
        return {
            "phase": "Running",
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "hostIP": "127.0.0.1",
            "conditions": [
                {"type": "PodScheduled", **always},
                {"type": "Initialized", **always},
                {"type": "ContainersReady", **condition},
                {"type": "Ready", **condition},
            ],
            "containerStatuses": [self._container_status(one, ready) for one in self._running],
        }

    def _container_status(self, one: _Running, ready: bool) -> dict[str, Any]:
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        return {
            "name": one.container.name,
            "image": one.container.image,
            "imageID": "",
            "ready": ready,
            "started": one.alive,
            "restartCount": one.restarts,
            "state": {"running": {}} if one.alive else waiting,
            "lastState": {"terminated": one.last_exit} if one.last_exit else {},
        }

    def _must_go(self) -> bool:
        """Whether somebody has deleted the object; looked up now and then."""
        if time.monotonic() - self._looked_at < LOOK_AT_OBJECT_EVERY:
            return False
        self._looked_at = time.monotonic()
        try:
            return "deletionTimestamp" in self._api.request("GET", self.path)["metadata"]
        except ApiError as error:
            if error.status == NOT_FOUND:
                return True
            raise


def expanded(launch: Launch, facts: Mapping[str, str]) -> Launch:
    """The launch with `$(NAME)` replaced by facts, which its environment gets as well."""

    def fill(text: str) -> str:
        return re.sub(r"\$\((\w+)\)", lambda found: facts.get(found[1], found[0]), text)

    own = os.environ if launch.env is None else launch.env
    environment = {**facts, **{name: fill(value) for name, value in own.items()}}
    return Launch(tuple(fill(argument) for argument in launch.argv), environment)


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
