"""A pod to measure: a real Triton and the sidecar before it, that follows tables from files."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import load

from tidegate_contract import acknowledgement, names, table
from tidegate_contract.table import Arm, BatchSettings
from tidegate_tools import triton
from tidegate_tools.processes import Process, ProcessFailed, Supervisor

COMPILED = Path("build/compiled")
"""The sidecar as the image has it, where `make bench` could compile it."""
START_TIMEOUT = 60.0

_SIDECAR = """
from tidegate_sidecar import __main__
from tidegate_sidecar.shell import watcher

watcher.FILE_SECONDS = 0.05  # or each change would wait long for its table
__main__.main()
"""

# Work that takes a + b * rows of a core's time. A device is a core of its own, where batches are
# worked off one after the other as they come: who holds the turn is next. Without one it is
# Triton's core, which the kernel divides among all that are in flight.
_BURNING = """
import os
import time
from fcntl import LOCK_EX, LOCK_UN, flock

import numpy as np
import triton_python_backend_utils as pb_utils

FIXED, PER_ROW, DEVICE = {fixed}, {per_row}, {device}


class TritonPythonModel:
    def initialize(self, args):
        above = os.path.dirname(args["model_repository"])
        self.turn, self.device = (open(os.path.join(above, one), "w") for one in ("turn", "device"))
        if DEVICE is not None:
            os.sched_setaffinity(0, [DEVICE])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        if DEVICE is not None:
            flock(self.turn, LOCK_EX)
            flock(self.device, LOCK_EX)
            flock(self.turn, LOCK_UN)
        until = time.thread_time() + FIXED + PER_ROW * len(x)
        while time.thread_time() < until:
            pass
        flock(self.device, LOCK_UN)
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x + 1)])
"""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that takes ``fixed`` seconds for a batch and ``per_row`` more for each row of it.

    ``row``: values of FP32 in a row. ``kind``, ``limiter``: of its one instance: where it runs, and
    what Triton's rate limiter is told of it. ``extra``: further lines of its config.
    ``device``: the core that works off its batches, those of all models that name it one after the
    other; without one they share Triton's.
    """

    name: str
    fixed: float
    per_row: float
    most: int = 64
    row: int = 16
    versions: tuple[int, ...] = (1,)
    kind: str = "KIND_CPU"
    limiter: str = ""
    extra: str = ""
    device: int | None = None

    def code(self) -> str:
        """What Triton's python backend runs."""
        return _BURNING.format(fixed=self.fixed, per_row=self.per_row, device=self.device)

    def lay_out(self, repository: Path) -> None:
        """Write its folder of a model repository."""
        for version in self.versions:
            folder = repository / self.name / str(version)
            folder.mkdir(parents=True)
            (folder / "model.py").write_text(self.code())
        config = (
            f'backend: "python"\nmax_batch_size: {self.most}\n'
            f'input [{{ name: "x" data_type: TYPE_FP32 dims: [{self.row}] }}]\n'
            f'output [{{ name: "y" data_type: TYPE_FP32 dims: [{self.row}] }}]\n'
            "version_policy: { all {} }\n"
            f"instance_group [{{ count: 1 kind: {self.kind} {self.limiter} }}]\n{self.extra}\n"
        )
        (repository / self.name / "config.pbtxt").write_text(config)

    def request(self, rows: int = 1, **parameters: Any) -> bytes:
        """An inference request over HTTP, its answer wanted as binary data."""
        data = bytes(4 * self.row * rows)
        tensor = {
            "name": "x",
            "datatype": "FP32",
            "shape": [rows, self.row],
            "parameters": {"binary_data_size": len(data)},
        }
        body = {"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}}
        path = f"/v2/models/{self.name}/infer"
        return load.infer_request(path, json.dumps(body).encode(), data)


@dataclass
class Pod:
    """Triton and its sidecar, both at ``ip``."""

    ip: str
    directory: Path
    models: tuple[Model, ...]
    triton: Process
    sidecar: Process
    revision: int = 0
    settings: BatchSettings = field(default_factory=BatchSettings)

    def apply(
        self, settings: BatchSettings, split: list[Arm] | None = None, mirrored: int = 0
    ) -> None:
        """Have every model follow a policy, and a split; returns once that is so. ``mirrored``:
        basis points of the requests that are copied to the second version.
        """
        self.settings = settings
        self.revision += 1
        for model in self.models:
            write_table(self.directory, model, self.revision, settings, split, mirrored)
        deadline = time.monotonic() + START_TIMEOUT
        while any(one.revision != self.revision for one in self.acknowledged().values()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"a table was not applied: {self.acknowledged()}")
            time.sleep(0.02)

    def acknowledged(self) -> dict[str, acknowledgement.Acknowledgement]:
        """What the sidecar says of its models."""
        return acknowledgement.decode(self.asked("/routing")).models

    def asked(self, path: str) -> bytes:
        """An answer of the sidecar's port for people and probes."""
        address = f"http://{self.ip}:{names.PORT_ADMIN}{path}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    def ready(self) -> bool:
        """Whether it serves all versions of every model.

        Raises:
            ProcessFailed: one cannot be loaded; the message is Triton's.
        """
        known = self.acknowledged()
        wanted = [(model.name, version) for model in self.models for version in model.versions]
        states = [known[name].versions.get(version) for name, version in wanted]
        for (name, version), state in zip(wanted, states, strict=True):
            if state and state.state == "Failed":
                raise ProcessFailed(f"version {version} of {name} does not load: {state.error}")
        return all(state and state.state == "Ready" for state in states)


def cores() -> tuple[int, int]:
    """Those of what is measured, and of who asks it: what the one takes the other does not lose."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    return first, second


@contextmanager
def running(
    models: tuple[Model, ...],
    directory: Path,
    ip: str,
    core: int | None = None,
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    patience: float = START_TIMEOUT,
    before: str = "",
    code: Path | None = COMPILED,
) -> Iterator[Pod]:
    """A pod that serves models; pinned to one core where that is named.

    ``environment``: more of it for Triton. ``patience``: seconds for the models to be loaded.
    ``before``: what the sidecar's process does first, as Python. ``code``: where that is taken
    from, if not from the sources.
    """
    repository = directory / "models"
    for model in models:
        model.lay_out(repository)
        write_table(directory, model, 1, BatchSettings(), None)
    here = os.sched_getaffinity(0)
    with Supervisor() as supervisor:
        if core is not None:
            os.sched_setaffinity(0, {core})  # what is started from here on inherits it
        try:
            server = start_triton(supervisor, repository, directory, ip, environment=environment)
            sidecar = _start_sidecar(supervisor, models, directory, ip, before, code)
        finally:
            os.sched_setaffinity(0, here)
        pod = Pod(ip, directory, models, server, sidecar, revision=1)
        sidecar.wait_until(lambda: answers(f"http://{ip}:{names.PORT_ADMIN}/healthz"), 60.0)
        sidecar.wait_until(pod.ready, patience)
        yield pod


def start_triton(
    supervisor: Supervisor,
    repository: Path,
    directory: Path,
    ip: str,
    *flags: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Process:
    """A Triton that is alive, with no model loaded yet. ``environment``: more than it needs."""
    server = triton.launch(repository, ip)
    log = directory / "triton.log"
    environment = {**(server.env or {}), **environment}
    process = supervisor.start("triton", [*server.argv, *flags], env=environment, log=log)
    live = f"http://{ip}:{triton.HTTP_PORT}/v2/health/live"
    process.wait_until(partial(answers, live), START_TIMEOUT)
    return process


def _start_sidecar(
    supervisor: Supervisor,
    models: tuple[Model, ...],
    directory: Path,
    ip: str,
    before: str,
    code: Path | None,
) -> Process:
    settings = {
        "models": ",".join(model.name for model in models),
        "pod": "bench",
        "pod-uid": "bench",
        "namespace": "bench",
        "host": ip,
        "triton": f"{ip}:{triton.HTTP_PORT}",
        "table-directory": str(directory / "tables"),
    }
    argv = [sys.executable, "-c", before + _SIDECAR, *(f"--{k}={v}" for k, v in settings.items())]
    environment = sidecar_environment(code)
    return supervisor.start("sidecar", argv, env=environment, log=directory / "sidecar.log")


def sidecar_environment(code: Path | None) -> dict[str, str]:
    """For a sidecar without an API server. ``code``: where it is taken from, if not the sources."""
    own = {k: v for k, v in os.environ.items() if k not in {"KUBECONFIG", "PYTHONPATH"}}
    return own | ({"PYTHONPATH": str(code.resolve())} if code else {})


def write_table(
    directory: Path,
    model: Model,
    revision: int,
    settings: BatchSettings,
    split: list[Arm] | None,
    mirrored: int = 0,
) -> None:
    """Write a model's table where its sidecar reads it; all to its first version by default."""
    folder = directory / "tables" / names.routing_table_name(model.name)
    folder.mkdir(parents=True, exist_ok=True)
    first = model.versions[0]
    whole = [table.Arm(name=names.ARM_STABLE, version=first, weight=table.WHOLE)]
    mirror = table.Mirror(version=model.versions[1], weight=mirrored) if mirrored else None
    agreement = table.DisagreementCheck(id="agreement@bench", tolerance=0.001)
    text, digest = table.encode(
        table.RoutingTable(
            namespace="bench",
            model=model.name,
            revision=revision,
            split_revision=revision,
            split=split or whole,
            versions=[table.LoadedVersion(version=version) for version in model.versions],
            batch=settings,
            mirror=mirror,
            checks=[agreement] if mirror else [],
            baseline=[table.Share(version=first, weight=table.WHOLE)],
        )
    )
    (folder / names.DIGEST_KEY).write_text(digest)
    (folder / names.TABLE_KEY).write_text(text)


def answers(url: str) -> bool:
    """Whether a GET is answered well."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, urllib.error.HTTPError):
        time.sleep(0.05)
        return False


def post(url: str, timeout: float = START_TIMEOUT) -> None:
    """POST nothing.

    Raises:
        ProcessFailed: it was refused; the message says why.
    """
    try:
        with urllib.request.urlopen(url, data=b"{}", timeout=timeout):
            pass
    except urllib.error.HTTPError as error:
        raise ProcessFailed(f"{url} answered {error.code}: {error.read().decode()}") from error
