"""The CRDs on a real API server: what each rule answers, what is filled in, what kubectl shows."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tidegate_tools.api import MERGE_PATCH, ApiError
from tidegate_tools.controlplane import ControlPlane, KubectlFailed

ROOT = Path(__file__).parents[2]
PLURALS = {
    "ModelVersion": "modelversions",
    "CanaryRollout": "canaryrollouts",
    "BatchPolicy": "batchpolicies",
}
Spec = dict[str, Any]

COMPLETE: dict[str, Spec] = {
    "ModelVersion": {
        "model": "Resnet50_v1.5",
        "version": 2,
        "lifecycle": "Active",
        "trafficPercent": 30,
        "podSelector": {
            "matchLabels": {"app": "digits", "example.com/tier": ""},
            "matchExpressions": [
                {"key": "zone", "operator": "NotIn", "values": ["b", "c"]},
                {"key": "gpu", "operator": "Exists"},
            ],
        },
        "compatibility": "Ignore",
    },
    "CanaryRollout": {
        "model": "digits",
        "stableVersion": 1,
        "canaryVersion": 2,
        "initialPercent": 5,
        "stepPercent": 15,
        "maxPercent": 50,
        "stepDuration": "1h30m",
        "gatingDeadline": "5m",
        "assignment": {"header": "x-user-id"},
        "analysis": {
            "interval": "10s",
            "warmup": "0s",
            "minRequests": 50,
            "significanceLevel": 0.05,
            "ackTimeout": "30s",
            "metrics": [
                {"name": "errors", "errorRate": {"success": 0, "rollback": 0.05}},
                {
                    "name": "latency",
                    "latency": {
                        "quantile": 0.95,
                        "success": "100ms",
                        "rollback": "1s500ms",
                        "priorities": [1, 2],
                    },
                },
            ],
        },
    },
    "BatchPolicy": {
        "models": ["digits", "Resnet50"],
        "maxBatchSize": 32,
        "maxWait": "5ms",
        "queue": {"maxSize": 200},
    },
}
MINIMAL: dict[str, Spec] = {
    "ModelVersion": {"model": "digits", "version": 1},
    "CanaryRollout": {"model": "digits", "canaryVersion": 2},
    "BatchPolicy": {"models": ["digits"]},
}
FILLED_IN: dict[str, Spec] = {
    "ModelVersion": {"lifecycle": "Testing", "compatibility": "Strict"},
    "CanaryRollout": {
        "gatingDeadline": "15m",
        "analysis": {
            "interval": "30s",
            "warmup": "30s",
            "minRequests": 100,
            "significanceLevel": 0.01,
            "ackTimeout": "60s",
        },
    },
    "BatchPolicy": {"maxWait": "0s", "queue": {"maxSize": 1000}},
}


class Wrong(NamedTuple):
    """A change that makes the complete object wrong, and what must be said: where, and what."""

    kind: str
    change: Spec
    path: str
    says: str

    def __str__(self) -> str:
        return f"{self.path}-{json.dumps(self.change)[:60]}"


def mver(change: Spec, path: str, says: str) -> Wrong:
    return Wrong("ModelVersion", change, f"spec.{path}", says)


def cro(change: Spec, path: str, says: str) -> Wrong:
    return Wrong("CanaryRollout", change, f"spec.{path}", says)


def bpol(change: Spec, path: str, says: str) -> Wrong:
    return Wrong("BatchPolicy", change, f"spec.{path}", says)


def analysis(change: Spec, path: str, says: str) -> Wrong:
    return cro({"analysis": change}, f"analysis.{path}", says)


def metric(change: Spec, path: str, says: str) -> Wrong:
    return analysis({"metrics": [{"name": "m", **change}]}, f"metrics[0]{path}", says)


def errors(change: Spec, path: str, says: str) -> Wrong:
    return metric({"errorRate": change}, f".errorRate{path}", says)


def latency(change: Spec, path: str, says: str) -> Wrong:
    return metric({"latency": {"quantile": 0.95, **change}}, f".latency{path}", says)


def expressions(change: Spec, path: str, says: str) -> Wrong:
    requirement = {"key": "zone", "operator": "In", "values": ["a"], **change}
    return mver(
        {"podSelector": {"matchExpressions": [requirement]}},
        f"podSelector.matchExpressions[0]{path}",
        says,
    )


MODEL_NAME = (
    'must be a model\'s name in Triton, of letters, digits, "_", "." and "-", '
    "beginning and ending with a letter or digit"
)
LABEL_VALUE = (
    'must be a label\'s value, of letters, digits, "_", "." and "-", '
    "beginning and ending with a letter or digit"
)
METRIC_NAME = (
    'must be of letters, digits, "_", "." and "-", beginning and ending with a letter or digit'
)
FIRST_SHARE = (
    "must be from 1 to 99, as a canary that has everything from the start cannot be judged"
)
UP_TO_720H = "must be a duration from 1s to 720h, such as 90s, 10m or 1h30m"
UP_TO_24H = "must be a duration from 1s to 24h, such as 90s, 10m or 1h30m"
INTERVAL = "must be a duration from 1s to 1h, such as 10s or 1m30s"
WARMUP = "must be a duration from 0s to 24h, such as 30s or 5m"
LEVEL = "must be from 0.000001 to 0.5, such as 0.01 for one rollout in a hundred"
ACK_TIMEOUT = "must be a duration from 1s to 1h, such as 60s or 2m"
SUCCESS_SHARE = "must be a share from 0 to below 1, such as 0.01 for one request in a hundred"
ROLLBACK_SHARE = "must be a share from 0 to below 1, such as 0.05 for five requests in a hundred"
SUCCESS_TIME = "must be a duration from 1ms to 1h, such as 100ms or 2s"
ROLLBACK_TIME = "must be a duration from 1ms to 1h, such as 500ms or 2s"
QUANTILE = "must be from 0.5 to 0.9999, such as 0.95 for the 95th percentile"
MAX_WAIT = "must be a duration from 0s to 10s, such as 5ms"
EMPTY_SELECTOR = (
    "is empty and would select every pod of the namespace; leave podSelector out to select the "
    "pods labelled tidegate.dev/model: <model>"
)
VALUES_RULE = "operators In and NotIn need values, Exists and DoesNotExist must have none"
LABEL_NAME = "must be a label's name, such as app or example.com/app"
LABEL_KEYS = "has a key that cannot be a label's name; such names look like app or example.com/app"
ONE_KIND = "must have exactly one of errorRate and latency"
ONE_BOUND = "needs at least one of success and rollback"
NOT_ABOVE = "must not be above rollback"
HEADER = "must be the name of an HTTP header, such as x-user-id"

WRONG_AT_CREATION = [
    mver({"model": None}, "model", "Required value"),
    mver({"model": ""}, "model", MODEL_NAME),
    mver({"model": "a" * 64}, "model", "may not be more than 63"),
    mver({"model": "-digits"}, "model", MODEL_NAME),
    mver({"model": "digits/2"}, "model", MODEL_NAME),
    mver({"version": None}, "version", "Required value"),
    mver({"version": 0}, "version", "should be greater than or equal to 1"),
    mver({"version": "2"}, "version", "must be of type integer"),
    mver({"lifecycle": "active"}, "lifecycle", 'supported values: "Testing", "Active"'),
    mver({"trafficPercent": -1}, "trafficPercent", "should be greater than or equal to 0"),
    mver({"trafficPercent": 101}, "trafficPercent", "should be less than or equal to 100"),
    mver({"trafficPercent": 12.5}, "trafficPercent", "must be of type integer"),
    mver({"compatibility": "Loose"}, "compatibility", 'supported values: "Strict", "Ignore"'),
    mver(
        {"podSelector": {"matchLabels": None, "matchExpressions": None}},
        "podSelector",
        EMPTY_SELECTOR,
    ),
    mver(
        {
            "podSelector": {
                "matchLabels": {"app": None, "example.com/tier": None},
                "matchExpressions": [],
            }
        },
        "podSelector",
        EMPTY_SELECTOR,
    ),
    mver({"podSelector": {"matchLabels": {"a b": "c"}}}, "podSelector.matchLabels", LABEL_KEYS),
    mver({"podSelector": {"matchLabels": {"/a": "c"}}}, "podSelector.matchLabels", LABEL_KEYS),
    mver(
        {"podSelector": {"matchLabels": {"app": "b c"}}},
        "podSelector.matchLabels[app]",
        LABEL_VALUE,
    ),
    expressions({"key": "a b"}, ".key", LABEL_NAME),
    expressions({"operator": "Equals"}, ".operator", 'supported values: "In", "NotIn"'),
    expressions({"values": []}, "", VALUES_RULE),
    expressions({"operator": "Exists"}, "", VALUES_RULE),
    expressions({"values": ["a", "b c"]}, ".values[1]", LABEL_VALUE),
    cro({"model": "digits_"}, "model", MODEL_NAME),
    cro({"canaryVersion": None}, "canaryVersion", "Required value"),
    cro({"canaryVersion": 0}, "canaryVersion", "should be greater than or equal to 1"),
    cro({"stableVersion": 2}, "canaryVersion", "must be another version than stableVersion"),
    cro({"initialPercent": 0}, "initialPercent", FIRST_SHARE),
    cro({"initialPercent": 100}, "initialPercent", FIRST_SHARE),
    cro({"stepPercent": 0}, "stepPercent", "should be greater than or equal to 1"),
    cro({"maxPercent": 101}, "maxPercent", "should be less than or equal to 100"),
    cro({"stepDuration": "0s"}, "stepDuration", UP_TO_720H),
    cro({"stepDuration": "10 minutes"}, "stepDuration", UP_TO_720H),
    cro({"stepDuration": "1.5h"}, "stepDuration", UP_TO_720H),
    cro({"stepDuration": 600}, "stepDuration", "must be of type string"),
    cro({"gatingDeadline": "25h"}, "gatingDeadline", UP_TO_24H),
    cro({"assignment": {"header": None}}, "assignment.header", "Required value"),
    cro({"assignment": {"header": "x user"}}, "assignment.header", HEADER),
    cro({"assignment": {"header": "x-user-id:"}}, "assignment.header", HEADER),
    analysis({"interval": "500ms"}, "interval", INTERVAL),
    analysis({"interval": "1m30"}, "interval", INTERVAL),
    analysis({"warmup": "-5s"}, "warmup", WARMUP),
    analysis({"warmup": "24h1ms"}, "warmup", WARMUP),
    analysis({"minRequests": 0}, "minRequests", "should be greater than or equal to 1"),
    analysis({"significanceLevel": 0}, "significanceLevel", LEVEL),
    analysis({"significanceLevel": 0.6}, "significanceLevel", LEVEL),
    analysis({"ackTimeout": "soon"}, "ackTimeout", ACK_TIMEOUT),
    analysis({"metrics": []}, "metrics", "should have at least 1 items"),
    analysis(
        {"metrics": [{"name": f"m{i}", "errorRate": {"success": 0.1}} for i in range(11)]},
        "metrics",
        "must have at most 10 items",
    ),
    analysis(
        {"metrics": [{"name": "m", "errorRate": {"success": 0.1}}] * 2},
        "metrics[1]",
        "Duplicate value",
    ),
    analysis({"metrics": [{"errorRate": {"success": 0.1}}]}, "metrics[0].name", "Required value"),
    analysis(
        {"metrics": [{"name": "p95/ms", "errorRate": {"success": 0.1}}]},
        "metrics[0].name",
        METRIC_NAME,
    ),
    metric({}, "", ONE_KIND),
    metric(
        {"errorRate": {"success": 0.1}, "latency": {"quantile": 0.5, "success": "1s"}}, "", ONE_KIND
    ),
    errors({}, "", ONE_BOUND),
    errors({"success": -0.1}, ".success", SUCCESS_SHARE),
    errors({"success": 5}, ".success", SUCCESS_SHARE),
    errors({"rollback": 1}, ".rollback", ROLLBACK_SHARE),
    errors({"success": 0.06, "rollback": 0.05}, ".success", NOT_ABOVE),
    latency({}, "", ONE_BOUND),
    latency({"success": "1s", "rollback": "999ms"}, ".success", NOT_ABOVE),
    latency({"success": "0ms", "rollback": "1s"}, ".success", SUCCESS_TIME),
    latency({"success": "fast", "rollback": "1s"}, ".success", SUCCESS_TIME),
    latency({"success": "1ms", "rollback": "1us"}, ".rollback", ROLLBACK_TIME),
    latency({"quantile": 95, "success": "1s"}, ".quantile", QUANTILE),
    latency({"quantile": None, "success": "1s"}, ".quantile", "Required value"),
    latency({"success": "1s", "priorities": []}, ".priorities", "should have at least 1 items"),
    latency({"success": "1s", "priorities": [1, 1]}, ".priorities[1]", "Duplicate value"),
    latency({"success": "1s", "priorities": [6]}, ".priorities[0]", "less than or equal to 5"),
    bpol({"models": None}, "models", "Required value"),
    bpol({"models": []}, "models", "should have at least 1 items"),
    bpol({"models": ["a", "a"]}, "models[1]", "Duplicate value"),
    bpol({"models": ["a", "b/c"]}, "models[1]", MODEL_NAME),
    bpol({"maxBatchSize": 0}, "maxBatchSize", "should be greater than or equal to 1"),
    bpol({"maxBatchSize": 65537}, "maxBatchSize", "should be less than or equal to 65536"),
    bpol({"maxWait": "5us"}, "maxWait", MAX_WAIT),
    bpol({"maxWait": "10001ms"}, "maxWait", MAX_WAIT),
    bpol({"queue": {"maxSize": 0}}, "queue.maxSize", "should be greater than or equal to 1"),
    bpol(
        {"queue": {"maxSize": 2000000}}, "queue.maxSize", "should be less than or equal to 1000000"
    ),
]

ANOTHER_VERSION = "cannot be changed; create another ModelVersion"
ANOTHER_ROLLOUT = "cannot be changed; create another CanaryRollout"
COMES_OR_GOES = "cannot be added or removed; create another CanaryRollout"
CHANGES_ARMS = (
    "cannot be added or removed, as users would change arms; create another CanaryRollout"
)
WRONG_AS_UPDATE = [
    mver({"model": "other"}, "model", ANOTHER_VERSION),
    mver({"version": 3}, "version", ANOTHER_VERSION),
    cro({"model": "other"}, "model", ANOTHER_ROLLOUT),
    cro({"canaryVersion": 3}, "canaryVersion", ANOTHER_ROLLOUT),
    cro({"stableVersion": 3}, "stableVersion", ANOTHER_ROLLOUT),
    cro({"stableVersion": None}, "stableVersion", COMES_OR_GOES),
    cro({"assignment": None}, "assignment", CHANGES_ARMS),
    cro(
        {"assignment": {"header": "x-session"}},
        "assignment.header",
        "cannot be changed, as users would change arms; create another CanaryRollout",
    ),
]
WRONG_AS_ADDITION = [
    cro({"stableVersion": 1}, "stableVersion", COMES_OR_GOES),
    cro({"assignment": {"header": "x-user-id"}}, "assignment", CHANGES_ARMS),
]

# Fields of later issues: they do nothing yet, so they must not be taken.
UNKNOWN = [
    ("ModelVersion", {"metadata": {"framework": "sklearn"}}, "spec.metadata"),
    ("CanaryRollout", {"steps": []}, "spec.steps"),
    ("CanaryRollout", {"suspend": True}, "spec.suspend"),
    ("CanaryRollout", {"analysis": {"onNoData": "Hold"}}, "spec.analysis.onNoData"),
    ("BatchPolicy", {"strategy": "Fixed"}, "spec.strategy"),
    ("BatchPolicy", {"queue": {"onFull": "Reject"}}, "spec.queue.onFull"),
]

EDITS = [
    ("ModelVersion", {"lifecycle": "Inactive", "trafficPercent": None, "podSelector": None}),
    ("CanaryRollout", {"stepPercent": 30, "maxPercent": None, "stepDuration": "1s"}),
    ("CanaryRollout", {"analysis": {"metrics": [{"name": "m", "errorRate": {"rollback": 0.2}}]}}),
    ("CanaryRollout", {"analysis": None, "gatingDeadline": None}),
    ("BatchPolicy", {"models": ["other"], "maxBatchSize": None, "maxWait": "10s"}),
]


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("apply", "--filename", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    control_plane.kubectl("create", "namespace", "crds")
    for kind in PLURALS:
        for name, spec in (("complete", COMPLETE[kind]), ("minimal", MINIMAL[kind])):
            control_plane.api.request("POST", path(kind), manifest(kind, name, spec))
    yield control_plane
    control_plane.kubectl("delete", "namespace", "crds", "--wait=false")


def path(kind: str, name: str = "") -> str:
    return f"/apis/tidegate.dev/v1alpha1/namespaces/crds/{PLURALS[kind]}/{name}".rstrip("/")


def manifest(kind: str, name: str, spec: Spec) -> dict[str, Any]:
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def merged(spec: Spec, change: Spec) -> Spec:
    """RFC 7386, as the API server would apply it."""
    result = copy.deepcopy(spec)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = merged(result.get(key) or {}, value)
        else:
            result[key] = value
    return result


def create(cluster: ControlPlane, kind: str, spec: Spec) -> dict[str, Any]:
    query = "?dryRun=All&fieldValidation=Strict"
    return cluster.api.request("POST", path(kind) + query, manifest(kind, "tried", spec))


def edit(cluster: ControlPlane, kind: str, name: str, change: Spec) -> dict[str, Any]:
    query = "?dryRun=All&fieldValidation=Strict"
    body = {"spec": change}
    return cluster.api.request("PATCH", path(kind, name) + query, body, content_type=MERGE_PATCH)


# What the API server itself adds when an object is too wrong for its rules to be tried.
UNTRIED = re.compile(
    r", <nil>: Invalid value: null: some validation rules were not checked [^,\]]*"
)


def assert_says(refusal: pytest.ExceptionInfo[ApiError], wrong: Wrong) -> None:
    message = UNTRIED.sub("", str(refusal.value)).replace(": [", ": ", 1)
    assert refusal.value.status == 422
    assert f"{wrong.path}: " in message
    assert wrong.says in message
    assert ", spec." not in message, "one fault has one answer"


@pytest.mark.parametrize("wrong", WRONG_AT_CREATION, ids=str)
def test_wrong_object_is_refused(cluster: ControlPlane, wrong: Wrong) -> None:
    with pytest.raises(ApiError) as refusal:
        create(cluster, wrong.kind, merged(COMPLETE[wrong.kind], wrong.change))
    assert_says(refusal, wrong)


@pytest.mark.parametrize("wrong", WRONG_AS_UPDATE, ids=str)
def test_wrong_edit_is_refused(cluster: ControlPlane, wrong: Wrong) -> None:
    with pytest.raises(ApiError) as refusal:
        edit(cluster, wrong.kind, "complete", wrong.change)
    assert_says(refusal, wrong)


@pytest.mark.parametrize("wrong", WRONG_AS_ADDITION, ids=str)
def test_wrong_addition_is_refused(cluster: ControlPlane, wrong: Wrong) -> None:
    with pytest.raises(ApiError) as refusal:
        edit(cluster, wrong.kind, "minimal", wrong.change)
    assert_says(refusal, wrong)


@pytest.mark.parametrize(("kind", "change", "field"), UNKNOWN)
def test_field_without_effect_is_refused(
    cluster: ControlPlane, kind: str, change: Spec, field: str
) -> None:
    with pytest.raises(ApiError, match=f'unknown field "{field}'):
        create(cluster, kind, merged(MINIMAL[kind], change))


def test_kubectl_refuses_an_unknown_field_by_itself(cluster: ControlPlane) -> None:
    mistyped = manifest("BatchPolicy", "mistyped", {"models": ["digits"], "maxwait": "5ms"})
    with pytest.raises(KubectlFailed, match=r'unknown field "spec.maxwait"'):
        cluster.kubectl("apply", "--filename=-", "--namespace=crds", stdin=json.dumps(mistyped))


@pytest.mark.parametrize(("kind", "change"), EDITS)
def test_edit_is_accepted(cluster: ControlPlane, kind: str, change: Spec) -> None:
    expected = merged(FILLED_IN[kind], merged(COMPLETE[kind], change))
    if kind == "CanaryRollout" and change.get("analysis", {}) is None:
        expected["analysis"] = FILLED_IN[kind]["analysis"]
    assert edit(cluster, kind, "complete", change)["spec"] == expected


@pytest.mark.parametrize("kind", PLURALS)
def test_complete_object_is_kept_as_written(cluster: ControlPlane, kind: str) -> None:
    assert create(cluster, kind, COMPLETE[kind])["spec"] == COMPLETE[kind]


@pytest.mark.parametrize("kind", PLURALS)
def test_minimal_object_is_filled_in(cluster: ControlPlane, kind: str) -> None:
    assert create(cluster, kind, MINIMAL[kind])["spec"] == {**MINIMAL[kind], **FILLED_IN[kind]}


def test_every_rule_of_the_schemas_is_broken_above() -> None:
    wrong = WRONG_AT_CREATION + WRONG_AS_UPDATE + WRONG_AS_ADDITION
    tried = {(one.kind, re.sub(r"\[\w+\]", "[]", one.path), one.says) for one in wrong}
    rules = {(kind, *rule) for kind, schema in schemas() for rule in rules_of(schema, "spec")}
    assert rules - tried == set()


def rules_of(schema: dict[str, Any], where: str) -> Iterator[tuple[str, str]]:
    """Every CEL rule below a schema: the path that it names, and its message."""
    for rule in schema.get("x-kubernetes-validations", []):
        yield where + rule.get("fieldPath", ""), rule["message"]
    for name, below in schema.get("properties", {}).items():
        yield from rules_of(below, f"{where}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(below := schema.get(keyword), dict):
            yield from rules_of(below, f"{where}[]")


def test_reference_names_every_field() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text()
    sections = {kind: reference.split(f"\n## {kind}\n")[1].split("\n## ")[0] for kind in PLURALS}
    fields = {(kind, field) for kind, schema in schemas() for field in fields_of(schema, "")}
    assert {(kind, one) for kind, one in fields if f"| `{one}` |" not in sections[kind]} == set()


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each kind's schema of `spec`."""
    for file in (ROOT / "crds").iterdir():
        crd = yaml.safe_load(file.read_text())["spec"]
        schema = crd["versions"][0]["schema"]["openAPIV3Schema"]
        yield crd["names"]["kind"], schema["properties"]["spec"]


def fields_of(schema: dict[str, Any], where: str) -> Iterator[str]:
    for name, below in schema.get("properties", {}).items():
        yield where + name
        yield from fields_of(below, f"{where}{name}.")
        yield from fields_of(below.get("items", {}), f"{where}{name}[].")


@pytest.mark.parametrize("kind", PLURALS)
def test_nothing_counts_as_current_before_the_operator_looked(
    cluster: ControlPlane, kind: str
) -> None:
    stored = cluster.api.request("GET", path(kind, "minimal"))
    assert stored["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize("kind", PLURALS)
def test_status_of_a_newer_operator_is_not_pruned(cluster: ControlPlane, kind: str) -> None:
    status = {"cursor": {"at": 1.5, "by": [{"pod": "a"}]}, "display": {"new": "1/2"}}
    cluster.api.request(
        "PATCH", path(kind, "complete") + "/status", {"status": status}, content_type=MERGE_PATCH
    )
    stored = cluster.api.request("GET", path(kind, "complete"))["status"]
    assert stored | status == stored


STATUS = {
    "ModelVersion": {
        "phase": "Ready",
        "lifecycle": "Active",
        "message": "serving",
        "display": {"traffic": "30%", "pods": "2/2"},
    },
    "CanaryRollout": {
        "phase": "Progressing",
        "verdict": "Pass",
        "stableVersion": 1,
        "message": "step 2 of 8",
        "display": {"step": "2/8", "weight": "20%", "requests": "512/128", "acked": "2/2"},
    },
    "BatchPolicy": {
        "phase": "Ready",
        "message": "applied",
        "display": {"models": "digits,Resnet50", "batch": "32", "applied": "2/2"},
    },
}
COLUMNS = {
    "mver": (
        "NAME MODEL VERSION PHASE TRAFFIC PODS AGE MESSAGE",
        r"complete +Resnet50_v1\.5 +2 +Ready +30% +2/2 +\d+m?s +serving",
        "NAME MODEL VERSION LIFECYCLE PHASE TRAFFIC PODS AGE MESSAGE",
    ),
    "cro": (
        "NAME MODEL PHASE STEP WEIGHT VERDICT AGE MESSAGE",
        r"complete +digits +Progressing +2/8 +20% +Pass +\d+m?s +step 2 of 8",
        "NAME MODEL PHASE STEP WEIGHT VERDICT STABLE CANARY REQUESTS ACKED AGE MESSAGE",
    ),
    "bpol": (
        "NAME MODELS BATCH APPLIED AGE MESSAGE",
        r"complete +digits,Resnet50 +32 +2/2 +\d+m?s +applied",
        "NAME MODELS BATCH APPLIED AGE MESSAGE",
    ),
}


@pytest.mark.parametrize(("kind", "short"), list(zip(PLURALS, COLUMNS, strict=True)))
def test_kubectl_shows_the_columns(cluster: ControlPlane, kind: str, short: str) -> None:
    cluster.api.request(
        "PATCH",
        path(kind, "complete") + "/status",
        {"status": STATUS[kind]},
        content_type=MERGE_PATCH,
    )
    names, row, wide_names = COLUMNS[short]
    head, shown = cluster.kubectl("get", short, "complete", "--namespace=crds").splitlines()
    assert head.split() == names.split()
    assert re.fullmatch(row, shown.strip())
    wide = cluster.kubectl("get", short, "--namespace=crds", "--output=wide").splitlines()
    assert wide[0].split() == wide_names.split()


def test_kubectl_gets_all_kinds_by_category(cluster: ControlPlane) -> None:
    shown = cluster.kubectl("get", "tidegate", "--namespace=crds", "--output=name")
    found = {name.split(".")[0] for name in shown.split()}
    assert found == {"batchpolicy", "canaryrollout", "modelversion"}


def test_kubectl_waits_for_a_condition(cluster: ControlPlane) -> None:
    ready = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Serving",
                "message": "",
                "lastTransitionTime": "2026-12-01T09:00:00.125Z",
                "observedGeneration": 1,
            }
        ],
    }
    cluster.api.request(
        "PATCH",
        path("ModelVersion", "complete") + "/status",
        {"status": ready},
        content_type=MERGE_PATCH,
    )
    wait = ("wait", "--namespace=crds", "--for=condition=Ready")
    assert "condition met" in cluster.kubectl(*wait, "mver/complete", "--timeout=5s")
    with pytest.raises(KubectlFailed, match="timed out"):
        cluster.kubectl(*wait, "mver/minimal", "--timeout=1s")


@pytest.mark.parametrize("file", sorted((ROOT / "examples").iterdir()), ids=lambda file: file.name)
def test_example_is_accepted(cluster: ControlPlane, file: Path) -> None:
    cluster.kubectl("apply", "--dry-run=server", "--namespace=crds", "--filename", str(file))
