"""Settings: from flags, from the environment, and what is said of wrong ones."""

from pathlib import Path

import pytest

from tidegate_sidecar.shell.config import connect, read_settings, traces

POD = {
    "TIDEGATE_MODELS": "digits, Resnet50,digits",
    "POD_NAME": "triton-0",
    "POD_UID": "uid-0",
    "POD_NAMESPACE": "serving",
}


def test_the_pods_environment_is_enough() -> None:
    settings = read_settings([], POD)
    assert settings.models == ("digits", "Resnet50")
    assert (settings.pod, settings.pod_uid, settings.namespace) == ("triton-0", "uid-0", "serving")
    assert (settings.host, settings.port, settings.admin_port) == (None, 9000, 9002)
    assert settings.grpc_port == 9001
    assert (settings.triton, settings.triton_grpc) == ("127.0.0.1:8000", "127.0.0.1:8001")
    assert settings.model_repository is None


def test_flags_win_over_the_environment() -> None:
    environment = {**POD, "TIDEGATE_PORT": "7000", "TIDEGATE_STATE_DIRECTORY": "/state"}
    environment["TIDEGATE_SECRET_DIRECTORY"] = "/secrets"
    settings = read_settings(["--port", "7001", "--host", "127.0.0.2"], environment)
    assert (settings.host, settings.port) == ("127.0.0.2", 7001)
    assert settings.state_directory == Path("/state")
    assert settings.secret_directory == Path("/secrets")


def test_tritons_metrics_are_beside_it_unless_said_otherwise() -> None:
    metrics = {"TIDEGATE_TRITON": "10.0.0.7:7000"}
    assert read_settings([], POD | metrics).triton_metrics == "10.0.0.7:8002"
    settings = read_settings(["--triton-metrics", "10.0.0.8:9"], POD | metrics)
    assert settings.triton_metrics == "10.0.0.8:9"
    assert read_settings(["--triton-metrics=off"], POD | metrics).triton_metrics is None


def test_tritons_cores_are_those_of_its_limit() -> None:
    assert read_settings([], POD).triton_cores is None
    assert read_settings([], {**POD, "TIDEGATE_TRITON_CORES": "4"}).triton_cores == 4


def test_memory_shared_with_triton_can_be_more_or_none() -> None:
    assert read_settings([], POD).triton_shm == 64
    assert read_settings([], {**POD, "TIDEGATE_TRITON_SHM": "0"}).triton_shm == 0


def test_shared_memory_is_offered_where_that_is_said() -> None:
    assert not read_settings([], POD).allow_client_shm
    assert read_settings(["--allow-client-shm"], POD).allow_client_shm
    told = {**POD, "TIDEGATE_ALLOW_CLIENT_SHM": "true"}
    assert read_settings([], told).allow_client_shm
    assert not read_settings(["--allow-client-shm", "false"], told).allow_client_shm


def test_headers_are_forwarded_where_that_is_said() -> None:
    assert read_settings([], POD).forward_headers is None
    told = POD | {"TIDEGATE_FORWARD_HEADERS": "^x-"}
    assert read_settings([], told).forward_headers == "^x-"


def test_a_variable_that_is_set_to_nothing_is_not_set() -> None:
    settings = read_settings([], {**POD, "TIDEGATE_TRITON": "", "TIDEGATE_MODEL_REPOSITORY": ""})
    assert settings.triton == "127.0.0.1:8000"
    assert settings.model_repository is None


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], POD | {"TIDEGATE_MODELS": " ,"}, "--models or TIDEGATE_MODELS must be given"),
        ([], {**POD, "POD_UID": ""}, "--pod-uid or POD_UID must be given"),
        (["--models", "../etc"], POD, "'../etc' is not the name of a model"),
        (["--models", "a" * 64], POD, "is not the name of a model"),
        (["--port", "0"], POD, "'0' is not a port"),
        ([], {**POD, "TIDEGATE_ADMIN_PORT": "65536"}, "'65536' is not a port"),
        (["--triton", "http://here:8000"], POD, "'http://here:8000' is not HOST:PORT"),
        (["--triton", "here"], POD, "'here' is not HOST:PORT"),
        (["--triton-grpc", "here"], POD, "'here' is not HOST:PORT"),
        (["--grpc-port", "x"], POD, "'x' is not a port"),
        (["--triton-metrics", "on"], POD, "'on' is not HOST:PORT"),
        (["--triton-shm=-1"], POD, "'-1' is not a number of MiB"),
        (["--triton-cores", "0"], POD, "'0' is not a number of cores"),
        (["--forward-headers=("], POD, "'(' is not a regular expression"),
        (["--allow-client-shm=1"], POD, "'1' is neither true nor false"),
        (["--drain-grace", "-1"], POD, "'-1' is not a number of seconds"),
        (["--drain-grace", "nan"], POD, "'nan' is not a number of seconds"),
        (["--prot", "9000"], POD, "unrecognized arguments: --prot"),
    ],
)
def test_a_wrong_setting_is_named(
    arguments: list[str],
    environment: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_settings(arguments, environment)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read_settings(["--help"], {})
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for variable in (*POD, "TIDEGATE_TRITON", "TIDEGATE_TABLE_DIRECTORY", "TIDEGATE_DRAIN_GRACE"):
        assert f"[{variable}]" in " ".join(text.split())


async def test_without_a_cluster_there_is_no_api_server() -> None:
    assert await connect({}) is None


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "1"}, True),
    ],
)
def test_spans_are_made_where_opentelemetry_says_whither(
    environment: dict[str, str], on: bool
) -> None:
    assert traces(environment) == on
