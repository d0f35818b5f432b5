"""The allow-list."""

import pytest

from tidegate_sidecar.core.endpoints import (
    RPC_SERVICE,
    Kind,
    Target,
    check_region_key,
    understand,
    understand_rpc,
    version_number,
)
from tidegate_sidecar.core.refusal import Refusal


@pytest.mark.parametrize(
    ("method", "path", "kind", "model", "version"),
    [
        ("POST", "/v2/models/m/infer", Kind.INFER, "m", None),
        ("POST", "/v2/models/m/versions/3/infer", Kind.INFER, "m", 3),
        ("POST", "/v2/models/Resnet_50.b-1/infer?trace=1", Kind.INFER, "Resnet_50.b-1", None),
        ("POST", "/v2/models/m/feedback", Kind.FEEDBACK, "m", None),
        ("GET", "/v2/models/m", Kind.TRITON_MODEL, "m", None),
        ("GET", "/v2/models/m/versions/2", Kind.TRITON_MODEL, "m", 2),
        ("GET", "/v2/models/m/config", Kind.TRITON_MODEL, "m", None),
        ("GET", "/v2/models/m/versions/2/stats", Kind.TRITON_MODEL, "m", 2),
        ("GET", "/v2/models/m/ready", Kind.TRITON_MODEL, "m", None),
        ("GET", "/v2/health/ready", Kind.READY, "", None),
        ("GET", "/v2/health/live", Kind.TRITON, "", None),
        ("GET", "/v2", Kind.TRITON, "", None),
        ("GET", "/v2/", Kind.TRITON, "", None),
        ("POST", "/v2/repository/index", Kind.TRITON, "", None),
        ("GET", "/v2/systemsharedmemory/status", Kind.SHARED_MEMORY, "", None),
        ("GET", "/v2/systemsharedmemory/region/x/status", Kind.SHARED_MEMORY, "", None),
        ("POST", "/v2/systemsharedmemory/region/x/register", Kind.SHARED_MEMORY, "", None),
        ("POST", "/v2/systemsharedmemory/region/x/unregister", Kind.SHARED_MEMORY, "", None),
        ("POST", "/v2/systemsharedmemory/unregister", Kind.SHARED_MEMORY, "", None),
    ],
)
def test_what_is_offered(
    method: str, path: str, kind: Kind, model: str, version: int | None
) -> None:
    target = understand(method, path)
    assert (target.kind, target.model, target.version) == (kind, model, version)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/m/load"),
        ("POST", "/v2/repository/models/m/unload"),
        ("POST", "/v2/repository//models/m/load"),
        ("POST", "/v2/models/m/../../repository/models/m/load"),
        ("POST", "/v2/models/m%2f..%2f..%2frepository/models/m/load"),
        ("GET", "/v2/systemsharedmemory/region/x/register"),
        ("POST", "/v2/systemsharedmemory/register"),
        ("POST", "/v2/systemsharedmemory/region/x/y/register"),
        ("POST", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/cudasharedmemory/region/x/register"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/models/m/generate"),
        ("POST", "/v2/models/m/trace/setting"),
        ("GET", "/v2/models/m/infer"),
        ("GET", "/v2/models/m/feedback"),
        ("POST", "/v2/models/m/versions/1/feedback"),
        ("PUT", "/v2/models/m/infer"),
        ("POST", "/v2/models/m/infer/"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "http://other/v2"),
        ("GET", ""),
    ],
)
def test_all_else_is_shut(method: str, path: str) -> None:
    with pytest.raises(Refusal) as caught:
        understand(method, path)
    assert caught.value.status == 403


@pytest.mark.parametrize("version", ["0", "-1", "01", "x", "1.0", "٣", "9" * 30])
def test_a_version_is_a_positive_integer(version: str) -> None:
    with pytest.raises(Refusal, match="version") as caught:
        understand("POST", f"/v2/models/m/versions/{version}/infer")
    assert caught.value.status == 400


def test_the_version_is_always_named_to_triton() -> None:
    assert understand("GET", "/v2/models/m/config").triton_path(4) == (
        "/v2/models/m/versions/4/config"
    )
    assert understand("GET", "/v2/models/m/versions/2").triton_path(4) == "/v2/models/m/versions/2"
    assert understand("GET", "/v2/").triton_path(0) == "/v2"
    assert isinstance(understand("GET", "/v2"), Target)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("ModelInfer", Kind.INFER),
        ("ModelStreamInfer", Kind.STREAM),
        ("ServerReady", Kind.READY),
        ("ServerMetadata", Kind.TRITON),
        ("ModelConfig", Kind.TRITON_MODEL),
        ("SystemSharedMemoryRegister", Kind.SHARED_MEMORY),
    ],
)
def test_what_is_offered_over_grpc(method: str, kind: Kind) -> None:
    assert understand_rpc(RPC_SERVICE, method) is kind


@pytest.mark.parametrize(
    ("service", "method"),
    [
        (RPC_SERVICE, "RepositoryModelLoad"),
        (RPC_SERVICE, "CudaSharedMemoryRegister"),
        (RPC_SERVICE, "modelinfer"),
        (RPC_SERVICE, ""),
        ("other", "ModelInfer"),
    ],
)
def test_all_else_is_shut_over_grpc(service: str, method: str) -> None:
    with pytest.raises(Refusal) as caught:
        understand_rpc(service, method)
    assert caught.value.status == 403


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.0", " 1", "", "\N{SUPERSCRIPT TWO}", "9" * 19])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(Refusal, match="model_version") as caught:
        version_number(text, "model_version")
    assert caught.value.status == 400


def test_a_region_is_the_clients_own() -> None:
    check_region_key("/input_data")
    check_region_key("input data")
    for key in ("", "/", "a/b", "/../a", "/triton_python_backend_shm_region_1", "a\0b"):
        with pytest.raises(Refusal, match="key") as caught:
            check_region_key(key)
        assert caught.value.status == 400
