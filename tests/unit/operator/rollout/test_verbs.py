"""What a person says by annotation: acted on once, whatever is in between."""

from collections.abc import Callable
from typing import Any

import pytest
from canaries import analysis, started, stepping, steps, weights, where
from simulation import Simulation, failing, two_versions

from tidegate_operator.api.meta import Metadata
from tidegate_operator.readings import moment
from tidegate_operator.rollout import verbs
from tidegate_operator.rollout.verbs import Abort, Promote, Retry, Unknown, Verb

GATED = steps(20, 60, 100, gates=(20, 60, 100))


def judges_next(world: Simulation) -> bool:
    """Whether the next second's look is one at evidence."""
    return (world.now + 1 - moment(("default", "digits"), 5.0)) % 5 < 1


def said(**words: str) -> Metadata:
    annotations = {f"tidegate.dev/{word}": value for word, value in words.items()}
    return Metadata(name="r", namespace="n", uid="u", annotations=annotations)


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        ({"promote": "step"}, Promote("step")),
        ({"promote": "step@0"}, Promote("step", 0)),
        ({"promote": " step@12 "}, Promote("step", 12)),
        ({"promote": "full"}, Promote("full")),
        ({"abort": "too slow"}, Abort("too slow")),
        ({"abort": " "}, Abort("no reason given")),
        ({"retry": ""}, Retry()),
        ({"promote": "full", "retry": "", "abort": "x"}, Abort("x")),
        ({"promote": "full", "retry": ""}, Retry()),
    ],
)
def test_words(words: dict[str, str], verb: Verb) -> None:
    spoken = verbs.spoken(said(**words))
    assert spoken is not None
    assert spoken.verb == verb


@pytest.mark.parametrize("value", ["", "stap", "step@", "step@x", "step@-1", "full@2", "step@1@2"])
def test_words_that_mean_nothing(value: str) -> None:
    spoken = verbs.spoken(said(promote=value))
    assert spoken is not None
    assert spoken.verb == Unknown(
        f"tidegate.dev/promote must be step, step@N or full, not {value!r}"
    )


def test_other_annotations_are_none_of_ours() -> None:
    assert verbs.spoken(Metadata(name="r", namespace="n", uid="u", annotations={"a": "b"})) is None


def test_a_word_is_remembered_then_removed_then_forgotten() -> None:
    world = started(**GATED)
    world.run_to("WaitingPromotion")
    world.say("promote", "step@0")
    writes = len(world.writes)
    world.run(10)
    done = [what for what in world.writes[writes:] if "ModelVersion" not in what]
    assert done[:2] == ["status CanaryRollout rollout Progressing", "table"], "acted on and told"
    assert done.count("annotation CanaryRollout rollout tidegate.dev/promote") == 1
    assert world.said() == {}
    assert "lastVerb" not in world.status()


def test_the_same_word_may_be_said_again() -> None:
    world = started(**GATED)
    for reached in (0, 20, 60):
        world.run_to("WaitingPromotion")
        assert world.weight == reached
        world.say("promote", "step")
        world.run(10)
    world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]


def test_a_word_that_stays_is_not_acted_on_twice() -> None:
    """Git puts the annotation back again and again, faster than it is removed."""
    world = started(**steps(20, 60, 100, gates=(20, 60)))
    world.run_to("WaitingPromotion")

    def again(what: str) -> None:
        if what.startswith("annotation"):
            world.say("promote", "step@0")

    world.before_write = again
    world.say("promote", "step@0")
    world.run(120)
    assert weights(world) == [20], "step@0 opened the first gate only"


@pytest.mark.parametrize("at", [0, 2, 3])
def test_step_at_another_step_is_ignored_and_told(at: int) -> None:
    world = started(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")
    world.say("promote", f"step@{at}")
    world.run(10)
    assert weights(world) == [20]
    assert world.said() == {}
    told = [one.message for one in world.events if one.reason == "VerbIgnored"]
    assert told == [f"promote=step@{at} changes nothing: it is at step 1"]


def test_step_at_the_present_one_skips_its_time() -> None:
    world = stepping(**steps(20, 60, 100, duration="1h"))
    world.say("promote", "step@1")
    world.run(2)
    assert world.weight == 60


def test_a_bare_step_acts_only_where_a_person_is_waited_for() -> None:
    world = stepping(**steps(20, 60, 100, duration="1h"))
    world.say("promote", "step")
    world.run(10)
    assert weights(world) == [20]
    told = [one.message for one in world.events if one.reason == "VerbIgnored"]
    assert told == [
        "promote=step changes nothing: it waits for nobody; step@1 skips this step's time"
    ]


def test_full_skips_all_steps_and_gates() -> None:
    world = started(**steps(20, 60, 100, gates=(20, 60, 100)))
    world.run_to("WaitingPromotion")
    world.say("promote", "full")
    world.run_to("Succeeded", within=10)
    assert weights(world) == []
    world = stepping()
    world.say("promote", "full")
    status = world.run_to("Succeeded", within=10)
    assert weights(world) == [20, 0]
    assert [entry["reason"] for entry in status["history"][-2:]] == ["Promoted", "Promoted"]


def test_full_skips_neither_the_load() -> None:
    world = two_versions()
    world.load_time = 60
    world.version(3)
    world.rollout(canary=3)
    world.say("promote", "full")
    world.run(20)
    assert world.status()["phase"] == "Gating"
    assert world.said() != {}, "it is kept until it can be acted on"
    world.run_to("Succeeded", within=200)


def test_nor_the_compatibility() -> None:
    world = two_versions()
    world.tensors[3] = []
    world.version(3)
    world.rollout(canary=3)
    world.say("promote", "full")
    world.run_to("Failed")
    assert world.status()["reason"] == "Incompatible"


def test_nor_harm_that_is_seen_at_the_same_time() -> None:
    world = stepping()
    world.run(20, judges_next)
    world.run(1)
    world.behaviour = failing(2, 1.0)
    world.run(20, judges_next)
    world.say("promote", "full")
    world.run(20, lambda w: w.status()["phase"] not in {"Progressing", "Holding"})
    assert weights(world) == [20, 0]
    assert world.status()["phase"] in {"RollingBack", "RolledBack"}


def test_a_promotion_waits_while_suspended() -> None:
    world = stepping(**steps(20, 60, 100, duration="1h"))
    world.edit(suspend=True)
    world.say("promote", "step@1")
    world.run(60)
    assert (weights(world), world.said()) == ([20], {"tidegate.dev/promote": "step@1"})
    world.edit(suspend=False)
    world.run(3)
    assert weights(world) == [20, 60]
    assert world.said() == {}


def test_a_promotion_goes_on_without_prometheus() -> None:
    world = stepping()
    world.prometheus_up = False
    world.run_to("Holding", within=20)
    world.say("promote", "full")
    world.run_to("Succeeded", within=20)


def test_but_not_where_its_absence_is_to_roll_back() -> None:
    analysis = {"interval": "5s", "warmup": "0s", "minRequests": 20, "onError": "Rollback"}
    world = stepping(analysis=analysis)
    world.run(20, lambda w: w.now % 5 == 4)
    world.prometheus_up = False
    world.say("promote", "full")
    world.edit(suspend=True)
    world.run(3)
    world.edit(suspend=False)
    world.run(20, lambda w: w.status()["phase"] in {"RolledBack", "Succeeded"})
    assert world.status()["phase"] in {"RolledBack", "Succeeded"}


def pending(world: Simulation) -> None:
    world.rollout(canary=9)
    world.run(3)


def waiting(world: Simulation) -> None:
    world.rollout(suspend=True)
    world.run(3)


def gating(world: Simulation) -> None:
    world.load_time = 60
    world.version(3)
    world.rollout(canary=3)
    world.run(3)


def at_first_gate(world: Simulation) -> None:
    world.rollout(**GATED)
    world.run_to("WaitingPromotion")


@pytest.mark.parametrize("prepare", [pending, waiting, gating, at_first_gate])
def test_aborted_before_it_had_weight_it_failed(prepare: Callable[[Simulation], None]) -> None:
    world = two_versions()
    prepare(world)
    world.say("abort", "not today")
    status = world.run_to("Failed", within=5)
    assert status["reason"] == "Aborted"
    assert status["message"] == (
        "Aborted (not today) before it had any traffic; retry it, or delete it"
    )
    world.run(3)
    assert world.said() == {}
    assert world.reasons()[-1] == "RolledBack"
    assert world.table.owner is None
    assert weights(world) == []


def progressing(world: Simulation) -> None:
    world.run(1)


def holding(world: Simulation) -> None:
    world.prometheus_up = False
    world.run_to("Holding")


def suspended(world: Simulation) -> None:
    world.edit(suspend=True)
    world.run(2)


def awaiting(world: Simulation) -> None:
    world.edit(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")


@pytest.mark.parametrize("prepare", [progressing, holding, suspended, awaiting])
def test_aborted_with_weight_it_goes_back(prepare: Callable[[Simulation], None]) -> None:
    world = stepping()
    prepare(world)
    world.say("abort", "too slow")
    status = world.run_to("RolledBack", within=5)
    assert status["reason"] == "Aborted"
    assert "Rolled back to version 1 from 20%: aborted (too slow);" in status["message"]
    world.run(3)
    assert world.said() == {}
    assert world.reasons().count("RolledBack") == 1
    assert "VerbIgnored" not in world.reasons()


@pytest.mark.parametrize("end", ["Succeeded", "RolledBack"])
def test_what_is_decided_is_not_aborted(end: str) -> None:
    world = started()
    world.behaviour = failing(2, 0.9 if end == "RolledBack" else 0.0)
    world.run_to(end)
    world.say("abort", "late")
    world.run(40)
    assert world.status()["phase"] == end
    assert (world.reasons().count("VerbIgnored"), world.said()) == (1, {})


@pytest.mark.parametrize("word", ["abort", "promote"])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_while_pods_are_waited_for_words_come_too_late(word: str, share: float) -> None:
    world = stepping()
    world.behaviour = failing(2, share)
    world.run(60, lambda w: w.status()["phase"] in {"Promoting", "RollingBack"} or w.weight == 60)
    if not share:
        world.say("promote", "full")
    world.by_name["triton-0"].silent = True
    world.run_to("Promoting", "RollingBack", within=60)
    world.run(5)
    world.say(word, "full")
    world.run(5)
    assert (world.reasons().count("VerbIgnored"), world.said()) == (1, {})
    world.by_name["triton-0"].silent = False
    world.run_to("RolledBack" if share else "Succeeded", within=40)


def rolled_back(**spec: Any) -> Simulation:
    world = started(**spec)
    world.behaviour = failing(2, 0.9)
    world.run_to("RolledBack")
    world.run(40)
    world.behaviour = failing(2, 0.0)
    return world


def test_a_retry_is_a_new_attempt_with_fresh_evidence_and_history_says_so() -> None:
    world = rolled_back()
    assert world.status()["attempt"] == 1
    old = {check.id for check in world.table.checks}
    since = world.now
    world.say("retry", "mended")
    world.run_to("Progressing")
    status = world.status()
    assert status["attempt"] == 2
    assert {check.id for check in world.table.checks}.isdisjoint(old)
    assert "Retried (attempt 2)" in [entry["reason"] for entry in status["history"]]
    latched = [table.latch is not None for table in world.tables]
    given = [table.split[-1].name == "canary" for table in world.tables]
    assert not any(a and b for a, b in zip(latched, given, strict=True))
    status = world.run_to("Succeeded")
    assert world.now - since < 120
    assert weights(world) == [20, 0, 20, 60, 0]
    assert [one["attempt"] for one in [status]] == [2]


def test_a_failed_one_is_retried_and_a_second_retry_is_attempt_three() -> None:
    world = two_versions()
    world.tensors[3] = []
    world.version(3)
    world.rollout(canary=3, **steps(20, 100))
    for attempt in (1, 2):
        assert world.run_to("Failed", within=30)["attempt"] == attempt
        if attempt == 2:
            del world.tensors[3]
            world.remove_pod("triton-0")
            world.remove_pod("triton-1")
            world.add_pod("triton-2")
        world.say("retry", f"{attempt}")
        world.run(2, lambda w: w.status()["phase"] != "Failed")
    world.run_to("Succeeded")
    assert world.status()["attempt"] == 3


def test_a_retry_joins_the_queue_at_its_own_time() -> None:
    world = rolled_back()
    world.version(3)
    world.rollout("owner", canary=3, analysis=analysis(), **steps(50, 100, duration="1h"))
    world.run_to("Progressing", name="owner")
    world.rollout("younger", canary=3, analysis=analysis(), **steps(50, 100))
    world.run(5)
    world.say("retry", "x")
    world.run(5)
    assert where(world) == where(world, "younger") == ("Waiting", "WaitingForOwner")
    world.say("abort", "make room", "owner")
    world.run_to("Progressing", name="younger", within=10)
    assert where(world) == ("Waiting", "WaitingForOwner")
    world.run_to("Succeeded", name="younger")
    world.run(5)
    assert where(world)[0] not in {"Waiting", "RolledBack"}


@pytest.mark.parametrize("prepare", [progressing, holding])
def test_what_is_not_over_is_not_retried_and_loses_no_look(
    prepare: Callable[[Simulation], None],
) -> None:
    world = stepping()
    prepare(world)
    world.say("retry", "x")
    world.run(3)
    assert (world.reasons().count("VerbIgnored"), world.said()) == (1, {})
    assert world.status()["attempt"] == 1
    world.prometheus_up = True
    world.run_to("Succeeded")


def test_what_succeeded_is_not_retried() -> None:
    world = started()
    world.run_to("Succeeded")
    world.say("retry", "x")
    world.run(40)
    assert where(world) == ("Succeeded", "Promoted")
    assert world.reasons().count("VerbIgnored") == 1


def test_a_word_that_means_nothing_is_told_once_and_removed() -> None:
    world = stepping()
    world.say("promote", "everything")
    world.run(3)
    told = [one.message for one in world.events if one.reason == "VerbIgnored"]
    (message,) = told
    assert message == (
        "promote=everything changes nothing: tidegate.dev/promote must be step, step@N or full, "
        "not 'everything'"
    )
    assert world.said() == {}
    world.run_to("Succeeded")


def test_two_words_at_once_are_heard_one_after_the_other() -> None:
    world = stepping()
    world.say("promote", "full")
    world.say("abort", "no")
    world.run_to("RolledBack", within=10)
    world.run(40)
    assert world.said() == {}
    told = [one.message for one in world.events if one.reason == "VerbIgnored"]
    assert told == ["promote=full changes nothing: it is decided already"]


def test_a_word_that_was_refused_is_not_acted_on_by_the_retry_that_follows() -> None:
    world = rolled_back()
    world.say("promote", "full")
    while "VerbIgnored" not in world.reasons():
        world.tick()
    world.say("retry", "x")
    world.run_to("Progressing")
    world.run(5)
    assert where(world) == ("Progressing", "Analysing")
    assert (world.status()["weight"], world.said()) == (20, {})


@pytest.mark.parametrize(
    ("last", "annotation"),
    [(None, "retry"), ("promote=full", "promote"), ("promote=step", "retry")],
)
def test_a_word_that_was_heard_comes_before_the_next(last: str | None, annotation: str) -> None:
    spoken = verbs.spoken(said(promote="full", retry="x"), last)
    assert spoken is not None
    assert spoken.annotation == f"tidegate.dev/{annotation}"
    spoken = verbs.spoken(said(promote="full", abort="x"), last)
    assert spoken is not None
    assert spoken.verb == Abort("x")
