"""What a person may say to a rollout or a test, and whether the operator has acted on it.

A verb is an annotation: the operator acts and remembers it as ``lastVerb`` in one write of the
status, and then takes the annotation away. So where it is remembered or gone, the status tells what
came of it. ``suspend`` is a field of the spec, acted on once the status observes its generation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tidegate_cli.cluster import ROLLOUT, Cluster, Raw
from tidegate_cli.errors import CommandError, TimedOutError
from tidegate_cli.lookup import refreshed
from tidegate_cli.objects import WELL_ENDED, Trial
from tidegate_contract.names import GROUP

PROMOTE: Final = f"{GROUP}/promote"
ABORT: Final = f"{GROUP}/abort"
RETRY: Final = f"{GROUP}/retry"

_STEPPING: Final = frozenset({"Progressing", "Holding", "WaitingPromotion"})
_POLL_SECONDS: Final = 0.25


class Pause:
    """The clock as waiting needs it."""

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.now = now
        self.sleep = sleep


@dataclass(frozen=True, slots=True)
class Verb:
    """A change to the object. ``name``: for messages; ``body``: the merge patch; ``annotation``:
    the key that the operator takes away when it has acted, None for a change of the spec.
    """

    name: str
    body: Raw
    annotation: str | None = None

    def acted_on(self, trial: Trial) -> bool:
        """Whether the status shows it."""
        if self.annotation is None:
            return trial.status.observed_generation >= trial.metadata.generation
        value = trial.metadata.annotations.get(self.annotation)
        return value is None or trial.status.last_verb == f"{self.name}={value}"


def promote(trial: Trial, *, full: bool) -> Verb:
    """To the next step, which names the present one so that it counts once; or to the end.

    Raises:
        CommandError: there is nothing to promote.
    """
    if trial.kind != ROLLOUT:
        raise CommandError(
            f"{trial.short} is a test: its statistics decide, and onFinish says who has the "
            "traffic afterwards. To give it to a version, apply a CanaryRollout"
        )
    _refuse_finished(trial, "promote")
    if trial.spec.suspend:
        raise CommandError(f"{trial.short} is suspended: resume it, then promote it")
    if full:
        return _annotated("promote", PROMOTE, "full")
    if trial.status.phase not in _STEPPING:
        phase = trial.status.phase or "not looked at by the operator yet"
        raise CommandError(
            f"{trial.short} is {phase} and has no step to leave: {trial.status.message or 'wait'}. "
            "--full skips all steps once the canary is loaded and compatible"
        )
    return _annotated("promote", PROMOTE, f"step@{trial.status.current_step}")


def abort(trial: Trial, reason: str) -> Verb:
    """Back to the split before it.

    Raises:
        CommandError: it is over.
    """
    _refuse_finished(trial, "abort")
    return _annotated("abort", ABORT, reason)


def retry(trial: Trial, at: float) -> Verb:
    """Once more from the beginning. ``at`` (epoch seconds) tells this retry from the last one.

    Raises:
        CommandError: it has not failed, or is a test.
    """
    if trial.kind != ROLLOUT:
        raise CommandError(f"{trial.short} is a test: apply another one, its users start afresh")
    if not trial.finished or trial.status.phase in WELL_ENDED:
        raise CommandError(
            f"{trial.short} is {trial.status.phase or 'new'}: only what was rolled back or failed "
            "is tried again"
        )
    return _annotated("retry", RETRY, f"{at:.3f}")


def suspend(trial: Trial, *, on: bool) -> Verb:
    """Hold where it is, or go on.

    Raises:
        CommandError: it is over, or is so already.
    """
    name = "suspend" if on else "resume"
    _refuse_finished(trial, name)
    if trial.spec.suspend == on:
        raise CommandError(f"{trial.short} is {'' if on else 'not '}suspended already")
    return Verb(name, {"spec": {"suspend": on}})


def say(cluster: Cluster, trial: Trial, verb: Verb, pause: Pause, patience: float) -> Trial:
    """Write the verb and wait until it was acted on; returns the object as it is then.

    ``patience``: seconds to wait; 0 does not wait.

    Raises:
        TimedOutError: the operator did not act; what was written stays.
        NotFoundError: the object was deleted meanwhile.
        ClusterError: the API server cannot be reached, or refuses.
    """
    meta = trial.metadata
    cluster.patch(trial.kind, meta.namespace, meta.name, verb.body)
    deadline = pause.now() + patience
    while patience:
        now = refreshed(cluster, trial)
        if verb.acted_on(now):
            return now
        if pause.now() > deadline:
            raise TimedOutError(_unheard(now, verb, patience))
        pause.sleep(_POLL_SECONDS)
    return trial


def outcome(before: Trial, after: Trial, verb: Verb) -> tuple[bool, str]:
    """Whether the verb changed anything, and a sentence about it."""
    old, new = before.status, after.status
    where = f"{old.phase} at {old.weight}%"
    now = f"{new.phase} at {new.weight}%"
    message = new.message or "see kubectl tidegate status"
    if verb.annotation is None:
        return True, f"{after.short}: {verb.name} acted on. {message}"
    if (old.phase, old.weight, old.current_step) == (new.phase, new.weight, new.current_step):
        return False, (
            f"{after.short}: the operator has taken note of {verb.name}, and it changed nothing: "
            f"still {now}. {message}. kubectl events --for {after.short} may say why"
        )
    return True, f"{after.short}: {verb.name} acted on, {where} → {now}. {message}"


def _annotated(name: str, key: str, value: str) -> Verb:
    return Verb(name, {"metadata": {"annotations": {key: value}}}, key)


def _refuse_finished(trial: Trial, name: str) -> None:
    if trial.finished:
        raise CommandError(
            f"{trial.short} is {trial.status.phase} already, nothing to {name}: "
            f"{trial.status.message}"
        )


def _unheard(trial: Trial, verb: Verb, patience: float) -> str:
    meta, status = trial.metadata, trial.status
    what, back = "spec.suspend", ""
    if verb.annotation:
        what = f"annotation {verb.annotation}"
        back = (
            f"; kubectl annotate {trial.short} -n {meta.namespace} {verb.annotation}- takes it back"
        )
    return (
        f"{trial.short}: the operator has not acted on {verb.name} within {patience:g}s. It is "
        f"{status.phase or 'not looked at yet'}: {status.message or 'is the operator running?'}. "
        f"What was written ({what}) stays and is acted on when it can be{back}"
    )
