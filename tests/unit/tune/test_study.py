"""The search learns, keeps what it found, goes on where it was, and writes what can be applied."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate_contract.table import BatchSettings
from tidegate_tune import plots
from tidegate_tune.score import ClassOutcome, Outcome, Weights
from tidegate_tune.space import Candidate, Space, fresh, manifest
from tidegate_tune.study import Search, best


def hill(candidate: Candidate) -> Outcome:
    """Best at batches of 16."""
    share = 1 / (1 + abs(candidate.max_batch_size - 16))
    return Outcome([ClassOutcome("all", 1000, int(1000 * share), 0.1, 1.0)], share)


def search(journal: Path, **changed: object) -> Search:
    settings = {
        "model": "digits",
        "space": Space(64),
        "weights": Weights(),
        "load": {"rate": 900},
        "seed": 1,
        "journal": journal,
    }
    return Search(**(settings | changed))  # type: ignore[arg-type]


def test_it_begins_with_the_default_policy_and_ends_near_the_best(tmp_path: Path) -> None:
    told: list[int] = []
    done = search(tmp_path / "journal").run(hill, 40, lambda one: told.append(one.number))
    assert told == list(range(40))
    assert done[0].candidate.settings(BatchSettings()).max_wait == BatchSettings().max_wait
    assert done[0].candidate.max_batch_size == 64
    assert abs(best(done).candidate.max_batch_size - 16) <= 2


def test_what_was_broken_off_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    asked = 0

    def interrupted(candidate: Candidate) -> Outcome:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise KeyboardInterrupt
        return hill(candidate)

    with pytest.raises(KeyboardInterrupt):
        search(journal).run(interrupted, 6, lambda _: None)
    told: list[int] = []
    done = search(journal).run(hill, 6, lambda one: told.append(one.number))
    assert len(done) == 6
    assert len(told) == 3
    assert [one.number for one in search(journal).kept()] == [one.number for one in done]
    drawn = [one.candidate for one in done]
    assert len({one.aging_reserve for one in drawn}) == 6  # nothing was drawn twice


def test_one_that_is_there_begins_with_what_is_kept(tmp_path: Path) -> None:
    assert search(tmp_path / "journal").kept() == []


@pytest.mark.parametrize("changed", [{"space": Space(8)}, {"load": {"rate": 90}}])
def test_another_search_is_not_mixed_in(tmp_path: Path, changed: dict[str, object]) -> None:
    search(tmp_path / "journal").run(hill, 1, lambda _: None)
    with pytest.raises(ValueError, match="another --journal"):
        search(tmp_path / "journal", **changed).run(hill, 2, lambda _: None)


@pytest.mark.parametrize("content", ["# a text", '{"a": 1}', b"\xff\xfe".decode("latin-1")])
def test_a_file_that_is_something_else_is_said_to_be_so(tmp_path: Path, content: str) -> None:
    journal = tmp_path / "journal"
    journal.write_text(f"{content}\n", encoding="latin-1")
    with pytest.raises(ValueError, match="no journal of a search"):
        search(journal).kept()


def test_the_best_is_written_as_a_policy(tmp_path: Path) -> None:
    found = best(search(tmp_path / "journal").run(hill, 3, lambda _: None))
    text = manifest(*fresh("digits"), found.candidate, "found\nby a search")
    assert text.startswith("# found\n# by a search\n")
    document = yaml.safe_load(text)
    assert document["kind"] == "BatchPolicy"
    assert document["spec"]["models"] == ["digits"]
    assert document["metadata"] == {"name": "digits"}
    assert document["spec"]["maxBatchSize"] == found.candidate.max_batch_size


def test_a_model_whose_name_no_object_may_have_gets_one_that_may() -> None:
    metadata, spec = fresh("Res_Net.50")
    assert re.fullmatch("res-net-50-[0-9a-f]{8}", metadata["name"])
    assert spec == {"models": ["Res_Net.50"]}


def test_the_policy_that_was_tried_keeps_what_was_not_searched(tmp_path: Path) -> None:
    found = best(search(tmp_path / "journal").run(hill, 1, lambda _: None))
    spec = {"models": ["digits", "more"], "maxWait": "1s", "priorities": {"default": 2}}
    document = yaml.safe_load(manifest({"name": "both"}, spec, found.candidate, ""))
    assert document["metadata"] == {"name": "both"}
    assert document["spec"]["models"] == ["digits", "more"]
    assert document["spec"]["maxWait"] == "5ms"
    assert document["spec"]["priorities"] == {"default": 2, "agingReserve": 0.05}


@pytest.mark.parametrize(
    ("spec", "space"),
    [
        ({}, Space(64)),
        ({"targetLatency": "20ms", "deadline": {"default": "30s"}}, Space(64, longest=19)),
        ({"targetLatency": "1m10s"}, Space(64)),
        ({"deadline": {"default": "10ms"}}, Space(64, longest=9)),
        ({"deadline": {"default": "0s"}}, Space(64)),
        ({"minBatchSize": 8}, Space(64, 8, shortest=1, strategies=("Adaptive",))),
        ({"minBatchSize": 100}, Space(100, 100, shortest=1, strategies=("Adaptive",))),
    ],
)
def test_only_what_the_rest_of_the_policy_allows_is_tried(
    spec: dict[str, Any], space: Space
) -> None:
    assert Space.within(spec, 64) == space


def test_a_narrow_space_is_kept_to(tmp_path: Path) -> None:
    space = Space(64, 8, longest=3, shortest=1, strategies=("Adaptive",))
    for one in search(tmp_path / "journal", space=space).run(hill, 10, lambda _: None):
        assert 8 <= one.candidate.max_batch_size <= 64
        assert 0.001 <= one.candidate.max_wait <= 0.003
        assert one.candidate.strategy == "Adaptive"


def test_fixed_is_not_given_a_goal_that_it_does_not_weigh(tmp_path: Path) -> None:
    done = search(tmp_path / "journal").run(hill, 40, lambda _: None)
    fixed = [one.candidate for one in done if one.candidate.strategy == "Fixed"]
    assert {one.optimize for one in fixed} == {"Throughput"}


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    done = search(tmp_path / "journal").run(hill, 5, lambda _: None)
    plots.draw(done, tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
