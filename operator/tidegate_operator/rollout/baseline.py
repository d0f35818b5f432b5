"""The baseline: the split that holds when no rollout owns the model.

ModelVersions ask for shares; the table records what was granted, and what they asked for at that
moment. A promotion changes the record, not the specs: so the specs overrule the record only when
what they ask for has changed since.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidegate_contract.table import WHOLE, RoutingTable
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.rollout.experiment_state import decode as decode_test
from tidegate_operator.rollout.experiment_state import owns
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.state import Started, decode


@dataclass(frozen=True, slots=True)
class Baseline:
    """``shares``: version to basis points, empty where there is none yet. ``claims``: what the
    specs asked for when it was set, version to percent. ``problem``: why the specs' present
    claims are not granted.
    """

    shares: Mapping[int, int]
    claims: Mapping[int, int]
    problem: str | None = None

    @property
    def sole(self) -> int | None:
        """The version that has everything, if one has."""
        return next((v for v, weight in self.shares.items() if weight == WHOLE), None)

    @property
    def leading(self) -> int | None:
        """The version with the largest share."""
        return max(self.shares, key=lambda v: self.shares[v], default=None)

    def promoted(self, version: int) -> "Baseline":
        """Everything to one version; the claims stay those that were seen."""
        return Baseline({version: WHOLE}, self.claims)


def claims(versions: Iterable[ModelVersion]) -> dict[int, int]:
    """The shares that the specs ask for, in percent, of versions that ask for any.

    Deprecated versions keep what they ask for. Where none asks, a sole Active version without
    ``trafficPercent`` (else a sole Deprecated one) has everything.
    """
    specs = [one.spec for one in versions]
    asking = {
        spec.version: spec.traffic_percent
        for spec in specs
        if spec.lifecycle in {"Active", "Deprecated"} and spec.traffic_percent
    }
    active = [spec for spec in specs if spec.lifecycle == "Active"]
    sole = active or [spec for spec in specs if spec.lifecycle == "Deprecated"]
    if not asking and len(sole) == 1 and sole[0].traffic_percent is None:
        return {sole[0].version: 100}
    return asking


def resolve(seen: Observation) -> Baseline:
    """The baseline that holds now."""
    asked = claims(seen.by_version.values())
    recorded = _recorded(seen, asked)
    if recorded is not None and recorded.claims == asked:
        return recorded
    if sum(asked.values()) == 100:  # noqa: PLR2004 - percent
        return Baseline({version: percent * 100 for version, percent in asked.items()}, asked)
    listed = ", ".join(f"version {v}: {percent}%" for v, percent in sorted(asked.items()))
    problem = (
        f"trafficPercent of the Active versions of {seen.model} must add up to 100, not "
        f"{sum(asked.values())} ({listed or 'no Active version asks for any'}); until they do, the "
        "split stays as it is"
    )
    if recorded is None:
        return Baseline({}, {}, problem)
    return Baseline(recorded.shares, recorded.claims, problem)


def _recorded(seen: Observation, asked: Mapping[int, int]) -> Baseline | None:
    """The record, or where the table is lost, what the objects' statuses still say of it."""
    table: RoutingTable | None = seen.table or seen.last_table
    if table is not None:
        return Baseline({one.version: one.weight for one in table.baseline}, table.claims)
    for rollout in seen.rollouts:
        state = decode(rollout.status)
        if isinstance(state, Started):
            return Baseline({state.run.stable: WHOLE}, asked)
    for test in seen.tests:
        if owns(decode_test(test.status)):
            return Baseline({test.spec.control_version: WHOLE}, asked)
    live = {v: one.status.traffic_percent * 100 for v, one in seen.by_version.items()}
    if sum(live.values()) == WHOLE:
        return Baseline({v: weight for v, weight in live.items() if weight}, asked)
    return None
