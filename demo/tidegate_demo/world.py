"""Brings up everything that the demo runs on, and takes it down again, whatever happens.

Real parts: a control plane (or the cluster at hand), Prometheus, two Tritons, their sidecars and
the operator with the rights that the chart gives it. What dies is started again, as Kubernetes
would: containers by the pods' stand-in kubelet, the operator and Prometheus by a watch here.
"""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from tidegate_contract import names
from tidegate_demo.cluster import NAMESPACE, RELEASE, SIDECAR_ACCOUNT, Cluster
from tidegate_demo.ledger import Ledger
from tidegate_demo.traffic import Traffic
from tidegate_demo.train import MODEL, HeldOut, train
from tidegate_demo.view import Screen
from tidegate_tools import binaries, triton
from tidegate_tools.addresses import free_port
from tidegate_tools.api import ApiError, answers
from tidegate_tools.controlplane import ControlPlane
from tidegate_tools.pods import Container, LocalPod, ScrapeTargets
from tidegate_tools.processes import Launch, Process, ProcessFailed, Supervisor
from tidegate_tools.prometheus import Prometheus

ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")
RATE: Final = 150.0
PROGRAMS: Final = ("kubectl", "prometheus", "helm")
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager")
BACK_OFF_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 0.25
READY_SECONDS: Final = 60.0

Which = Literal["embedded", "current"]


class Service(Protocol):
    """Something that runs for as long as the world does."""

    @property
    def alive(self) -> bool:
        """Whether it still runs."""

    def start(self) -> None:
        """Start it, again where it has died."""


class Operator:
    """The operator's process, with the service account and role of the chart."""

    def __init__(self, kubeconfig: Path, prometheus_url: str, port: int, log: Path) -> None:
        self._supervisor = Supervisor()
        self._argv = [
            str(Path(sys.executable).with_name("tidegate-operator")),
            f"--prometheus-url={prometheus_url}",
            "--scrape-interval=1s",
            f"--namespace={NAMESPACE}",
            f"--listen={port}",
        ]
        self._env = environment(kubeconfig)
        self._log = log
        self._process: Process | None = None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.alive

    def start(self) -> None:
        """Start it, again where it has died."""
        self._process = self._supervisor.start("operator", self._argv, env=self._env, log=self._log)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process:
            self._process.kill()

    def stop(self) -> None:
        """End it in order."""
        self._supervisor.stop()


class World:
    """Everything, from `__enter__` to `__exit__`."""

    def __init__(
        self,
        directory: Path,
        screen: Screen,
        *,
        which: Which = "embedded",
        addresses: tuple[str, ...] = ADDRESSES,
    ) -> None:
        self.directory = directory
        self._screen = screen
        self._which = which
        self._addresses = addresses
        self._stack = contextlib.ExitStack()
        self._services: list[Service] = []
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        self.cluster: Cluster
        self.prometheus: Prometheus
        self.operator: Operator
        self.held_out: HeldOut
        self.ledger: Ledger
        self.traffic: Traffic
        self.pods: list[LocalPod] = []

    def __enter__(self) -> Self:
        try:
            self._bring_up()
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._take_down()

    def sidecars(self) -> list[str]:
        """The addresses of the sidecars' own ports for health and metrics."""
        return [f"http://{address}:{names.PORT_ADMIN}" for address in self._addresses]

    def _bring_up(self) -> None:
        self._stack.enter_context(Supervisor())  # from here on SIGTERM ends all in order
        refuse_taken_ports(self._addresses)
        for program in (*PROGRAMS, *(CONTROL_PLANE if self._which == "embedded" else ())):
            binaries.ensure(program)
        triton.ensure()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        step = self._screen.step
        with step("Models", "four versions of a digit classifier, trained now"):
            self.held_out = train(self.directory / "models")
            compile_sources(self.directory / "models")
        self.ledger = Ledger(self.held_out)
        self.traffic = Traffic(self.ledger, self.held_out, RATE)
        self._bring_up_cluster()
        self._watching.start()
        with step("Prometheus", "scrapes the sidecars and the operator every second"):
            self._bring_up_prometheus()
        with step("Operator", "its own service account, with the chart's role"):
            self._bring_up_operator()
        with step("Pods", f"Triton and the sidecar, at {' and '.join(self._addresses)}"):
            self._bring_up_pods()

    def _bring_up_cluster(self) -> None:
        kubeconfig = None
        if self._which == "embedded":
            with self._screen.step(
                "Control plane",
                f"etcd, API server, controllers {binaries.KUBERNETES_VERSION}; RBAC on",
            ):
                plane = ControlPlane(self.directory / "control-plane")
                kubeconfig = self._stack.enter_context(plane).kubeconfig
        self.cluster = Cluster(kubeconfig, self.directory)
        where = f"{self.cluster.context}: " if self._which == "current" else ""
        with self._screen.step("Cluster", f"{where}kinds, namespace demo, the roles of the chart"):
            if self._which == "current":
                self._stack.callback(self.cluster.remove)
            self.cluster.prepare()

    def _bring_up_prometheus(self) -> None:
        self._targets = ScrapeTargets(self.directory / "sidecars.json")
        self._operator_port = free_port()
        self.prometheus = Prometheus(
            self.directory / "prometheus",
            sidecars=self._targets.path,
            operators=[f"127.0.0.1:{self._operator_port}"],
        )
        self._stack.enter_context(self.prometheus)
        self._services.append(self.prometheus)

    def _bring_up_operator(self) -> None:
        self.operator = Operator(
            self.cluster.kubeconfig_of(RELEASE),
            self.prometheus.url,
            self._operator_port,
            self.directory / "operator.log",
        )
        self._stack.callback(self.operator.stop)
        self.operator.start()
        self._services.append(self.operator)
        url = f"http://127.0.0.1:{self._operator_port}/healthz"
        self.cluster.wait_for(
            "sign of health from the operator", lambda: answers(url), READY_SECONDS
        )

    def _bring_up_pods(self) -> None:
        kubeconfig = self.cluster.kubeconfig_of(SIDECAR_ACCOUNT)
        self._stack.callback(self._stop_pods)
        for number, address in enumerate(self._addresses):
            name = f"digits-triton-{number}"
            pod = LocalPod(
                self.cluster.api,
                name,
                address,
                containers(self.directory, name, address, kubeconfig),
                directory=self.directory / "pods",
                namespace=NAMESPACE,
                labels={names.LABEL_MODEL: MODEL},
                targets=self._targets,
            )
            self.pods.append(pod)
            pod.start()
        alive = [
            f"http://{address}:{triton.HTTP_PORT}/v2/health/live" for address in self._addresses
        ]
        healthy = [f"{sidecar}/healthz" for sidecar in self.sidecars()]
        self.cluster.wait_for(
            "sign of health from the pods",
            lambda: all(map(answers, alive + healthy)),
            READY_SECONDS,
        )

    def _stop_pods(self) -> None:
        """All at once: each Triton takes its seconds to let its connections go."""
        with ThreadPoolExecutor() as threads:
            for stopping in [threads.submit(pod.stop) for pod in self.pods]:
                stopping.result()
        for address in self._addresses:
            triton.sweep(address)

    def _take_down(self) -> None:
        """End everything, what came last first; a second Ctrl-C does not leave it half done."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._ended.set()
            if self._watching.ident:
                self._screen.say("Stopping everything ...", "dim")
                self._watching.join()
                self.traffic.stop()
            self._stack.close()
        finally:
            signal.signal(signal.SIGINT, before)

    def _watch(self) -> None:
        """Start again what has died, and send the clients to the pods that are Ready."""
        while not self._ended.wait(WATCH_SECONDS):
            with contextlib.suppress(ApiError):  # the API server is away: as it last was
                self.traffic.ready = self.cluster.ready_addresses()
            for service in self._services:
                if not service.alive and not self._ended.wait(BACK_OFF_SECONDS):
                    with contextlib.suppress(ProcessFailed):  # the next look tries again
                        service.start()


class PortTaken(Exception):  # noqa: N818 - it is named for what happened
    """Something else listens where a pod of the demo should."""


def refuse_taken_ports(addresses: Sequence[str]) -> None:
    """See that the pods' ports are free.

    Raises:
        PortTaken: one is not; says which.
    """
    ports = (triton.HTTP_PORT, triton.METRICS_PORT, names.PORT_HTTP, names.PORT_ADMIN)
    for address, port in itertools.product(addresses, ports):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise PortTaken(
                    f"port {port} of {address} cannot be had ({error.strerror}): end what listens "
                    f"there, on all addresses perhaps (ss -ltnp 'sport = :{port}')"
                ) from error


def compile_sources(models: Path) -> None:
    """Compile the models' sources as Triton's Python would at their first load.

    What it then writes beside a source counts for Triton as a change of that version's files: the
    next load of any version would load this one again, while it serves.
    """
    python = triton.ensure() / "bin" / "python"
    subprocess.run([python, "-m", "compileall", "-q", models], check=True)


def containers(directory: Path, name: str, address: str, kubeconfig: Path) -> list[Container]:
    """What a pod runs: the sidecar, and Triton behind it."""
    models = directory / "models"
    sidecar = (
        str(Path(sys.executable).with_name("tidegate-sidecar")),
        f"--models={MODEL}",
        f"--host={address}",
        f"--triton={address}:{triton.HTTP_PORT}",
        f"--model-repository={models}",
        f"--state-directory={directory / 'pods' / name / 'state'}",
    )
    return [
        Container("sidecar", "tidegate/sidecar", Launch(sidecar, environment(kubeconfig))),
        Container("triton", "nvcr.io/nvidia/tritonserver", triton.launch(models, address)),
    ]


def environment(kubeconfig: Path) -> Mapping[str, str]:
    """A process's environment with one cluster, and no proxy before this machine's servers."""
    direct = ",".join(filter(None, ("127.0.0.0/8", "localhost", os.environ.get("NO_PROXY"))))
    return {**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": direct, "no_proxy": direct}
