"""The CRDs on a real API server: what each rule answers, what is filled in, what kubectl shows."""

import copy
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_cases import (
    BEFORE_THE_RULES,
    COMPLETE,
    EDITS,
    FILLED_IN,
    GOOD,
    MINIMAL,
    WRONG_AS_ADDITION,
    WRONG_AS_UPDATE,
    WRONG_AT_CREATION,
    Case,
    Spec,
)

from tidegate_tools.api import MERGE_PATCH, ApiError
from tidegate_tools.controlplane import ControlPlane, KubectlFailed

ROOT = Path(__file__).parents[2]
PLURALS = {
    "ModelVersion": "modelversions",
    "CanaryRollout": "canaryrollouts",
    "ABTest": "abtests",
    "BatchPolicy": "batchpolicies",
}


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("apply", "--filename", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    control_plane.make_namespace("crds")
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


def assert_says(refusal: pytest.ExceptionInfo[ApiError], wrong: Case) -> None:
    message = UNTRIED.sub("", str(refusal.value)).replace(": [", ": ", 1)
    assert refusal.value.status == 422
    assert f"{wrong.path}: " in message
    assert wrong.says in message
    assert ", spec." not in message, "one fault has one answer"


@pytest.mark.parametrize("wrong", WRONG_AT_CREATION, ids=str)
def test_wrong_object_is_refused(cluster: ControlPlane, wrong: Case) -> None:
    with pytest.raises(ApiError) as refusal:
        create(cluster, wrong.kind, merged(COMPLETE[wrong.kind], wrong.change))
    assert_says(refusal, wrong)


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_object_within_the_rules_is_accepted(cluster: ControlPlane, good: Case) -> None:
    create(cluster, good.kind, merged(COMPLETE[good.kind], good.change))


@pytest.mark.parametrize("wrong", WRONG_AS_UPDATE, ids=str)
def test_wrong_edit_is_refused(cluster: ControlPlane, wrong: Case) -> None:
    with pytest.raises(ApiError) as refusal:
        edit(cluster, wrong.kind, "complete", wrong.change)
    assert_says(refusal, wrong)


def test_assignment_of_a_test_cannot_be_removed(cluster: ControlPlane) -> None:
    assigned = {**MINIMAL["ABTest"], "assignment": {"header": "x-user-id"}}
    cluster.api.request("POST", path("ABTest"), manifest("ABTest", "assigned", assigned))
    with pytest.raises(ApiError, match=r"assignment: .* cannot be added or removed, as users"):
        edit(cluster, "ABTest", "assigned", {"assignment": None})


@pytest.mark.parametrize("start", ["2026-12-02T09:00:00Z", None])
def test_a_test_that_has_started_starts_at_no_other_time(
    cluster: ControlPlane, start: str | None
) -> None:
    began, same = "2026-12-01T09:00:00Z", "2026-12-01T10:00:00+01:00"
    name = f"started-{start is None}".lower()
    spec = {**MINIMAL["ABTest"], "startTime": began}
    cluster.api.request("POST", path("ABTest"), manifest("ABTest", name, spec))
    assert edit(cluster, "ABTest", name, {"startTime": start})["spec"].get("startTime") == start
    status = {"status": {"startedAt": began}}
    where = f"{path('ABTest', name)}/status"
    cluster.api.request("PATCH", where, status, content_type=MERGE_PATCH)
    with pytest.raises(ApiError) as refusal:
        edit(cluster, "ABTest", name, {"startTime": start})
    wrong = Case("ABTest", {}, "spec.startTime", "cannot be changed once the treatment has its")
    assert_says(refusal, wrong)
    edit(cluster, "ABTest", name, {"startTime": same, "suspend": True})


def test_a_test_that_has_started_is_given_no_time_to_start(cluster: ControlPlane) -> None:
    cluster.api.request("POST", path("ABTest"), manifest("ABTest", "begun", MINIMAL["ABTest"]))
    status = {"status": {"startedAt": "2026-12-01T09:00:00Z"}}
    where = f"{path('ABTest', 'begun')}/status"
    cluster.api.request("PATCH", where, status, content_type=MERGE_PATCH)
    with pytest.raises(ApiError, match=r"spec\.startTime: .* cannot be changed once"):
        edit(cluster, "ABTest", "begun", {"startTime": "2026-12-02T09:00:00Z"})
    edit(cluster, "ABTest", "begun", {"minSamples": 10})


@pytest.mark.parametrize("wrong", WRONG_AS_ADDITION, ids=str)
def test_wrong_addition_is_refused(cluster: ControlPlane, wrong: Case) -> None:
    with pytest.raises(ApiError) as refusal:
        edit(cluster, wrong.kind, "minimal", wrong.change)
    assert_says(refusal, wrong)


def test_policies_of_before_a_rule_stay_and_may_be_edited(cluster: ControlPlane) -> None:
    api, where = cluster.api, "/apis/before.test/v1alpha1/namespaces/crds/batchpolicies"
    applied = batch_policies_of("before.test")
    spec = applied["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    level = spec["properties"]["priorities"]["properties"]["levels"]["items"]
    rules = [one.pop("x-kubernetes-validations") for one in (spec, level)]
    define(cluster, applied)
    for name, (given, _) in BEFORE_THE_RULES.items():
        made = manifest("BatchPolicy", name, {"models": ["digits"], **given})
        api.request("POST", where, made | {"apiVersion": "before.test/v1alpha1"})
    for one, its_rules in zip((spec, level), rules, strict=True):
        one["x-kubernetes-validations"] = its_rules
    define(cluster, applied)
    for name, (given, mended) in BEFORE_THE_RULES.items():
        again = manifest("BatchPolicy", "again", {"models": ["digits"], **given})
        until_refused(cluster, where, again | {"apiVersion": "before.test/v1alpha1"})
        for change in (
            {"metadata": {"labels": {"a": "b"}}},
            {"spec": {"maxBatchSize": 16}},
            {"spec": mended},
        ):
            api.request("PATCH", f"{where}/{name}", change, content_type=MERGE_PATCH)
        with pytest.raises(ApiError, match="422"):
            api.request("PATCH", f"{where}/{name}", {"spec": given}, content_type=MERGE_PATCH)
    cluster.kubectl("delete", "crd", applied["metadata"]["name"], "--wait=false")


def batch_policies_of(group: str) -> dict[str, Any]:
    """The CRD in another group, by no other names: whatever is done to it disturbs nobody."""
    crd: dict[str, Any] = yaml.safe_load((ROOT / "crds" / "batchpolicy.yaml").read_text())
    crd["metadata"]["name"] = f"batchpolicies.{group}"
    crd["spec"]["group"] = group
    for names in ("shortNames", "categories"):
        del crd["spec"]["names"][names]
    return crd


def define(cluster: ControlPlane, crd: dict[str, Any]) -> None:
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(crd))
    name = f"crd/{crd['metadata']['name']}"
    cluster.kubectl("wait", "--for=condition=Established", name, "--timeout=60s")


def until_refused(cluster: ControlPlane, where: str, made: dict[str, Any]) -> None:
    """Wait until the API server holds new objects to the rules."""
    ended = time.monotonic() + 60
    while time.monotonic() < ended:
        try:
            cluster.api.request("POST", f"{where}?dryRun=All", made)
        except ApiError as refusal:
            assert refusal.status == 422  # noqa: PT017 - it may come at any time
            return
        time.sleep(0.05)
    pytest.fail("the rules were not applied")


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
        "metrics": {"requestsPerSecond": 20.5},
    },
    "CanaryRollout": {
        "phase": "Progressing",
        "verdict": "Pass",
        "stableVersion": 1,
        "message": "At 20% (step 2/8): gathering evidence",
        "display": {
            "step": "2/8",
            "weight": "20%",
            "requests": "512/128",
            "acked": "2/2",
            "message": "Gathering evidence",
        },
    },
    "ABTest": {
        "phase": "Running",
        "verdict": "Running",
        "message": "about 9h left",
        "display": {"samples": "1024+998", "lift": "+1.2%", "p": "0.031"},
    },
    "BatchPolicy": {
        "phase": "Applied",
        "message": "applied",
        "display": {
            "models": "digits,Resnet50",
            "strategy": "Adaptive",
            "batch": "12/32",
            "applied": "2/2",
            "p99": "9.3ms",
        },
    },
}
COLUMNS = {
    "mver": (
        "NAME MODEL VERSION PHASE TRAFFIC PODS AGE MESSAGE",
        r"complete +Resnet50_v1\.5 +2 +Ready +30% +2/2 +\d+m?s +serving",
        "NAME MODEL VERSION LIFECYCLE PHASE TRAFFIC PODS REQUESTS ERRORS P95 AGE MESSAGE",
    ),
    "cro": (
        "NAME MODEL PHASE STEP WEIGHT VERDICT AGE MESSAGE",
        r"complete +digits +Progressing +2/8 +20% +Pass +\d+m?s +Gathering evidence",
        "NAME MODEL PHASE STEP WEIGHT VERDICT STABLE CANARY REQUESTS ACKED AGE MESSAGE",
    ),
    "abt": (
        "NAME MODEL PHASE VERDICT SAMPLES LIFT P AGE MESSAGE",
        r"complete +digits +Running +Running +1024\+998 +\+1\.2% +0\.031 +\d+m?s +about 9h left",
        "NAME MODEL PHASE VERDICT SAMPLES LIFT P AGE MESSAGE",
    ),
    "bpol": (
        "NAME MODELS STRATEGY BATCH APPLIED P99 AGE",
        r"complete +digits,Resnet50 +Adaptive +12/32 +2/2 +9\.3ms +\d+m?s",
        "NAME MODELS STRATEGY BATCH APPLIED P99 AGE MESSAGE",
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


LONGEST = {
    "ModelVersion": {"phase": "Unloaded", "display": {"traffic": "100%", "pods": "100/100"}},
    "CanaryRollout": {
        "phase": "WaitingPromotion",
        "verdict": "Inconclusive",
        "display": {"step": "10/20", "weight": "100%"},
    },
    "ABTest": {
        "phase": "Finished",
        "verdict": "SampleRatioMismatch",
        "display": {"samples": "98304+98117", "lift": "+12.3%", "p": "0.0001"},
    },
    "BatchPolicy": {
        "display": {
            "models": "digits",
            "strategy": "Adaptive",
            "batch": "12000/65536",
            "applied": "100/100",
            "p99": "12.3ms",
        }
    },
}


@pytest.mark.parametrize("kind", PLURALS)
def test_message_begins_within_a_hundred_columns(cluster: ControlPlane, kind: str) -> None:
    cluster.api.request("POST", path(kind), manifest(kind, "digits-3-vs-4", MINIMAL[kind]))
    cluster.api.request(
        "PATCH",
        path(kind, "digits-3-vs-4") + "/status",
        {"status": LONGEST[kind]},
        content_type=MERGE_PATCH,
    )
    wide = ["--output=wide"] if kind == "BatchPolicy" else []
    shown = cluster.kubectl("get", PLURALS[kind], "digits-3-vs-4", "--namespace=crds", *wide)
    assert shown.index("MESSAGE") < 100


def test_kubectl_gets_all_kinds_by_category(cluster: ControlPlane) -> None:
    shown = cluster.kubectl("get", "tidegate", "--namespace=crds", "--output=name")
    found = {name.split(".")[0] for name in shown.split()}
    assert found == {"abtest", "batchpolicy", "canaryrollout", "modelversion"}


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
    assert "condition met" in cluster.kubectl(*wait, "mver/complete", "--timeout=60s")
    with pytest.raises(KubectlFailed, match="timed out"):
        cluster.kubectl(*wait, "mver/minimal", "--timeout=1s")


@pytest.mark.parametrize(
    "file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.name
)
def test_example_is_accepted(cluster: ControlPlane, file: Path) -> None:
    cluster.kubectl("apply", "--dry-run=server", "--namespace=crds", "--filename", str(file))
