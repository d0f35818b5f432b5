"""What may be asked for: inference, feedback on it, and the read-only part of Triton's interface.

All else stays shut. With explicit model control ``POST /v2/repository/models/M/load`` runs
whatever code the caller sends; tracing and logging reach into the server, as does shared memory,
which is offered only where that is asked for.
"""

import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final

from tidegate_sidecar.core.refusal import Refusal, malformed


class Kind(Enum):
    """Who answers."""

    INFER = "infer"
    FEEDBACK = "feedback"
    READY = "ready"
    """Our own readiness: Triton's is false while any version loads, or has failed to."""
    TRITON = "triton"
    """Triton, as the path says."""
    STREAM = "stream"
    """Triton, call by call, each with the version that is meant."""
    SHARED_MEMORY = "shared-memory"
    """Triton, about regions of the system's shared memory, where that is offered."""
    TRITON_MODEL = "triton-model"
    """Triton, about one version: where the path names none, the one that has the traffic."""


@dataclass(frozen=True, slots=True)
class Target:
    """A request's method and path, understood."""

    kind: Kind
    method: str
    path: str
    model: str = ""
    version: int | None = None
    suffix: str = ""

    def triton_path(self, default_version: int) -> str:
        """The path that Triton is asked for; a model's version is always named."""
        if self.kind in (Kind.TRITON, Kind.SHARED_MEMORY):
            return self.path
        version = self.version or default_version
        return f"/v2/models/{self.model}/versions/{version}{self.suffix}"


_PLAIN: Final = {
    ("GET", "/v2/health/ready"): Kind.READY,
    ("GET", "/v2/health/live"): Kind.TRITON,
    ("GET", "/v2"): Kind.TRITON,
    ("GET", "/v2/models/stats"): Kind.TRITON,
    ("POST", "/v2/repository/index"): Kind.TRITON,
}
_SUFFIXES: Final = {
    ("POST", "/infer"): Kind.INFER,
    ("POST", "/feedback"): Kind.FEEDBACK,
    ("GET", ""): Kind.TRITON_MODEL,
    ("GET", "/ready"): Kind.TRITON_MODEL,
    ("GET", "/config"): Kind.TRITON_MODEL,
    ("GET", "/stats"): Kind.TRITON_MODEL,
}
RPC_SERVICE: Final = "inference.GRPCInferenceService"
_RPCS: Final = {
    "ModelInfer": Kind.INFER,
    "ModelStreamInfer": Kind.STREAM,
    "ServerReady": Kind.READY,
    "ServerLive": Kind.TRITON,
    "ServerMetadata": Kind.TRITON,
    "RepositoryIndex": Kind.TRITON,
    "SystemSharedMemoryStatus": Kind.SHARED_MEMORY,
    "SystemSharedMemoryRegister": Kind.SHARED_MEMORY,
    "SystemSharedMemoryUnregister": Kind.SHARED_MEMORY,
    "ModelReady": Kind.TRITON_MODEL,
    "ModelMetadata": Kind.TRITON_MODEL,
    "ModelConfig": Kind.TRITON_MODEL,
    "ModelStatistics": Kind.TRITON_MODEL,
}
_SHARED_MEMORY: Final = re.compile(
    r"GET /v2/systemsharedmemory(/region/[^/]+)?/status"
    r"|POST /v2/systemsharedmemory(/region/[^/]+)?/unregister"
    r"|POST /v2/systemsharedmemory/region/[^/]+/register"
)
_REGION_KEY: Final = re.compile(r"/?(?!.*triton_python_backend)[^/\0]+", re.DOTALL)
_MODEL_PATH: Final = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/[^/]+|)")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def understand(method: str, target: str) -> Target:
    """Find out what a request line asks for.

    Raises:
        Refusal: 403 for what is not on the list, 400 for a version that is no number.
    """
    path = target.partition("?")[0]
    if kind := _PLAIN.get((method, path.rstrip("/"))):
        return Target(kind, method, path.rstrip("/"))
    if _SHARED_MEMORY.fullmatch(f"{method} {path}"):
        return Target(Kind.SHARED_MEMORY, method, path)
    match = _MODEL_PATH.fullmatch(path)
    kind = _SUFFIXES.get((method, match[3])) if match else None
    if not match or not kind or (kind is Kind.FEEDBACK and match[2] is not None):
        raise not_offered(f"{method} {path}")
    version = version_number(match[2], "version in the path") if match[2] is not None else None
    return Target(kind, method, path, match[1], version, match[3])


def understand_rpc(service: str, method: str) -> Kind:
    """Find out what a gRPC method asks for.

    Raises:
        Refusal: 403 for what is not on the list.
    """
    kind = _RPCS.get(method) if service == RPC_SERVICE else None
    if kind is None:
        raise not_offered(f"{service}/{method}")
    return kind


def not_offered(what: str) -> Refusal:
    """What is not on the list."""
    return Refusal(HTTPStatus.FORBIDDEN, f"{what} is not offered here")


def check_region_key(key: str) -> None:
    """Hold the key of a region to be registered to what a client may name.

    Raises:
        Refusal: it is no name, or one of those through which Triton talks to python models.
    """
    if not _REGION_KEY.fullmatch(key):
        raise malformed(f"key: {key!r} is not the key of a client's region")


def version_number(text: str, where: str) -> int:
    """Read the version that a request names.

    Raises:
        Refusal: it is no positive integer.
    """
    if not _VERSION.fullmatch(text):
        raise malformed(f"{where}: {text!r} is not a positive integer")
    return int(text)
