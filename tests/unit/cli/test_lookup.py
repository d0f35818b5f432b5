"""Models, rollouts and tests are found, or what is near is named."""

import pytest
from shelf import Shelf, abtest, rollout, routing_table, version

from tidegate_cli.cluster import CONFIG_MAP, ROLLOUT, TEST
from tidegate_cli.errors import ClusterError, ForbiddenError, NotFoundError
from tidegate_cli.lookup import find_trial, observe, observe_one, refreshed


def test_objects_of_a_model_come_together_with_the_owner_first(shelf: Shelf) -> None:
    shelf.put(rollout("older", created="2026-11-01", phase="RolledBack"))
    shelf.put(rollout("oldest", created="2026-10-01", phase="Succeeded"))
    shelf.put(rollout("next", created="2026-12-09", phase="Waiting"))
    shelf.put(abtest("first-in-line", created="2026-11-09", phase="Waiting"))

    (model,) = observe(shelf, "default")

    order = [one.metadata.name for one in model.trials]
    assert order == ["digits-2", "first-in-line", "next", "older", "oldest"]
    assert model.owner is model.trials[0]
    assert [one.spec.version for one in model.versions] == [1, 2]
    assert model.baseline == {1: 100.0}


def test_versions_are_in_the_order_of_their_numbers(shelf: Shelf) -> None:
    shelf.put(version(10))

    (model,) = observe(shelf, None)

    assert [one.spec.version for one in model.versions] == [1, 2, 10]


def test_a_table_that_may_not_be_read_is_a_problem_and_no_end(shelf: Shelf) -> None:
    shelf.missing[CONFIG_MAP] = ForbiddenError("configmaps is forbidden")

    (model,) = observe(shelf, "default")

    assert model.table is None
    assert "configmaps is forbidden" in model.problems[0]


def test_a_table_that_was_edited_by_hand_is_a_problem(shelf: Shelf) -> None:
    edited = routing_table()
    edited["data"]["table.json"] += " "
    shelf.put(edited)

    (model,) = observe(shelf, "default")

    assert model.table is None
    assert "edited by hand" in model.problems[0]


def test_an_object_of_another_time_is_named_and_the_rest_is_shown(shelf: Shelf) -> None:
    shelf.put(rollout("future", phase="Progressing", metrics="all fine"))

    (model,) = observe(shelf, "default")

    assert "CanaryRollout future is not understood" in model.problems[0]
    assert "metrics" in model.problems[0]
    phases = {one.metadata.name: one.status.phase for one in model.trials}
    assert phases == {"digits-2": "Progressing", "future": "Progressing"}
    (raw,) = [one.raw for one in model.trials if one.metadata.name == "future"]
    assert raw["status"]["metrics"] == "all fine"


def test_an_object_that_fits_nothing_is_left_out_by_name(shelf: Shelf) -> None:
    shelf.put(version(3, lifecycle=["Active"]))

    (model,) = observe(shelf, "default")

    assert "ModelVersion digits-3 is not understood" in model.problems[0]
    assert [one.spec.version for one in model.versions] == [1, 2]


def test_a_cluster_with_older_kinds_has_no_tests(shelf: Shelf) -> None:
    shelf.missing[TEST] = NotFoundError("page not found")

    assert len(observe(shelf, "default")) == 1


def test_a_cluster_without_the_kinds_is_told_what_to_install(shelf: Shelf) -> None:
    shelf.missing[ROLLOUT] = NotFoundError("page not found")

    with pytest.raises(ClusterError, match="apply crds/"):
        observe(shelf, "default")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("digit", "did you mean digits?"),
        ("bert", "there is digits"),
    ],
)
def test_a_model_that_is_not_there(shelf: Shelf, name: str, says: str) -> None:
    with pytest.raises(NotFoundError, match=f"no model {name} in namespace default: {says}"):
        observe_one(shelf, "default", name)


def test_an_empty_namespace_says_where_else_to_look() -> None:
    with pytest.raises(NotFoundError, match="status -A"):
        observe_one(Shelf(), "default", "digits")


def test_one_name_of_a_rollout_and_a_test_is_told_apart_by_its_kind(shelf: Shelf) -> None:
    shelf.put(abtest("digits-2"))

    with pytest.raises(NotFoundError, match="say cro/digits-2 or abt/digits-2"):
        find_trial(shelf, "default", "digits-2")
    assert find_trial(shelf, "default", "abt/digits-2").kind == TEST
    assert find_trial(shelf, "default", "CanaryRollout/digits-2").kind == ROLLOUT


def test_a_rollout_that_was_created_anew_is_another_one(shelf: Shelf) -> None:
    trial = find_trial(shelf, "default", "digits-2")
    again = rollout()
    again["metadata"]["uid"] = "another"
    shelf.put(again)

    with pytest.raises(NotFoundError, match="deleted, and another one"):
        refreshed(shelf, trial)
