"""The routing table of any state: always valid, never a weight for a latched rollout."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate_contract import table as contract
from tidegate_contract.acknowledgement import Acknowledgement, VersionState
from tidegate_contract.table import Latch, LoadedVersion, RoutingTable, Share
from tidegate_operator.api import canaryrollout
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint
from tidegate_operator.api.meta import Metadata
from tidegate_operator.api.modelversion import ModelVersion, Spec
from tidegate_operator.rollout import steps
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.compiler import compile_table
from tidegate_operator.rollout.contribution import Contribution, of_rollout
from tidegate_operator.rollout.observation import Observation, Pod, StoredTable
from tidegate_operator.rollout.state import (
    Finished,
    Gating,
    Pending,
    Promoting,
    RollingBack,
    Run,
    State,
    Stepping,
    Waiting,
)

VERSIONS = st.integers(1, 4)
UIDS = ("rollout", "other")


@dataclass(frozen=True)
class Decided:
    rollout: CanaryRollout
    state: State

    @property
    def part(self) -> Contribution:
        return of_rollout(self.rollout, self.state)


def part(owner: Decided | None) -> Contribution | None:
    return owner.part if owner else None


def rollout(canary: int) -> CanaryRollout:
    return CanaryRollout(
        metadata=Metadata(name="r", namespace="default", uid="rollout"),
        spec=canaryrollout.Spec(
            model="digits",
            canary_version=canary,
            mirror_percent=10,
            assignment=canaryrollout.Assignment(header="x-user-id"),
        ),
    )


def declared(version: int, lifecycle: Any) -> ModelVersion:
    return ModelVersion(
        metadata=Metadata(name=f"digits-{version}", namespace="default", uid=f"v{version}"),
        spec=Spec(model="digits", version=version, lifecycle=lifecycle),
    )


@st.composite
def shares(draw: st.DrawFn) -> dict[int, int]:
    versions = draw(st.lists(VERSIONS, min_size=1, max_size=3, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2)))
    percents = [cuts[0], cuts[1] - cuts[0], 100 - cuts[1]][: len(versions)]
    percents[-1] += 100 - sum(percents)
    return {v: percent * 100 for v, percent in zip(versions, percents, strict=True)}


@st.composite
def states(draw: st.DrawFn) -> State:
    told: Any = {"reason": "R", "message": "m"}
    plan = tuple(steps.resolve(rollout(2).spec))
    step = draw(st.integers(0, len(plan) - 2))
    run = Run(stable=draw(VERSIONS), plan=plan, evidence=Checkpoint(gating_since=0, step=step))
    found: list[State] = [
        Pending(**told),
        Waiting(**told),
        Gating(run=run, **told),
        Stepping(run=run, **told),
        Stepping(run=run, hold="NoData", **told),
        Promoting(run=run, **told),
        RollingBack(run=run, **told),
        Finished(phase="Succeeded", run=run, **told),
        Finished(phase="RolledBack", run=run, **told),
    ]
    return draw(st.sampled_from(found))


@st.composite
def tables(draw: st.DrawFn) -> RoutingTable | None:
    if draw(st.booleans()):
        return None
    revision = draw(st.integers(1, 9))
    return RoutingTable(
        namespace="default",
        model="digits",
        revision=revision,
        split_revision=draw(st.integers(1, revision)),
        latch=draw(st.none() | st.sampled_from([Latch(uid=u, reason="r") for u in UIDS])),
        split=[contract.Arm(name="stable", version=1, weight=10_000)],
        versions=[LoadedVersion(version=1)],
        baseline=[Share(version=1, weight=10_000)],
    )


@st.composite
def pods(draw: st.DrawFn) -> tuple[Pod, ...]:
    return tuple(
        Pod(
            name=f"p{i}",
            uid=f"u{i}",
            ready=draw(st.booleans()),
            terminating=draw(st.booleans()),
            ack=draw(
                st.none()
                | st.builds(Acknowledgement, table_uid=st.just("t"), revision=st.integers(0, 12))
            ),
        )
        for i in range(draw(st.integers(0, 4)))
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Observation, Baseline, Decided | None]:
    table, last = draw(tables()), draw(tables())
    problem = draw(st.sampled_from([None, "edited"]))
    seen = Observation(
        now=0,
        namespace="default",
        model="digits",
        versions=tuple(
            declared(v, draw(st.sampled_from(["Testing", "Active", "Inactive", "Deprecated"])))
            for v in draw(st.sets(VERSIONS))
        ),
        stored=draw(
            st.sampled_from(
                [None, StoredTable(uid="t", resource_version="1", table=table, problem=problem)]
            )
        ),
        last_table=last,
        pods=draw(pods()),
    )
    owner = draw(st.none() | st.builds(Decided, VERSIONS.map(rollout), states()))
    return seen, Baseline(draw(shares()), {}), owner


@given(scenes())
def test_every_table_keeps_the_contract(scene: tuple[Observation, Baseline, Any]) -> None:
    seen, baseline, owner = scene
    table = compile_table(seen, baseline, part(owner), None)
    before = seen.table or seen.last_table
    if table is None:
        assert seen.table is not None
        return
    contract.check(table)
    assert contract.decode(*contract.encode(table)) == table
    highest = max([pod.ack.revision for pod in seen.pods if pod.ack], default=0)
    assert table.revision > max(highest, before.revision if before else 0)
    assert table.split_revision <= table.revision
    if seen.stored and before and table.split == before.split:
        assert (table.split_revision == before.split_revision) == (
            table.assignment == before.assignment
        )
    else:
        assert table.split_revision == table.revision


@given(scenes())
def test_a_latched_rollout_has_no_weight(scene: tuple[Observation, Baseline, Any]) -> None:
    seen, baseline, owner = scene
    before = seen.table or seen.last_table
    table = compile_table(seen, baseline, part(owner), None) or seen.table
    assert table is not None
    latched = table.latch is not None and table.latch.uid == "rollout"
    if latched:
        assert "canary" not in {arm.name for arm in table.split}
        assert (table.mirror, table.assignment) == (None, None)
    ours = before is not None and before.latch is not None and before.latch.uid == "rollout"
    if owner and ours:
        begins_anew = isinstance(owner.state, Gating)
        assert latched != begins_anew, "a latch stays until a retry, or another takes over"
    if owner and isinstance(owner.state, RollingBack):
        assert latched


@given(scenes())
def test_the_table_that_is_in_force_is_not_written_again(
    scene: tuple[Observation, Baseline, Any],
) -> None:
    seen, baseline, owner = scene
    table = compile_table(seen, baseline, part(owner), None)
    if table is None or isinstance(owner and owner.state, RollingBack):
        return
    stored = StoredTable(uid="t", resource_version="2", table=table)
    again = Observation(
        now=1,
        namespace="default",
        model="digits",
        versions=seen.versions,
        stored=stored,
        last_table=table,
        pods=seen.pods,
    )
    assert compile_table(again, baseline, part(owner), None) is None


@given(scenes())
def test_promotion_moves_everything_and_is_the_new_baseline(
    scene: tuple[Observation, Baseline, Any],
) -> None:
    seen, baseline, owner = scene
    if owner is None or not isinstance(owner.state, Promoting):
        return
    table = compile_table(seen, baseline, part(owner), None)
    assert table is not None
    canary = owner.rollout.spec.canary_version
    assert [(one.version, one.weight) for one in table.baseline] == [(canary, 10_000)]
    assert [(arm.name, arm.version) for arm in table.split] == [("stable", canary)]


# Loading in turns.


def fleet(size: int, **states_of: VersionState) -> tuple[Pod, ...]:
    return tuple(
        Pod(
            name=f"u{i}",
            uid=f"u{i}",
            ready=True,
            ack=Acknowledgement(versions={2: states_of[f"u{i}"]} if f"u{i}" in states_of else {}),
        )
        for i in range(size)
    )


def turns(pods: tuple[Pod, ...], before: list[str] | None = None) -> list[str] | None:
    """The pods that version 2 may be loaded in."""
    plain = contract.RoutingTable(
        namespace="default",
        model="digits",
        revision=1,
        split_revision=1,
        split=[contract.Arm(name="stable", version=1, weight=10_000)],
        versions=[LoadedVersion(version=1), LoadedVersion(version=2, pods=before or [])],
        baseline=[Share(version=1, weight=10_000)],
    )
    seen = Observation(
        now=0,
        namespace="default",
        model="digits",
        versions=(declared(1, "Active"), declared(2, "Testing")),
        stored=StoredTable(uid="t", resource_version="1", table=plain),
        pods=pods,
    )
    table = compile_table(seen, Baseline({1: 10_000}, {}), None, None) or plain
    (row,) = [row for row in table.versions if row.version == 2]
    return row.pods


READY, LOADING = VersionState(state="Ready"), VersionState(state="Loading")
FAILED = VersionState(state="Failed", error="no")


def test_a_quarter_of_the_pods_loads_at_once() -> None:
    assert turns(fleet(1)) == ["u0"]
    assert turns(fleet(7)) == ["u0"]
    assert turns(fleet(8)) == ["u0", "u1"]


def test_the_next_ones_follow_when_these_have_it() -> None:
    assert turns(fleet(8, u0=READY, u1=LOADING), ["u0", "u1"]) == ["u0", "u1", "u2"]
    assert turns(fleet(2, u0=READY), ["u0"]) == ["u0", "u1"]


def test_everywhere_once_all_have_it() -> None:
    assert turns(fleet(2, u0=READY, u1=READY), ["u0", "u1"]) is None


def test_no_further_once_it_failed_in_one() -> None:
    assert turns(fleet(8, u0=READY, u1=FAILED), ["u0", "u1"]) == ["u0", "u1"]


def test_a_pod_that_loading_broke_keeps_its_turn() -> None:
    down = Pod(name="u0", uid="u0", ready=False)
    assert turns((down, *fleet(4)[1:]), ["u0"]) == ["u0"]


def test_a_pod_that_left_gives_its_turn_back() -> None:
    assert turns(fleet(4)[1:], ["u0"]) == ["u1"]
    leaving = Pod(name="u0", uid="u0", ready=True, terminating=True)
    assert turns((leaving, *fleet(4)[1:]), ["u0"]) == ["u1"]


@given(
    st.lists(st.sampled_from([None, READY, LOADING, FAILED]), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_never_more_than_a_quarter_loads(
    found: list[VersionState | None], before: set[int]
) -> None:
    known = {f"u{i}": one for i, one in enumerate(found) if one}
    turn = turns(fleet(len(found), **known), [f"u{i}" for i in sorted(before)])
    have = {uid for uid, one in known.items() if one.state == "Ready"}
    limit = max(1, len(found) // 4, len(before))
    if turn is None:
        assert len(have) == len(found)
    else:
        assert have <= set(turn)
        assert len(set(turn) - have) <= limit
