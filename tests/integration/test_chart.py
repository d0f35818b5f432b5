"""The chart: what it refuses, what it renders, and its release on a real API server."""

import http.client
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate_contract.names import feedback_secret_name, pairs_secret_name, routing_table_name
from tidegate_tools import binaries
from tidegate_tools.api import Api, ApiError
from tidegate_tools.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tidegate"
NEEDED = (
    "--set=image.repository=example.com/tidegate",
    "--set=prometheus.url=http://prometheus:9090",
)
MODELS = ["digits", "Resnet50", "densenet_onnx", "a.b", "A.b", "x-1"]
SIDECARS = [{"namespace": "shop", "serviceAccount": "digits-triton", "models": MODELS}]
FULL = {
    "image": {"tag": "7", "pullPolicy": "Never"},
    "imagePullSecrets": [{"name": "registry"}],
    "prometheus": {"namespacedUrl": "http://proxy:8080/?namespace={namespace}"},
    "userQueries": "Namespaced",
    "watchNamespaces": ["shop", "search"],
    "logLevel": "debug",
    "sidecars": SIDECARS,
    "monitors": {"enabled": True, "labels": {"release": "prometheus"}},
    "crds": {"keep": False},
    "podAnnotations": {"example.com/a": "b"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "system", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
}
Manifest = dict[str, Any]


class HelmFailed(Exception):  # noqa: N818 - it is named for what happened
    """What helm said when it refused."""


def helm(*arguments: str, kubeconfig: Path | None = None) -> str:
    ended = subprocess.run(
        [binaries.ensure("helm"), *arguments],
        env={**os.environ, "NO_PROXY": "127.0.0.1", "KUBECONFIG": str(kubeconfig or os.devnull)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise HelmFailed(ended.stderr)
    return ended.stdout


@pytest.fixture
def full(tmp_path: Path) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(FULL))
    return f"--values={file}"


def rendered(*arguments: str) -> list[Manifest]:
    text = helm("template", "tidegate", str(CHART), "--namespace=tidegate-system", *arguments)
    return [one for one in yaml.safe_load_all(text) if one]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [one for one in manifests if one["kind"] == kind]
    return found


def test_lint_finds_nothing(full: str) -> None:
    helm("lint", "--strict", str(CHART))
    helm("lint", "--strict", str(CHART), full, *NEEDED)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (NEEDED[:1], "prometheus.url is needed: the Prometheus that scrapes the sidecars"),
        (NEEDED[1:], "image.repository is needed: where you pushed"),
        (
            (*NEEDED, "--set=userQueries=Namespaced"),
            "prometheus.namespacedUrl is needed where userQueries is Namespaced",
        ),
    ],
)
def test_needed_value_is_asked_for(given: tuple[str, ...], says: str) -> None:
    with pytest.raises(HelmFailed, match=says):
        rendered(*given)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("replicas=2", "'replicas' not allowed"),
        ("image.name=a", "image.*'name' not allowed"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("prometheus.url=prometheus:9090", "/prometheus/url"),
        ("prometheus.scrapeInterval=15", "/prometheus/scrapeInterval"),
        ("prometheus.namespacedUrl=http://proxy:8080", "/prometheus/namespacedUrl"),
        ("userQueries=On", "/userQueries.*'Enabled', 'Namespaced', 'Disabled'"),
        ("userQueries=null", "missing property 'userQueries'"),
        ("watchNamespaces=shop", "/watchNamespaces"),
        ("watchNamespaces={Shop}", "/watchNamespaces/0"),
        ("logLevel=trace", "/logLevel"),
        ("sidecars[0].namespace=shop", "/sidecars/0"),
        ("sidecars[0].models={a b}", "/sidecars/0"),
        ("monitors.enabled=yes", "/monitors/enabled"),
        ("monitors.sidecarSelector.app=a", "/monitors/sidecarSelector"),
        ("crds.keep=always", "/crds/keep"),
        ("resources.cpu=1", "/resources"),
        ("podSecurityContext.privileged=true", "/podSecurityContext"),
        ("tolerations[0].keys=a", "/tolerations/0"),
        ("affinity.zone=a", "/affinity"),
    ],
)
def test_unknown_or_wrong_value_is_refused(value: str, where: str) -> None:
    with pytest.raises(HelmFailed, match=f"(?s)don't meet the specifications.*{where}"):
        rendered(*NEEDED, "--set", value)


def test_every_level_of_the_values_is_closed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    closed = list(closed_levels(schema))
    assert len(closed) > len(schema["properties"]) // 2
    assert all(closed)


def closed_levels(schema: Any) -> Iterator[bool]:
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema.get("additionalProperties") is False
        for below in schema.values():
            yield from closed_levels(below)


@pytest.mark.parametrize(("keep", "policy"), [("true", "keep"), ("false", None)])
def test_crds_are_those_of_the_project(keep: str, policy: str | None) -> None:
    crds = [
        one
        for one in rendered(*NEEDED, f"--set=crds.keep={keep}")
        if one["kind"] == "CustomResourceDefinition"
    ]
    policies = [crd["metadata"]["annotations"].pop("helm.sh/resource-policy", None) for crd in crds]
    assert policies == [policy] * 4
    files = (ROOT / "crds").iterdir()
    expected = {
        crd["metadata"]["name"]: crd for crd in map(yaml.safe_load, map(Path.read_text, files))
    }
    assert {crd["metadata"]["name"]: crd for crd in crds} == expected


def test_crds_can_be_left_out() -> None:
    kinds = {one["kind"] for one in rendered(*NEEDED, "--set=crds.enabled=false")}
    assert kinds == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Deployment"}


def test_sidecars_role_names_objects_as_the_operator_does(full: str) -> None:
    roles = [one for one in rendered(*NEEDED, full) if one["kind"] == "Role"]
    tables, keys = [rule for role in roles for rule in role["rules"] if "resourceNames" in rule]
    assert tables["resourceNames"] == [routing_table_name(model) for model in MODELS]
    names = (feedback_secret_name, pairs_secret_name)
    assert keys["resourceNames"] == [name(model) for model in MODELS for name in names]


@pytest.mark.parametrize(
    ("values", "address"),
    [
        ((), None),
        (("--set=userQueries=Disabled",), None),
        (("--set=prometheus.namespacedUrl=http://p/?namespace={namespace}",), None),
        (
            (
                "--set=userQueries=Namespaced",
                "--set=prometheus.namespacedUrl=http://p/?namespace={namespace}",
            ),
            "http://p/?namespace={namespace}",
        ),
    ],
)
def test_queries_of_users_go_where_the_values_say(
    values: tuple[str, ...], address: str | None
) -> None:
    deployment = only(rendered(*NEEDED, *values), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    said = [value.removeprefix("--set=userQueries=") for value in values if "userQ" in value]
    assert environment["TIDEGATE_USER_QUERIES"] == (said or ["Enabled"])[0]
    assert environment.get("TIDEGATE_NAMESPACED_PROMETHEUS_URL") == address


def test_monitors_find_the_containers_ports(full: str) -> None:
    manifests = rendered(*NEEDED, full)
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    operator, sidecars = (one for one in manifests if one["kind"] == "PodMonitor")
    assert operator["metadata"]["labels"]["release"] == "prometheus"
    assert operator["spec"]["podMetricsEndpoints"] == [{"port": container["ports"][0]["name"]}]
    assert sidecars["spec"]["namespaceSelector"] == {"matchNames": ["shop", "search"]}
    assert sidecars["spec"]["podMetricsEndpoints"] == [{"portNumber": 9002, "interval": "15s"}]


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    for namespace in ("tidegate-system", "shop", "search"):
        control_plane.make_namespace(namespace)
    control_plane.kubectl("create", "serviceaccount", "digits-triton", "--namespace=shop")
    return control_plane


class Release:
    """The chart as a user installs it. CRDs may be there already: other tests apply them."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster
        self.installed = False

    def install(self, *values: str) -> str:
        """Installs it; the notes that a user reads."""
        arguments = (str(CHART), "--take-ownership", *NEEDED, *values)
        said = self._helm("install", *arguments)
        self.installed = True
        return said

    def uninstall(self) -> None:
        if self.installed:
            self._helm("uninstall")
            self.installed = False

    def _helm(self, command: str, *arguments: str) -> str:
        name = ("tidegate", "--namespace=tidegate-system")
        return helm(command, *name, *arguments, kubeconfig=self.cluster.kubeconfig)


@pytest.fixture
def release(cluster: ControlPlane) -> Iterator[Release]:
    release = Release(cluster)
    yield release
    release.uninstall()


def test_release_is_accepted_whole(cluster: ControlPlane, release: Release) -> None:
    notes = release.install()
    assert "watches all namespaces" in notes
    assert "No sidecar may read its routing table yet" in notes
    named = ("deployment/tidegate", "serviceaccount/tidegate", "clusterrolebinding/tidegate")
    for one in named:
        cluster.kubectl("get", one, "--namespace=tidegate-system")
    release.uninstall()
    kept = cluster.kubectl("get", "crd", "--output=name").split()
    assert "customresourcedefinition.apiextensions.k8s.io/modelversions.tidegate.dev" in kept


def test_release_with_every_value_is_accepted(release: Release, full: str) -> None:
    # No Prometheus Operator here to take monitors, and the CRDs are other tests' too.
    notes = release.install(full, "--set=monitors.enabled=false", "--set=crds.keep=true")
    assert "watches shop, search" in notes
    assert "No sidecar" not in notes


OPERATOR = "system:serviceaccount:tidegate-system:tidegate"
SIDECAR = "system:serviceaccount:shop:digits-triton"


def allowed(
    cluster: ControlPlane, may: str, namespace: str = "shop", user: str = OPERATOR, name: str = ""
) -> bool:
    """Whether a user may do, say, `patch tidegate.dev modelversions/status`."""
    verb, group, resource = may.split()
    resource, _, subresource = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "resourceAttributes": {
                "verb": verb,
                "group": group.replace("core", ""),
                "resource": resource,
                "subresource": subresource,
                "namespace": namespace,
                "name": name,
            },
        },
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    answer: bool = cluster.api.request("POST", path, review)["status"]["allowed"]
    return answer


def eventually(check: Callable[[], bool]) -> bool:
    """The API server learns of roles that come or go by watches of its own, a moment later."""
    deadline = time.monotonic() + 60
    while not (done := check()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return done


EVERYWHERE = [
    f"{verb} {what}"
    for verb in ("list", "watch")
    for what in ("apiextensions.k8s.io customresourcedefinitions", "core namespaces")
]
IN_NAMESPACES = [
    *(f"{verb} core pods" for verb in ("get", "list", "watch")),
    *(f"{verb} core configmaps" for verb in ("get", "list", "watch", "create", "patch", "delete")),
    "create core events",
    "create core secrets",
    *(f"{verb} tidegate.dev canaryrollouts" for verb in ("get", "list", "watch", "patch")),
    *(f"{verb} tidegate.dev abtests" for verb in ("get", "list", "watch", "patch")),
    *(
        f"patch tidegate.dev {kind}/status"
        for kind in ("modelversions", "canaryrollouts", "abtests", "batchpolicies")
    ),
]
NEVER = [
    *(f"{verb} core secrets" for verb in ("get", "list", "watch", "patch", "delete")),
    "create core pods",
    "delete core pods",
    "create core pods/exec",
    "update core configmaps",
    "patch core events",
    "patch tidegate.dev modelversions",
    "patch tidegate.dev batchpolicies",
    "delete tidegate.dev modelversions",
    "delete tidegate.dev canaryrollouts",
    "patch apiextensions.k8s.io customresourcedefinitions",
    "patch apps deployments",
    "escalate rbac.authorization.k8s.io clusterroles",
]


def test_operator_may_do_what_it_must_and_no_more(cluster: ControlPlane, release: Release) -> None:
    release.install()
    for may in EVERYWHERE + IN_NAMESPACES:
        assert eventually(partial(allowed, cluster, may)), may
    assert [may for may in NEVER if allowed(cluster, may)] == []


def test_operator_of_some_namespaces_has_no_right_in_others(
    cluster: ControlPlane, release: Release
) -> None:
    release.install("--set=watchNamespaces={shop,search}")
    for namespace, may in itertools.product(("shop", "search"), IN_NAMESPACES):
        assert eventually(partial(allowed, cluster, may, namespace)), (namespace, may)
    assert [may for may in NEVER if allowed(cluster, may)] == []
    # A release before this one may have had all of it everywhere.
    assert eventually(lambda: not any(allowed(cluster, may, "default") for may in IN_NAMESPACES))


def test_sidecar_may_list_and_watch_what_its_models_have_only(
    cluster: ControlPlane, release: Release
) -> None:
    release.install(f"--set-json=sidecars={json.dumps(SIDECARS)}")
    kubeconfig = cluster.kubeconfig_for_service_account("shop", "digits-triton")
    token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    sidecar = Api(cluster.server, cluster.ca, token)

    def may_list(resource: str, name: str) -> bool:
        query = f"?fieldSelector=metadata.name={name}" if name else ""
        try:
            sidecar.request("GET", f"/api/v1/namespaces/shop/{resource}{query}")
        except ApiError as error:
            if error.status != http.client.FORBIDDEN:
                raise
            return False
        return True

    kinds = (
        ("configmaps", routing_table_name),
        ("secrets", feedback_secret_name),
        ("secrets", pairs_secret_name),
    )
    for resource, name in kinds:
        for model in MODELS:
            assert eventually(partial(may_list, resource, name(model))), name(model)
            assert allowed(cluster, f"watch core {resource}", user=SIDECAR, name=name(model))
        assert not may_list(resource, name("another"))
        assert not may_list(resource, "")
        assert not allowed(cluster, f"patch core {resource}", user=SIDECAR, name=name("digits"))


def test_example_gives_a_sidecar_the_same_rights() -> None:
    models = f"--set-json=sidecars={json.dumps([{**SIDECARS[0], 'models': ['digits']}])}"
    role = only([one for one in rendered(*NEEDED, models) if one["kind"] == "Role"], "Role")
    documents = yaml.safe_load_all((ROOT / "examples" / "triton.yaml").read_text())
    assert only(list(documents), "Role")["rules"] == role["rules"]
