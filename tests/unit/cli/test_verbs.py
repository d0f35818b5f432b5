"""What may be said when, and what is said of what came of it."""

from typing import Any

import pytest
from shelf import Clock, Shelf, abtest, rollout

from tidegate_cli import verbs
from tidegate_cli.cluster import ROLLOUT, Raw
from tidegate_cli.errors import CommandError, NotFoundError, TimedOutError
from tidegate_cli.lookup import find_trial
from tidegate_cli.objects import Trial, read


def trial(raw: Raw) -> Trial:
    return read(raw, Trial)


def annotations(verb: verbs.Verb) -> Any:
    return verb.body["metadata"]["annotations"]


@pytest.mark.parametrize("phase", ["Progressing", "Holding", "WaitingPromotion"])
def test_a_promotion_names_the_step_that_it_leaves(phase: str) -> None:
    verb = verbs.promote(trial(rollout(phase=phase, currentStep=3)), full=False)

    assert annotations(verb) == {"tidegate.dev/promote": "step@3"}


@pytest.mark.parametrize("phase", ["", "Pending", "Waiting", "Gating"])
def test_before_the_first_step_only_a_full_promotion_has_a_meaning(phase: str) -> None:
    early = trial(rollout(phase=phase))

    with pytest.raises(CommandError, match="no step to leave"):
        verbs.promote(early, full=False)
    assert annotations(verbs.promote(early, full=True)) == {"tidegate.dev/promote": "full"}


@pytest.mark.parametrize("phase", ["Succeeded", "RolledBack", "Failed"])
def test_what_is_over_is_neither_promoted_nor_aborted_nor_suspended(phase: str) -> None:
    over = trial(rollout(phase=phase))

    for refused in (
        lambda: verbs.promote(over, full=True),
        lambda: verbs.abort(over, "why"),
        lambda: verbs.suspend(over, on=True),
    ):
        with pytest.raises(CommandError, match=f"is {phase} already"):
            refused()


def test_what_is_suspended_is_resumed_before_it_is_promoted() -> None:
    raw = rollout(phase="Holding", currentStep=2)
    raw["spec"]["suspend"] = True

    with pytest.raises(CommandError, match="resume it"):
        verbs.promote(trial(raw), full=True)


def test_only_what_failed_is_tried_again() -> None:
    assert annotations(verbs.retry(trial(rollout(phase="RolledBack")), 12.5)) == {
        "tidegate.dev/retry": "12.500"
    }
    for phase in ("Succeeded", "Progressing", ""):
        with pytest.raises(CommandError, match="only what was rolled back or failed"):
            verbs.retry(trial(rollout(phase=phase)), 12.5)


def test_a_test_is_aborted_and_suspended_but_neither_promoted_nor_retried() -> None:
    running = trial(abtest(phase="Running"))

    assert annotations(verbs.abort(running, "why")) == {"tidegate.dev/abort": "why"}
    assert verbs.suspend(running, on=True).body == {"spec": {"suspend": True}}
    with pytest.raises(CommandError, match="its statistics decide"):
        verbs.promote(running, full=False)
    with pytest.raises(CommandError, match="apply another one"):
        verbs.retry(trial(abtest(phase="Failed")), 0.0)


def test_suspending_twice_is_refused() -> None:
    raw = rollout(phase="Progressing")
    raw["spec"]["suspend"] = True

    with pytest.raises(CommandError, match="suspended already"):
        verbs.suspend(trial(raw), on=True)


def test_a_verb_is_waited_for_until_its_annotation_is_gone(shelf: Shelf, clock: Clock) -> None:
    before = find_trial(shelf, "default", "digits-2")
    verb = verbs.abort(before, "why")

    def operator_acts_on_another() -> None:
        raw = shelf.get(ROLLOUT, "default", "digits-2")
        raw["status"] |= {"phase": "RollingBack", "weight": 0, "lastVerb": "promote=why"}
        shelf.put(raw)

    def operator_takes_the_annotation() -> None:
        raw = shelf.get(ROLLOUT, "default", "digits-2")
        del raw["metadata"]["annotations"]["tidegate.dev/abort"]
        shelf.put(raw)

    clock.then = [operator_acts_on_another, operator_takes_the_annotation]
    after = verbs.say(shelf, before, verb, clock, 30.0)

    assert after.status.phase == "RollingBack"
    assert clock.then == []


def test_a_verb_that_is_remembered_was_acted_on(shelf: Shelf, clock: Clock) -> None:
    before = find_trial(shelf, "default", "digits-2")

    def operator() -> None:
        raw = shelf.get(ROLLOUT, "default", "digits-2")
        raw["status"] |= {"phase": "RollingBack", "lastVerb": "abort=why"}
        shelf.put(raw)

    clock.then = [operator]
    after = verbs.say(shelf, before, verbs.abort(before, "why"), clock, 30.0)

    assert after.status.phase == "RollingBack"


def test_nobody_is_waited_for_forever(shelf: Shelf, clock: Clock) -> None:
    before = find_trial(shelf, "default", "digits-2")

    with pytest.raises(
        TimedOutError, match=r"not acted on abort within 30s. It is Progressing: At 20%.*dev/abort-"
    ):
        verbs.say(shelf, before, verbs.abort(before, "why"), clock, 30.0)
    assert "tidegate.dev/abort" in find_trial(shelf, "default", "digits-2").metadata.annotations


def test_nobody_is_waited_for_where_that_is_asked(shelf: Shelf, clock: Clock) -> None:
    before = find_trial(shelf, "default", "digits-2")
    verbs.say(shelf, before, verbs.abort(before, "why"), clock, 0.0)

    assert clock.at == 1_000.0


def test_a_suspension_is_waited_for_until_its_generation_is_observed(
    shelf: Shelf, clock: Clock
) -> None:
    before = find_trial(shelf, "default", "digits-2")

    def operator() -> None:
        raw = shelf.get(ROLLOUT, "default", "digits-2")
        raw["status"] |= {"phase": "Holding", "observedGeneration": raw["metadata"]["generation"]}
        shelf.put(raw)

    clock.then = [lambda: None, operator]
    after = verbs.say(shelf, before, verbs.suspend(before, on=True), clock, 30.0)

    assert (after.status.phase, after.spec.suspend) == ("Holding", True)


def test_what_is_deleted_meanwhile_is_said(shelf: Shelf, clock: Clock) -> None:
    before = find_trial(shelf, "default", "digits-2")
    clock.then = [shelf.objects.clear]

    with pytest.raises(NotFoundError):
        verbs.say(shelf, before, verbs.abort(before, "why"), clock, 30.0)


def test_the_outcome_is_what_changed() -> None:
    before = trial(rollout(phase="Progressing", weight=20, currentStep=2))
    after = trial(rollout(phase="Progressing", weight=50, currentStep=3, message="At 50%"))
    verb = verbs.promote(before, full=False)

    assert verbs.outcome(before, after, verb) == (
        True,
        "cro/digits-2: promote acted on, Progressing at 20% → Progressing at 50%. At 50%",
    )
    changed, sentence = verbs.outcome(before, before, verb)
    assert not changed
    assert "changed nothing: still Progressing at 20%" in sentence
