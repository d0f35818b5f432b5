"""NVIDIA Triton with its python backend, without a container or a GPU.

A wheel carries the server; it gets a virtual environment of its own, because its models
run in that environment's Python and it wants an older numpy than the rest of the project.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tidegate_tools import cache, wheels
from tidegate_tools.processes import Launch
from tidegate_tools.progress import Board, Task

HTTP_PORT = 8000
METRICS_PORT = 8002
# Triton's python backend starts a stub of the models' Python version. It comes with one for
# 3.13 too, but no numpy that the backend can work with exists for that.
STUB_VERSIONS = ("3.12", "3.11", "3.10")
_LOCK = "triton.txt"
# A server that was killed leaves its shared memory behind: the next one at the same address
# takes it away, then the shell becomes the server.
_SWEEP_AND_BECOME = 'rm -f /dev/shm/"$0"*; exec "$@"'


class TritonUnavailable(Exception):  # noqa: N818 - it is named for what happened
    """No interpreter on this machine can run Triton's python backend."""


def find() -> Path | None:
    """Triton's environment where it is made already."""
    return cache.existing(_entry())


def ensure(board: Board | None = None) -> Path:
    """Triton's environment, made now where this machine has none; progress is shown."""
    if found := find():
        return found
    if not board:
        with Board() as own:
            return ensure(own)
    why = "models are served by a real one; fetched once, then cached"
    with board.task("NVIDIA Triton", why, "20 s") as task:
        return cache.made(
            _entry(),
            lambda into: _make(into, task),
            lambda: setattr(task, "note", "another process is fetching it"),
        )


def launch(
    models: Path,
    ip: str,
    *,
    http_port: int = HTTP_PORT,
    metrics_port: int = METRICS_PORT,
    grpc_port: int | None = None,
    verbose: int = 0,
) -> Launch:
    """How to start a server on an address, with a model repository and explicit loading.

    Every address may have one: the standard ports stay free on the others, and the shared
    memory of the python backend is named for the address. ``grpc_port``: None: it speaks no gRPC.
    """
    home = ensure()
    server = _packages(home) / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    shared_memory = _shared_memory(ip, http_port)
    argv = (
        *("/bin/sh", "-c", _SWEEP_AND_BECOME, shared_memory, str(server)),
        f"--model-repository={models}",
        "--model-control-mode=explicit",
        f"--backend-directory={home / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shared_memory}",
        f"--http-address={ip}",
        f"--http-port={http_port}",
        f"--metrics-address={ip}",
        f"--metrics-port={metrics_port}",
        *_grpc(ip, grpc_port),
        "--exit-timeout-secs=5",
        f"--log-verbose={verbose}",
    )
    return Launch(argv, _environment(home))


def _grpc(ip: str, port: int | None) -> tuple[str, ...]:
    return (f"--grpc-address={ip}", f"--grpc-port={port}") if port else ("--allow-grpc=false",)


def sweep(ip: str, *, http_port: int = HTTP_PORT) -> None:
    """Takes away the shared memory that a server at an address has left when it ended."""
    for left in Path("/dev/shm").glob(f"{_shared_memory(ip, http_port)}*"):  # noqa: S108
        left.unlink(missing_ok=True)


def _shared_memory(ip: str, http_port: int) -> str:
    return f"tidegate_{ip}_{http_port}_"


def _environment(home: Path) -> dict[str, str]:
    """The models' Python is the first `python3` on the PATH; the wheel brings its libraries."""
    path = f"{home / 'bin'}:{os.environ.get('PATH', os.defpath)}"
    dropped = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    libraries = (home / "library-path").read_text()
    # One thread for each model: on two cores a thread pool for each only costs.
    return {
        **kept,
        "PATH": path,
        "LD_LIBRARY_PATH": f"{_packages(home) / 'nvidia_pytriton.libs'}:{libraries}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _entry() -> str:
    digest = hashlib.sha256((wheels.LOCKS / _LOCK).read_bytes()).hexdigest()[:8]
    return f"triton-{digest}-python{sys.version_info.major}.{sys.version_info.minor}"


def _make(into: Path, task: Task) -> None:
    problems = []
    for python in _interpreters():
        task.note = f"installing for {python}"
        shutil.rmtree(into, ignore_errors=True)
        try:
            version = _ask(python, "'%d.%d' % sys.version_info[:2]")
            # Its own process: `python` need not be the interpreter that runs this.
            subprocess.run([python, "-m", "venv", into], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            problems.append(f"{python}: {error}")
            continue
        wheels.install(into / "bin" / "python", _LOCK)
        problem = _lay_out_backend(into, version)
        if not problem:
            return
        problems.append(f"{python}: {problem}")
    raise TritonUnavailable(
        f"Triton's models need a Python of version {STUB_VERSIONS[-1]} to {STUB_VERSIONS[0]} "
        "with its venv module and its shared library (Debian: the packages python3-venv and "
        f"libpython3.11). Tried: {'; '.join(problems) or 'none found'}"
    )


def _interpreters() -> list[str]:
    """The running Python first, then the others on the PATH, as far as there is a stub."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    others = [shutil.which(f"python{version}") for version in STUB_VERSIONS]
    first = [sys.executable] if running in STUB_VERSIONS else []
    return [*first, *(other for other in others if other and other not in first)]


def _lay_out_backend(home: Path, version: str) -> str:
    """Puts the backend and the stub for a Python version together; the problem, if any."""
    tree = _packages(home) / "pytriton" / "tritonserver"
    backend = home / "backends" / "python"
    shutil.copytree(tree / "backends" / "python", backend)
    stub = backend / "triton_python_backend_stub"
    shutil.copy2(tree / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    # Where the interpreter's own shared library lies, for interpreters outside the system's.
    libraries = _ask(str(home / "bin" / "python"), "sysconfig.get_config_var('LIBDIR') or ''")
    (home / "library-path").write_text(libraries)
    ended = subprocess.run(
        ["ldd", stub], env=_environment(home), capture_output=True, text=True, check=False
    )
    missing = [line.split()[0] for line in ended.stdout.splitlines() if "not found" in line]
    return f"no {', '.join(missing)}" if missing else ""


def _ask(python: str, expression: str) -> str:
    question = f"import sys, sysconfig; print({expression})"
    ended = subprocess.run([python, "-c", question], check=True, capture_output=True, text=True)
    return ended.stdout.strip()


def _packages(home: Path) -> Path:
    (found,) = home.glob("lib/python3.*/site-packages")
    return found
