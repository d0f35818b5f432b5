"""A real Kubernetes control plane on free ports of 127.0.0.1: etcd, API server, controllers.

RBAC is on: run the operator with `kubeconfig_for_service_account`, never as admin, so that
a missing rule shows. There is no kubelet and no scheduler (see `pods`).
"""

import json
import os
import secrets
import subprocess
import time
from base64 import b64encode
from pathlib import Path
from typing import Any, Self

from tidegate_tools import binaries
from tidegate_tools.addresses import free_port
from tidegate_tools.api import Api, ApiError, answers
from tidegate_tools.processes import Process, Supervisor

START_TIMEOUT = 60.0
STOP_GRACE = 3.0
TOKEN_SECONDS = 24 * 3600
# Without a kubelet nobody keeps a Node alive, and pods would be evicted from it or, with no
# Node at all, collected as orphans: the controllers that do so stay off.
CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "deployment-controller",
    "replicaset-controller",
)


class ControlPlane:
    """A control plane with its data, keys, logs and kubeconfigs in one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self._supervisor = Supervisor()
        self._api_server: Process | None = None
        self._controllers: Process | None = None

    def __enter__(self) -> Self:
        self._supervisor.__enter__()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._supervisor.__exit__(*error)

    def start(self) -> None:
        """Starts everything and returns once a service account can be used."""
        self._kubectl = binaries.ensure("kubectl")
        self._pki = self.directory / "pki"
        self._pki.mkdir(parents=True, exist_ok=True)
        self._port, self._etcd_port = free_port(), free_port()
        self.server = f"https://127.0.0.1:{self._port}"
        self._write_keys()
        self._start_etcd()
        self.start_api_server()
        self._start_controllers()
        self.wait_for_service_account("default", "default")

    def stop(self) -> None:
        """Stops everything, the controllers first: the API server waits for its watchers."""
        if self._controllers:
            self._controllers.stop(STOP_GRACE)
        self._supervisor.stop(STOP_GRACE)

    @property
    def ca(self) -> Path:
        """The certificates that the API server's own is checked against."""
        return self._pki / "apiserver.crt"

    @property
    def api(self) -> Api:
        """Raw requests as admin."""
        return Api(self.server, self.ca, self._token)

    def start_api_server(self) -> None:
        """Starts the API server; after a stop it comes back on the same port."""
        program = binaries.ensure("kube-apiserver")
        argv = [str(program), *self._api_server_options()]
        log = self.directory / "logs" / "kube-apiserver.log"
        self._api_server = self._supervisor.start("kube-apiserver", argv, log=log)
        self._api_server.wait_until(self._is_ready, START_TIMEOUT)
        write_kubeconfig(
            self.kubeconfig, server=self.server, ca=self.ca, user="admin", token=self._token
        )

    def stop_api_server(self) -> None:
        """Takes the API server away at once, as a crash would; etcd and the rest go on."""
        if self._api_server:
            self._api_server.kill()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """The output of kubectl as admin; raises `subprocess.CalledProcessError`."""
        ended = subprocess.run(
            [self._kubectl, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "NO_PROXY": "127.0.0.1"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise KubectlFailed(ended.returncode, arguments, ended.stdout, ended.stderr)
        return ended.stdout

    def make_namespace(self, name: str) -> None:
        """Makes an empty namespace; one of that name, and all that is in it, is gone before."""
        self.kubectl("delete", "namespace", name, "--ignore-not-found")
        self.kubectl("create", "namespace", name)

    def wait_for_service_account(self, namespace: str, name: str) -> None:
        """Returns once it exists: in a new namespace `default` comes a moment later."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.api.request("GET", path)
            except ApiError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a token of its own, for a service account that exists."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        token = self.api.request("POST", path, asked)["status"]["token"]
        file = self.directory / f"{namespace}.{name}.kubeconfig"
        write_kubeconfig(
            file, server=self.server, ca=self.ca, user=name, token=token, namespace=namespace
        )
        return file

    def _is_ready(self) -> bool:
        try:
            context = self.api.context
        except OSError:  # the server has not written its certificate yet, or not all of it
            return False
        return answers(f"{self.server}/readyz", context=context)

    def _write_keys(self) -> None:
        self._token = secrets.token_hex(16)
        private(self._pki / "tokens.csv", f'{self._token},admin,admin,"system:masters"\n')
        private(self._pki / "service-accounts.key", elliptic_key())

    def _start_etcd(self) -> None:
        url, peers = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{free_port()}"
        argv = [
            str(binaries.ensure("etcd")),
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers}",
            "--unsafe-no-fsync",  # nothing here outlives the machine's next crash
            "--log-level=warn",
        ]
        log = self.directory / "logs" / "etcd.log"
        etcd = self._supervisor.start("etcd", argv, log=log)
        etcd.wait_until(lambda: answers(f"{url}/health"), START_TIMEOUT)

    def _api_server_options(self) -> list[str]:
        keys = self._pki / "service-accounts.key"
        return [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._pki}",
            f"--token-auth-file={self._pki / 'tokens.csv'}",
            "--authorization-mode=RBAC,Node",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys}",
            f"--service-account-signing-key-file={keys}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",  # it refuses loopback addresses
        ]

    def _start_controllers(self) -> None:
        argv = [
            str(binaries.ensure("kube-controller-manager")),
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={self.directory / 'controllers'}",
            f"--root-ca-file={self.ca}",
            f"--service-account-private-key-file={self._pki / 'service-accounts.key'}",
        ]
        log = self.directory / "logs" / "kube-controller-manager.log"
        self._controllers = self._supervisor.start("kube-controller-manager", argv, log=log)


class KubectlFailed(subprocess.CalledProcessError):
    """kubectl's refusal, with what it said."""

    def __init__(self, status: int, arguments: tuple[str, ...], out: str, err: str) -> None:
        super().__init__(status, ["kubectl", *arguments], out, err)

    def __str__(self) -> str:
        return f"{super().__str__()} {self.stderr}"


def private(path: Path, text: str) -> None:
    """Writes a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)


def write_kubeconfig(
    path: Path, *, server: str, ca: Path, user: str, token: str, namespace: str = "default"
) -> None:
    """A kubeconfig with one cluster and one user, complete in itself (JSON is YAML)."""
    authority = b64encode(ca.read_bytes()).decode()
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "local",
                "cluster": {"server": server, "certificate-authority-data": authority},
            }
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [
            {"name": "local", "context": {"cluster": "local", "user": user, "namespace": namespace}}
        ],
        "current-context": "local",
    }
    private(path, json.dumps(config, indent=1))


def elliptic_key() -> str:
    """A new private key on the curve P-256, as PEM.

    RFC 5915 asks only for the secret number and the curve's name; whoever reads the key
    works out its public half. So no library and no openssl is needed to make one.
    """
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    secret = (secrets.randbelow(order - 1) + 1).to_bytes(32, "big")
    curve = bytes.fromhex("a00a06082a8648ce3d030107")
    der = bytes.fromhex("30310201010420") + secret + curve
    name = "EC PRIVATE KEY"
    return f"-----BEGIN {name}-----\n{b64encode(der).decode()}\n-----END {name}-----\n"
