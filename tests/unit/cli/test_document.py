"""The document for programs: its shape, its order, and what is left out."""

from shelf import Raw, Shelf, abtest, rollout, routing_table, version

from tidegate_cli.cluster import CONFIG_MAP
from tidegate_cli.document import document
from tidegate_cli.lookup import observe


def of(shelf: Shelf) -> Raw:
    return document(observe(shelf, None))


def names(listed: list[Raw]) -> list[str]:
    return [one["name"] for one in listed]


def test_the_order_is_not_the_api_servers(shelf: Shelf) -> None:
    shelf.put(rollout("b", created="2026-10-02"))
    shelf.put(rollout("a", created="2026-10-02"))
    shelf.put(abtest("t"))
    shelf.put(version(10))
    forwards = of(shelf)
    shelf.objects = dict(reversed(shelf.objects.items()))

    assert of(shelf) == forwards
    (model,) = forwards["models"]
    assert names(model["rollouts"]) == ["a", "b", "digits-2"]
    assert names(model["versions"]) == ["digits-1", "digits-2", "digits-10"]
    assert names(model["tests"]) == ["t"]


def test_history_and_conditions_have_a_place_of_their_own(shelf: Shelf) -> None:
    conditions = [{"type": "Ready"}, {"type": "Paused"}]
    shelf.put(
        rollout(
            phase="Holding",
            history=[{"time": "t", "to": "Holding"}],
            conditions=conditions,
            checkpoint={"a": 1},
        )
    )

    (one,) = of(shelf)["models"][0]["rollouts"]

    assert one["history"] == [{"time": "t", "to": "Holding"}]
    assert one["conditions"] == conditions[::-1]
    assert one["status"] == {"phase": "Holding"}


def test_split_and_baseline_are_in_percent(shelf: Shelf) -> None:
    (model,) = of(shelf)["models"]

    assert model["split"] == [
        {"arm": "canary", "version": 2, "percent": 20},
        {"arm": "stable", "version": 1, "percent": 80},
    ]
    assert model["baseline"] == [{"version": 1, "percent": 100}]
    assert model["owner"] == {"kind": "CanaryRollout", "name": "digits-2"}
    shelf.put(routing_table(baseline={2: 60, 1: 40}))
    (model,) = of(shelf)["models"]
    assert [one["percent"] for one in model["baseline"]] == [40, 60]


def test_a_model_without_a_table_has_every_key_all_the_same(shelf: Shelf) -> None:
    complete = of(shelf)["models"][0]
    del shelf.objects[CONFIG_MAP, "default", "tidegate-routing-digits"]
    (model,) = of(shelf)["models"]

    assert model.keys() == complete.keys()
    assert (model["owner"], model["revision"], model["split"]) == (None, None, [])
