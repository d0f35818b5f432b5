"""Versions that nobody needs any more after a rollout: unloaded after its ``unloadDelay``.

A promotion leaves the old version behind, a rollback the canary. Either stays loaded while it has a
share, while an unfinished rollout or test names it, while requests name it themselves, or once
somebody edits its lifecycle. What made Triton restart is unloaded at once. What is unloaded stays
so by its own status: the rollout may be deleted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate_operator.api import abtest
from tidegate_operator.api.canaryrollout import FINISHED, CanaryRollout
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.api.quantity import epoch, seconds
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.observation import Observation

_ASKED_AHEAD = 30.0


@dataclass(frozen=True, slots=True)
class Idle:
    """What nobody needs. ``unloaded``: by version, the sentence that says why; ``named``: of those
    whose time has come, too, but that requests name: by version, the rollout that left it behind.
    """

    unloaded: Mapping[int, str] = field(default_factory=dict)
    named: Mapping[int, CanaryRollout] = field(default_factory=dict)


def idle(seen: Observation, baseline: Baseline) -> Idle:
    """The versions that nobody needs now."""
    unloaded, named = asleep(seen, baseline), {}
    for version, left_by in _left_behind(seen, baseline).items():
        if left_by.status.reason != "TritonRestarts":
            if _since(left_by) + _delay(left_by) > seen.now:
                continue
            if _loaded(seen, version) and _named_lately(seen, version, _delay(left_by)):
                named[version] = left_by
                continue
        unloaded[version] = (
            f"Version {version} is unloaded, {left_by.spec.unload_delay} after "
            f"{left_by.metadata.name}; a rollout loads it again"
        )
    return Idle(unloaded, named)


def asleep(seen: Observation, baseline: Baseline) -> dict[int, str]:
    """The versions that are unloaded, and that nothing wakes; whoever left them behind."""
    wanted = _wanted(seen, baseline)
    return {
        version: f"Version {version} is unloaded; a rollout, or another lifecycle, loads it again"
        for version, one in seen.by_version.items()
        if _sleeps(one) and version not in wanted
    }


def about_to_be(seen: Observation, baseline: Baseline) -> bool:
    """Whether a version's time is about to come: pods are then asked who still names it."""
    return any(
        _loaded(seen, version) and _since(one) + _delay(one) - _ASKED_AHEAD <= seen.now
        for version, one in _left_behind(seen, baseline).items()
    )


def named_at(seen: Observation, version: int) -> float:
    """When a request last named a version itself (epoch seconds; 0: never)."""
    found = [pod.ack.direct_at.get(version, 0.0) for pod in seen.pods if pod.ack]
    return max(found, default=0.0)


def _named_lately(seen: Observation, version: int, delay: float) -> bool:
    return seen.now - named_at(seen, version) < delay


def _loaded(seen: Observation, version: int) -> bool:
    """Whether pods are to have it now: what is unloaded is not loaded again for being named."""
    return seen.table is not None and version in {row.version for row in seen.table.versions}


def _sleeps(one: ModelVersion) -> bool:
    """Whether it was unloaded, and nobody has edited its lifecycle since."""
    lifecycle = one.spec.lifecycle
    return (
        one.status.phase == "Unloaded"
        and one.status.lifecycle == lifecycle
        and lifecycle != "Inactive"
    )


def _wanted(seen: Observation, baseline: Baseline) -> set[int]:
    """The versions with a share, and those that an unfinished rollout or test names."""
    wanted = set(baseline.shares)
    for rollout in seen.rollouts:
        if rollout.status.phase not in FINISHED:
            wanted |= {rollout.spec.canary_version, rollout.spec.stable_version or 0}
            wanted.add(rollout.status.stable_version or 0)
    for test in seen.tests:
        if test.status.phase not in abtest.FINISHED:
            wanted |= {test.spec.control_version, test.spec.treatment_version}
    return wanted


def _left_behind(seen: Observation, baseline: Baseline) -> dict[int, CanaryRollout]:
    wanted = _wanted(seen, baseline)
    found: dict[int, CanaryRollout] = {}
    for rollout in sorted(seen.rollouts, key=_since):
        finish = rollout.status.finished
        if finish is None or finish.idle is None or finish.idle in wanted:
            continue
        version = seen.by_version.get(finish.idle)
        if version is not None and version.spec.lifecycle == finish.lifecycle:
            found[finish.idle] = rollout
        else:
            found.pop(finish.idle, None)
    return found


def _since(rollout: CanaryRollout) -> float:
    return epoch(rollout.status.finished.time) if rollout.status.finished else 0.0


def _delay(rollout: CanaryRollout) -> float:
    return seconds(rollout.spec.unload_delay)
