"""The cluster of the demo, embedded or the user's own: what is applied to it and read from it.

A person's acts go through kubectl, and the screen shows them as they are run; what fills the
screen is read with a service account's token that may do no more than that.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tidegate_contract import names
from tidegate_contract.table import RoutingTable
from tidegate_contract.table import decode as decode_table
from tidegate_demo.train import MODEL
from tidegate_tools import binaries
from tidegate_tools.api import Api, ApiError
from tidegate_tools.controlplane import private

CHECKOUT: Final = Path(__file__).parents[2]
MANIFESTS: Final = Path("demo/manifests")
NAMESPACE: Final = "demo"
RELEASE: Final = "tidegate-demo"
STAGE_ACCOUNT: Final = "demo-stage"
SIDECAR_ACCOUNT: Final = "digits-triton"
OURS: Final = ("app.kubernetes.io/part-of", RELEASE)
TOKEN_SECONDS: Final = 24 * 3600
PLURALS: Final = ("modelversions", "canaryrollouts", "abtests", "batchpolicies")
CRDS: Final = tuple(f"{plural}.{names.GROUP}" for plural in PLURALS)

Object = dict[str, Any]


class ClusterError(Exception):
    """The cluster cannot be used for the demo, or refused something; says why."""


class Cluster:
    """A cluster that is reached with a kubeconfig (None: whichever kubectl finds)."""

    def __init__(self, kubeconfig: Path | None, directory: Path) -> None:
        self.kubeconfig = kubeconfig
        self._directory = directory
        self._kubectl = binaries.ensure("kubectl")
        self._is_ours = False
        self._crds_are_ours = False
        self._api: Api | None = None

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints.

        Raises:
            ClusterError: it was refused; the message is kubectl's.
        """
        plugins = Path(sys.executable).parent  # where kubectl finds its word tidegate
        environment = {**os.environ, "PATH": f"{plugins}:{os.environ.get('PATH', '')}"}
        if self.kubeconfig:
            environment["KUBECONFIG"] = str(self.kubeconfig)
        ended = subprocess.run(
            [self._kubectl, *arguments],
            env=environment,
            cwd=CHECKOUT,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {ended.stderr.strip()}")
        return ended.stdout.strip()

    @property
    def context(self) -> str:
        """The name that the kubeconfig has for the cluster and the user."""
        return self.kubectl("config", "current-context")

    def prepare(self) -> None:
        """Apply the kinds, the namespace and the rights, as the chart ships them.

        Raises:
            ClusterError: the cluster is not to be had, or its namespace is somebody else's.
        """
        self._refuse_a_strangers_namespace()
        self._is_ours = True
        self.remove()  # what a run that was killed has left
        present = self.kubectl("get", "crd", *CRDS, "--ignore-not-found", "--output=name")
        if not present:
            self._crds_are_ours = True
            self.kubectl("apply", "--server-side", "--filename=crds/")
            self.kubectl("wait", "--for=condition=Established", "crd", *CRDS, "--timeout=30s")
        self.kubectl("apply", f"--filename={MANIFESTS / '0-namespace.yaml'}")
        self.kubectl("apply", "--filename=-", stdin=self._chart_rights())
        self._api = self._api_of_stage()

    def remove(self) -> None:
        """Take away what `prepare` and the story brought, and leave what was there before."""
        if not self._is_ours:
            return
        self.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
        for kind in ("clusterrolebinding", "clusterrole"):
            label = f"app.kubernetes.io/instance={RELEASE}"
            self.kubectl("delete", kind, f"--selector={label}", "--ignore-not-found")
        if self._crds_are_ours:
            self.kubectl("delete", "crd", *CRDS, "--ignore-not-found")

    def kubeconfig_of(self, account: str) -> Path:
        """A kubeconfig for a service account of the demo's namespace, with a token of its own."""
        token = self._token(account)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "demo", "cluster": self._address()}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [
                {
                    "name": "demo",
                    "context": {"cluster": "demo", "user": account, "namespace": NAMESPACE},
                }
            ],
            "current-context": "demo",
        }
        path = self._directory / f"{account}.kubeconfig"
        private(path, json.dumps(config, indent=1))
        return path

    @property
    def api(self) -> Api:
        """Raw requests with the rights of what stands in for a kubelet and fills the screen."""
        assert self._api is not None, "prepare() comes first"
        return self._api

    def object(self, plural: str, name: str) -> Object:
        """One of Tidegate's objects; empty where there is none."""
        group = f"/apis/{names.GROUP}/{names.API_VERSION}"
        return self._get(f"{group}/namespaces/{NAMESPACE}/{plural}/{name}")

    def events(self) -> Iterator[Object]:
        """The events about Tidegate's objects, oldest first."""
        items = self._get(f"/api/v1/namespaces/{NAMESPACE}/events").get("items", [])
        ours = [
            one
            for one in items
            if one["involvedObject"].get("apiVersion", "").startswith(names.GROUP)
        ]
        yield from sorted(ours, key=lambda one: int(one["metadata"]["resourceVersion"]))

    def ready_addresses(self) -> list[str]:
        """The addresses of the pods that are Ready, as a Service's endpoints would have them."""
        selector = f"labelSelector={names.LABEL_MODEL}%3D{MODEL}"
        pods = self._get(f"/api/v1/namespaces/{NAMESPACE}/pods?{selector}").get("items", [])
        return [pod["status"]["podIP"] for pod in pods if _is_ready(pod)]

    def table(self) -> RoutingTable:
        """The model's routing table as it is now."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{names.routing_table_name(MODEL)}"
        data = self.api.request("GET", path)["data"]
        return decode_table(data[names.TABLE_KEY], data[names.DIGEST_KEY])

    def wait_for(self, what: str, ready: Any, timeout: float) -> None:
        """Return once ``ready()`` is true.

        Raises:
            ClusterError: it was not in time; says where the logs are.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if time.monotonic() > deadline:
                raise ClusterError(f"no {what} in {timeout:g} s; logs are in {self._directory}")
            time.sleep(0.2)

    def _get(self, path: str) -> Object:
        try:
            return self.api.request("GET", path)
        except ApiError as error:
            if error.status == 404:  # noqa: PLR2004 - HTTP's own number
                return {}
            raise

    def _refuse_a_strangers_namespace(self) -> None:
        found = self.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "--output=json")
        if found and json.loads(found)["metadata"].get("labels", {}).get(OURS[0]) != OURS[1]:
            raise ClusterError(
                f"namespace {NAMESPACE} exists in this cluster and is not the demo's: nothing was "
                f"changed. Use another cluster, or `make demo` without CLUSTER"
            )

    def _chart_rights(self) -> str:
        """The service account and roles of the operator and the sidecars, as Helm renders them."""
        account = (
            f"{{namespace: {NAMESPACE}, serviceAccount: {SIDECAR_ACCOUNT}, models: [{MODEL}]}}"
        )
        return subprocess.run(
            [
                binaries.ensure("helm"),
                "template",
                RELEASE,
                "charts/tidegate",
                f"--namespace={NAMESPACE}",
                "--show-only=templates/operator/rbac.yaml",
                "--show-only=templates/sidecar/rbac.yaml",
                "--set=image.repository=none,prometheus.url=http://none",
                f"--set=watchNamespaces={{{NAMESPACE}}}",
                "--values=-",
            ],
            cwd=CHECKOUT,
            input=f"sidecars: [{account}]\n",
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def _address(self) -> Object:
        view = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json")
        address: Object = json.loads(view)["clusters"][0]["cluster"]
        return address

    def _token(self, account: str) -> str:
        duration = f"--duration={TOKEN_SECONDS}s"
        return self.kubectl("create", "token", account, f"--namespace={NAMESPACE}", duration)

    def _api_of_stage(self) -> Api:
        address = self._address()
        if "certificate-authority-data" not in address:
            raise ClusterError("the kubeconfig names no certificate authority for its cluster")
        authority = self._directory / "cluster-ca.crt"
        authority.write_bytes(base64.b64decode(address["certificate-authority-data"]))
        return Api(address["server"], authority, self._token(STAGE_ACCOUNT))


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]
