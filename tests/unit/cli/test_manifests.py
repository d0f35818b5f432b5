"""The ModelVersions that are written for people to apply."""

import pytest
from shelf import Raw, Shelf, routing_table, version

from tidegate_cli import manifests
from tidegate_cli.lookup import observe_one
from tidegate_cli.models import Model

BEHIND = [{"type": "SpecBehind", "status": "True"}]


def test_a_version_is_undeclared_where_any_pod_has_it_and_no_object(shelf: Shelf) -> None:
    model = observe_one(shelf, "default", "digits")

    assert manifests.undeclared(model, [[2, 7], [3], []]) == [3, 7]


@pytest.mark.parametrize(
    ("model", "name"), [("digits", "digits-3"), ("Resnet50", "resnet50-59a8f79c-3")]
)
def test_a_declared_version_gets_no_traffic(model: str, name: str) -> None:
    written = manifests.declaration(Model("here", model), 3)

    assert written["metadata"] == {"name": name, "namespace": "here"}
    assert written["spec"] == {"model": model, "version": 3, "lifecycle": "Testing"}


def test_a_declared_version_selects_the_pods_of_the_others(shelf: Shelf) -> None:
    selector = {"matchLabels": {"app": "triton"}}
    shelf.put(version(1, podSelector=selector))

    written = manifests.declaration(observe_one(shelf, "default", "digits"), 3)

    assert written["spec"]["podSelector"] == selector


def promoted(shelf: Shelf, one: Raw) -> Raw:
    """The manifest that catches up with version 2 having everything."""
    one["status"]["conditions"] = BEHIND
    shelf.put(one)
    shelf.put(routing_table(None, {("stable", 2): 100}, {2: 100}))
    model = observe_one(shelf, "default", "digits")
    (found,) = manifests.behind(model)
    return manifests.caught_up(model, found)


@pytest.mark.parametrize(
    ("lifecycle", "expected"),
    [("Testing", "Active"), ("Inactive", "Active"), ("Active", "Active")],
)
def test_what_was_promoted_is_active_with_everything(
    shelf: Shelf, lifecycle: str, expected: str
) -> None:
    spec = promoted(shelf, version(2, lifecycle=lifecycle, compatibility="Ignore"))["spec"]

    assert (spec["lifecycle"], spec["trafficPercent"]) == (expected, 100)
    assert spec["compatibility"] == "Ignore"


def test_a_deprecated_version_stays_so(shelf: Shelf) -> None:
    assert promoted(shelf, version(2, lifecycle="Deprecated"))["spec"]["lifecycle"] == "Deprecated"


@pytest.mark.parametrize("lifecycle", ["Testing", "Active"])
def test_what_lost_its_traffic_asks_for_none_and_keeps_its_lifecycle(
    shelf: Shelf, lifecycle: str
) -> None:
    raw = version(1, lifecycle=lifecycle, trafficPercent=100)
    raw["metadata"]["labels"] = {"team": "vision"}
    raw["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}

    written = promoted(shelf, raw)

    assert (written["spec"]["lifecycle"], written["spec"]["trafficPercent"]) == (lifecycle, 0)
    expected = {"name": "digits-1", "namespace": "default", "labels": {"team": "vision"}}
    assert written["metadata"] == expected
