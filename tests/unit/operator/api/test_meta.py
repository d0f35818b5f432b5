"""From the API server's JSON to types and back."""

from typing import Any

import pytest

from tidegate_operator.api.canaryrollout import CanaryRollout, Status
from tidegate_operator.api.meta import InvalidObjectError, Metadata, condition, convert, wire


def raw(**changes: Any) -> dict[str, Any]:
    meta = {"name": "a", "namespace": "default", "uid": "u", "labels": {"x": "y"}}
    return {"metadata": meta, "spec": {"model": "digits", "canaryVersion": 2}, **changes}


def test_unknown_fields_are_ignored_and_the_raw_status_kept() -> None:
    status = {"phase": "Gating", "fromTheFuture": {"a": 1}}
    one = convert(raw(status=status), CanaryRollout)
    assert one.status.phase == "Gating"
    assert one.raw_status == status


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"spec": {"model": "digits"}}, "canaryVersion"),
        ({"spec": {"model": 7, "canaryVersion": 2}}, r"\$\.spec\.model"),
        ({"status": {"phase": "Asleep"}}, r"\$\.status\.phase"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidObjectError, match=path):
        convert(raw(**changes), CanaryRollout)


def test_none_is_left_out_at_every_depth() -> None:
    told = wire(Status(stable_version=None, plan=[]))
    assert "stableVersion" not in told
    assert told["plan"] == []
    assert wire({"a": [{"b": None}]}) == {"a": [{}]}


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = condition([], "Ready", False, "A", "", now=0, generation=1)
    same = condition([first], "Ready", False, "B", "why", now=9, generation=2)
    other = condition([same], "Ready", None, "C", "", now=9, generation=2)
    assert same.last_transition_time == first.last_transition_time
    assert (same.reason, same.observed_generation) == ("B", 2)
    assert (other.status, other.last_transition_time) == ("Unknown", "1970-01-01T00:00:09.000Z")


def test_age_order_is_settled_by_the_uid() -> None:
    old, new = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z")
    objects = [
        Metadata(name="c", namespace="n", uid="a", creation_timestamp=new),
        Metadata(name="b", namespace="n", uid="z", creation_timestamp=old),
        Metadata(name="a", namespace="n", uid="y", creation_timestamp=old),
    ]
    assert [one.name for one in sorted(objects, key=lambda one: one.age_order)] == ["a", "b", "c"]
