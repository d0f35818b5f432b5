"""One real Triton for the tests of a module, and the types that its tensors may have."""

import json
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tritonclient.utils import triton_to_np_dtype

from tidegate_tools import triton
from tidegate_tools.addresses import Subnet
from tidegate_tools.processes import Process, Supervisor

GRPC_PORT = 8001
PATIENCE = 60.0
_TYPES = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64 BYTES"
TYPES: dict[str, Any] = {name: triton_to_np_dtype(name) for name in _TYPES.split()}
BINARY_ONLY = {"FP16", "BF16"}
"""JSON cannot carry them."""


def lay_out(
    models: Path, name: str, source: str, config: str, versions: Iterable[int] = (1,)
) -> None:
    """Write a model of the python backend into a repository."""
    for version in versions:
        folder = models / name / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(source)
    (models / name / "config.pbtxt").write_text(config)


class TritonServer:
    """Triton with every model of a repository; it can be killed and started again."""

    def __init__(
        self, models: Path, supervisor: Supervisor, ip: str, options: Sequence[str] = ()
    ) -> None:
        self.http, self.grpc = f"{ip}:{triton.HTTP_PORT}", f"{ip}:{GRPC_PORT}"
        self.models = models
        self._supervisor, self._ip, self._options = supervisor, ip, options
        self._process: Process | None = None

    @classmethod
    @contextmanager
    def running(cls, models: Path, *options: str) -> Iterator[Self]:
        """Started on an address of its own, and stopped when it is wanted no more."""
        with Supervisor() as supervisor, Subnet.claimed() as subnet:
            made = cls(models, supervisor, subnet.ip(1), options)
            made.ensure()
            yield made

    @property
    def alive(self) -> bool:
        return bool(self._process and self._process.alive)

    def kill(self) -> None:
        assert self._process
        self._process.kill()

    def ensure(self) -> None:
        """Start it where it does not run, with its models loaded."""
        if self.alive:
            return
        launch = triton.launch(self.models, self._ip, grpc_port=GRPC_PORT)
        log = self.models.parent / "triton.log"
        argv = (*launch.argv, *self._options)
        self._process = self._supervisor.start("triton", argv, env=launch.env, log=log)
        self._process.wait_until(lambda: self.get("/v2/health/live") is not None, PATIENCE)
        for config in self.models.glob("*/config.pbtxt"):
            assert self.get(f"/v2/repository/models/{config.parent.name}/load", b"{}") is not None

    def get(self, path: str, data: bytes | None = None) -> bytes | None:
        """What it answers, to a POST where there are data; None for an error."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", data, PATIENCE) as answer:
                return bytes(answer.read())
        except OSError:
            return None

    def statistics(self, model: str) -> dict[str, Any]:
        """What Triton counts of a model with one version."""
        (found,) = json.loads(self.get(f"/v2/models/{model}/stats") or b"")["model_stats"]
        return dict(found)

    def executions(self, model: str) -> int:
        """How many batches a model has run."""
        return int(self.statistics(model)["execution_count"])

    def has(self, model: str, *, ready: bool) -> bool:
        """Whether a model is ready, or is not."""
        return (self.get(f"/v2/models/{model}/versions/1/ready") is not None) == ready
