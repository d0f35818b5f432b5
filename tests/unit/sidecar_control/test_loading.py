"""What is loaded next, by the table, Triton's versions and what failed before."""

from collections.abc import Callable

import pytest

from tidegate_contract.acknowledgement import Tensor, VersionState
from tidegate_contract.table import RoutingTable
from tidegate_sidecar.core.loading import LAST_RETRY, Load, Loading, Unload
from tidegate_sidecar.core.version import VersionInfo

Tables = Callable[..., RoutingTable]
X = Tensor(name="X", datatype="FP32", shape=[2])


class Pod:
    """A pod whose Triton does at once what it is told, but for the versions that are broken."""

    def __init__(self, table: RoutingTable, uid: str = "here") -> None:
        self.loading = Loading(uid)
        self.table = table
        self.serving: set[int] = set()
        self.present: set[int] = set()
        self.busy: set[int] = set()
        self.broken: set[int] = set()
        self.now = 100.0
        self.memory_short: str | None = None

    def next(self) -> Load | Unload | None:
        return self.loading.next(
            self.table,
            serving=self.serving,
            present=self.present,
            in_use=self.busy.__contains__,
            memory_short=self.memory_short,
            now=self.now,
        )

    def settle(self) -> list[Load | Unload]:
        """Act until there is nothing more to do; what was done."""
        done: list[Load | Unload] = []
        while action := self.next():
            done.append(action)
            self._do(action)
            assert len(done) < 50, done
        return done

    def _do(self, action: Load | Unload) -> None:
        if isinstance(action, Unload):
            self.serving.discard(action.version)
            self.present.discard(action.version)
            return
        failed = self.broken.intersection(action.versions)
        for version in action.versions:
            if version in failed:
                self.loading.failed(self.table, version, "broken", self.now)
            elif not failed:
                self.loading.succeeded(version)
                self.serving.add(version)
                self.present.add(version)

    def states(self) -> dict[int, VersionState]:
        infos = {version: _info(version) for version in self.serving}
        return self.loading.states(
            self.table, serving=infos, present=self.present, memory_short=self.memory_short
        )


def _info(version: int) -> VersionInfo:
    return VersionInfo(
        version=version, max_batch_size=8, batchable=True, instances=1, inputs=(X,), outputs=(X,)
    )


def test_the_baseline_comes_first_and_in_one_call(table: Tables) -> None:
    pod = Pod(table(baseline={2: 4_000, 1: 6_000}, others={3: None, 4: None}))
    assert pod.settle() == [Load((2, 1)), Load((3,)), Load((4,))]
    assert pod.settle() == []


def test_a_share_of_nothing_is_not_the_baseline(table: Tables) -> None:
    pod = Pod(table(baseline={1: 10_000, 2: 0}))
    assert pod.settle() == [Load((1,)), Load((2,))]


def test_what_the_table_does_not_name_goes_once_nothing_waits_for_it(table: Tables) -> None:
    pod = Pod(table(baseline={2: 10_000}))
    pod.serving, pod.present, pod.busy = {1}, {1, 7}, {1}
    # 7 came by another hand than ours; nothing was ever routed to it.
    assert pod.settle() == [Load((2,)), Unload(7)]
    pod.busy.clear()
    assert pod.settle() == [Unload(1)]


def test_room_is_made_before_a_canary_is_loaded(table: Tables) -> None:
    pod = Pod(table(others={3: None}))
    pod.serving = pod.present = {1, 2}
    assert pod.settle() == [Unload(2), Load((3,))]


def test_nothing_is_loaded_beside_what_serves_while_memory_is_short(table: Tables) -> None:
    pod = Pod(table(others={2: None, 3: ["elsewhere"]}))
    pod.memory_short = "GPU memory is 95% used"
    assert pod.states()[1] == VersionState(state="Loading")
    assert pod.settle() == [Load((1,))]  # nothing that serves could be hurt
    reason = "it waits for memory: GPU memory is 95% used"
    assert pod.states()[2] == VersionState(state="Loading", error=reason)
    assert 3 not in pod.states()
    pod.memory_short = None
    assert pod.states()[2] == VersionState(state="Loading")
    assert pod.settle() == [Load((2,))]


def test_short_memory_keeps_nothing_from_being_unloaded_or_routed_to(table: Tables) -> None:
    pod = Pod(table(others={2: None}))
    pod.memory_short = "GPU memory is 95% used"
    pod.serving, pod.present = {1, 7}, {1, 2, 7}  # Triton has 2 already: it is only to be warmed
    assert pod.settle() == [Unload(7), Load((2,))]


def test_a_pod_waits_for_its_turn(table: Tables) -> None:
    pod = Pod(table(others={2: ["elsewhere"]}))
    assert pod.settle() == [Load((1,))]
    assert pod.states().keys() == {1}
    pod.table = table(2, others={2: ["elsewhere", "here"]})
    assert pod.states()[2].state == "Loading"
    assert pod.settle() == [Load((2,))]


@pytest.mark.parametrize("routed", [True, False])
def test_a_version_that_is_there_stays_though_the_turn_is_another_pods(
    table: Tables, routed: bool
) -> None:
    pod = Pod(table(others={2: ["elsewhere"]}))
    pod.present = {1, 2}
    pod.serving = {1, 2} if routed else {1}
    assert pod.settle() == ([] if routed else [Load((2,))])


def test_one_bad_version_of_the_baseline_does_not_keep_the_others_away(table: Tables) -> None:
    pod = Pod(table(baseline={1: 5_000, 2: 5_000}))
    pod.broken = {2}
    assert pod.settle() == [Load((1, 2)), Load((1,))]
    assert pod.states()[2] == VersionState(state="Failed", error="broken")
    assert pod.states()[1] == VersionState(state="Ready", inputs=[X], outputs=[X])


def test_a_failed_version_is_tried_again_ever_more_rarely(table: Tables) -> None:
    pod = Pod(table(others={2: None}))
    pod.broken = {2}
    pod.settle()
    waits = []
    for _ in range(9):
        start = pod.now
        while pod.next() is None:
            pod.now += 0.5
        waits.append(pod.now - start)
        assert pod.settle() == [Load((2,))]
    assert waits == [2, 4, 8, 16, 32, 64, LAST_RETRY, LAST_RETRY, LAST_RETRY]
    pod.broken.clear()
    pod.now += LAST_RETRY
    pod.settle()
    assert pod.states()[2].state == "Ready"


def test_a_changed_row_is_tried_at_once_and_a_changed_table_is_not(table: Tables) -> None:
    pod = Pod(table(others={2: ["here"]}))
    pod.broken = {2}
    pod.settle()
    pod.table = table(2, others={2: ["here"], 3: ["elsewhere"]})
    assert pod.settle() == []
    pod.table = table(3, others={2: ["here", "elsewhere"]})
    assert pod.settle() == [Load((2,))]


def test_a_version_that_is_named_again_starts_without_its_past(table: Tables) -> None:
    pod = Pod(table(others={2: None}))
    pod.broken = {2}
    pod.settle()
    pod.table = table(2)
    pod.settle()
    pod.table, pod.broken = table(3, others={2: None}), set()
    assert pod.settle() == [Load((2,))]


def test_a_failure_under_an_older_row_does_not_count_against_the_new_one(table: Tables) -> None:
    pod = Pod(table(others={2: ["here", "elsewhere"]}))
    pod.serving = pod.present = {1}
    pod.loading.failed(table(others={2: ["here"]}), 2, "broken", pod.now)
    assert pod.settle() == [Load((2,))]


@pytest.mark.parametrize(("version", "comes_back"), [(1, True), (2, False)])
def test_what_takes_triton_down_twice_waits_for_the_operator(
    table: Tables, version: int, comes_back: bool
) -> None:
    pod = Pod(table(others={2: None}))
    pod.serving = pod.present = {1, 2} - {version}
    for _ in range(2):
        assert pod.next() == Load((version,))
        pod.loading.failed(pod.table, version, "Triton went away", pod.now, crashed=True)
        pod.now += LAST_RETRY
    pod.now += 1e9
    assert (pod.next() == Load((version,))) is comes_back
    pod.table = table(2, others={2: ["here"]}, pods={1: ["here"]})
    assert pod.next() == Load((version,))


def test_one_crash_alone_may_be_somebody_elses_fault(table: Tables) -> None:
    pod = Pod(table(others={2: None}))
    pod.serving = pod.present = {1}
    pod.loading.failed(pod.table, 2, "Triton went away", pod.now, crashed=True)
    pod.now += 2
    assert pod.next() == Load((2,))


def test_a_version_that_is_still_served_is_still_reported(table: Tables) -> None:
    pod = Pod(table())
    pod.serving, pod.present, pod.busy = {1, 9}, {1, 9}, {9}
    assert pod.settle() == []
    assert pod.states().keys() == {1, 9}
