"""The sidecar's settings, from its flags and its environment, and its way to the API server."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from tidegate_contract import names

TRITON_METRICS_PORT: Final = 8002
OFF: Final = "off"

_PORTS: Final = range(1, 65_536)
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one sidecar is told.

    ``host``: None is every address. ``triton_metrics``: None: they are not asked. ``triton_cores``:
    None: all of this machine. ``drain_grace``: seconds for requests in flight at the end.
    ``forward_headers``: see ``Forwarding``; None: none are.
    ``triton_shm``: MiB.
    """

    models: tuple[str, ...]
    pod: str
    pod_uid: str
    namespace: str
    host: str | None
    port: int
    grpc_port: int
    admin_port: int
    triton: str
    triton_grpc: str
    triton_metrics: str | None
    triton_cores: int | None
    model_repository: Path | None
    state_directory: Path | None
    table_directory: Path | None
    secret_directory: Path | None
    drain_grace: float
    allow_client_shm: bool
    forward_headers: str | None
    triton_shm: int


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read the command line; what it leaves out comes from the environment.

    Raises:
        SystemExit: with status 2 after one line on stderr that names the wrong setting.
    """
    parser = _parser(environment)
    given = parser.parse_args(arguments)
    for flag, variable in _REQUIRED.items():
        if not getattr(given, flag):
            parser.error(f"--{flag.replace('_', '-')} or {variable} must be given")
    if given.triton_metrics is None:
        given.triton_metrics = f"{given.triton.rpartition(':')[0]}:{TRITON_METRICS_PORT}"
    elif given.triton_metrics == OFF:
        given.triton_metrics = None
    return Settings(**vars(given))


def traces(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables say where spans go."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(map(environment.get, _ENDPOINTS))


async def connect(environment: Mapping[str, str] = os.environ) -> ApiClient | None:
    """A client of the API server: the pod's own account, else KUBECONFIG; None without either.

    Raises:
        ConfigException: KUBECONFIG cannot be used.
    """
    configuration = Configuration()
    try:
        load_incluster_config(configuration)
    except ConfigException:
        path = environment.get("KUBECONFIG")
        if not path:
            return None
        try:
            await load_kube_config(path, client_configuration=configuration, persist_config=False)
        except (OSError, yaml.YAMLError) as error:
            raise ConfigException(str(error)) from error
    return ApiClient(configuration)


_REQUIRED: Final = {
    "models": "TIDEGATE_MODELS",
    "pod": "POD_NAME",
    "pod_uid": "POD_UID",
    "namespace": "POD_NAMESPACE",
}


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidegate-sidecar",
        description="Routes, queues and batches the requests of one pod's Triton, and keeps its"
        " versions as the models' routing tables want them. Each flag may be given by the"
        " environment variable named with it.",
        epilog="Tables are read from the API server through the pod's service account, else"
        " through KUBECONFIG, else from --table-directory alone.",
        allow_abbrev=False,
    )

    def add(flag: str, variable: str, read: object, default: str, text: str) -> None:
        parser.add_argument(
            flag,
            type=read,  # type: ignore[arg-type]
            # argparse reads defaults that are strings as it reads what is given.
            default=environment.get(variable) or default or None,
            metavar="VALUE",
            help=f"{text} [{variable}]" + (f" (default: {default})" if default else ""),
        )

    add("--models", "TIDEGATE_MODELS", _models, "", "Triton's names of the models, by comma")
    add("--pod", "POD_NAME", str, "", "this pod's name")
    add("--pod-uid", "POD_UID", str, "", "this pod's uid")
    add("--namespace", "POD_NAMESPACE", str, "", "this pod's namespace")
    add("--host", "TIDEGATE_HOST", str, "", "the one address to listen on, else all")
    add("--port", "TIDEGATE_PORT", _port, str(names.PORT_HTTP), "port for inference")
    add("--grpc-port", "TIDEGATE_GRPC_PORT", _port, str(names.PORT_GRPC), "port for gRPC")
    add("--admin-port", "TIDEGATE_ADMIN_PORT", _port, str(names.PORT_ADMIN), "port for probes")
    add("--triton", "TIDEGATE_TRITON", _address, "127.0.0.1:8000", "Triton's HTTP address")
    add(
        "--triton-grpc",
        "TIDEGATE_TRITON_GRPC",
        _address,
        "127.0.0.1:8001",
        "Triton's gRPC address, for what passes through: streams, and questions asked by gRPC",
    )
    add(
        "--triton-metrics",
        "TIDEGATE_TRITON_METRICS",
        _metrics,
        "",
        "address of Triton's metrics, by which batches shrink while a GPU's memory is short; off:"
        f" they do not (default: port {TRITON_METRICS_PORT} beside Triton's HTTP)",
    )
    add(
        "--triton-cores",
        "TIDEGATE_TRITON_CORES",
        _cores,
        "",
        "CPU cores that Triton may use (default: all of this machine)",
    )
    add(
        "--triton-shm",
        "TIDEGATE_TRITON_SHM",
        _mebibytes,
        "64",
        "MiB of memory shared with Triton for large tensors, taken when there is one; 0: none",
    )
    add(
        "--model-repository",
        "TIDEGATE_MODEL_REPOSITORY",
        Path,
        "",
        "Triton's model repository, mounted here too: models are then loaded with their"
        " config.pbtxt just as it is, and no version is loaded only to learn it",
    )
    add(
        "--state-directory",
        "TIDEGATE_STATE_DIRECTORY",
        Path,
        "",
        "where the tables last applied are kept, for a restart without the API server",
    )
    add(
        "--table-directory",
        "TIDEGATE_TABLE_DIRECTORY",
        Path,
        "",
        "where the tables' ConfigMaps are mounted, each in a folder of its own name",
    )
    add(
        "--secret-directory",
        "TIDEGATE_SECRET_DIRECTORY",
        Path,
        "",
        "where the models' Secrets are mounted, each in a folder of its own name: they are read"
        " there, not from the API server",
    )
    parser.add_argument(
        "--allow-client-shm",
        type=_switch,
        nargs="?",
        const=True,
        default=environment.get("TIDEGATE_ALLOW_CLIENT_SHM") or "false",
        metavar="true|false",
        help="let clients register regions of the system's shared memory, and keep tensors there"
        " [TIDEGATE_ALLOW_CLIENT_SHM]",
    )
    add(
        "--forward-headers",
        "TIDEGATE_FORWARD_HEADERS",
        _pattern,
        "",
        "headers that models are told of as parameters of their requests: what Triton alone would"
        " be given as --http-header-forward-pattern",
    )
    add("--drain-grace", "TIDEGATE_DRAIN_GRACE", _seconds, "20", "seconds to drain at the end")
    return parser


def _models(text: str) -> tuple[str, ...]:
    models = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for model in models:
        if len(model) > names.MODEL_MAX_LENGTH or not re.fullmatch(names.MODEL_PATTERN, model):
            raise argparse.ArgumentTypeError(f"{model!r} is not the name of a model")
    return models


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) not in _PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or "/" in host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    _port(port)
    return text


def _metrics(text: str) -> str:
    return text if text == OFF else _address(text)


def _cores(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of cores")
    return int(text)


def _mebibytes(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB")
    return int(text)


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
    return text


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds
