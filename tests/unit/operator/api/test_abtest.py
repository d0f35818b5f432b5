from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from experiments import ab_test, hashes

from tidegate_operator.api.abtest import ABTest, Checkpoint, Status, Users
from tidegate_operator.api.meta import convert, wire

ROOT = Path(__file__).parents[4]


def defaults(schema: dict[str, Any], path: str = "") -> dict[str, Any]:
    """What the API server fills in, by path; of lists, what it fills into each entry."""
    found = {path: schema["default"]} if "default" in schema else {}
    for name, one in schema.get("properties", {}).items():
        found |= defaults(one, f"{path}.{name}")
    if "items" in schema:
        found |= defaults(schema["items"], path)
    return found


def test_the_operator_fills_in_what_the_api_server_does() -> None:
    crd = yaml.safe_load((ROOT / "crds" / "abtest.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = defaults(schema)
    metrics = [
        {"name": "rated", "feedback": {"kind": "Binary"}},
        {"name": "counted", "prometheus": {"successes": "a", "total": "b"}},
    ]
    test = ab_test(successMetrics=metrics, guardrails=[{"name": "errors", "errorRate": {}}])
    spec = wire(test.spec)
    for path, default in found.items():
        places: list[Any] = [spec]
        for name in path.strip(".").split("."):
            places = [place[name] for place in places if name in place]
            places = [
                one for place in places for one in (place if isinstance(place, list) else [place])
            ]
        assert places, path
        assert all(place == default for place in places), path


def test_the_example_is_understood() -> None:
    raw = yaml.safe_load((ROOT / "examples" / "abtest.yaml").read_text())
    raw["metadata"] |= {"namespace": "default", "uid": "uid"}
    test = convert(raw, ABTest)
    (outcome,) = test.spec.outcomes
    assert (outcome.name, outcome.kind, outcome.low, outcome.high) == ("accuracy", "Binary", 0, 1)
    assert test.spec.delay == 0


def test_outcomes_are_those_that_clients_report() -> None:
    metrics = [
        {"name": "stars", "feedback": {"kind": "Value", "range": [-1, 5]}},
        {"name": "counted", "prometheus": {"successes": "a", "total": "b"}},
    ]
    (outcome,) = ab_test(successMetrics=metrics).spec.outcomes
    assert (outcome.name, outcome.low, outcome.high) == ("stars", -1, 5)


@pytest.mark.parametrize("halvings", [0, 3])
def test_users_are_counted_from_their_sample(halvings: int) -> None:
    users = Users(
        halvings=halvings, control=hashes(np.arange(5)), treatment=hashes(np.arange(7, 10))
    )
    assert users.sampled == (5, 3)
    assert users.seen == (5 << halvings, 3 << halvings)


def test_a_status_survives_the_way_through_the_api_server() -> None:
    """As JSON numbers are floating point there, and what is None is not there."""
    status = Status(
        phase="Running",
        checkpoint=Checkpoint(
            gating_since=1.5, users=Users(halvings=64), queried={"q": [1.0, 2.0]}
        ),
    )
    stored = msgspec.json.decode(msgspec.json.encode(wire(status)))
    raw = {
        "metadata": {"name": "n", "namespace": "default", "uid": "u"},
        "spec": wire(ab_test().spec),
        "status": stored,
    }
    assert convert(raw, ABTest).status == status
