"""BatchPolicies: the oldest holds, the table has what it sets, its status says where it is live and
how its models batch.
"""

from typing import Any
from unittest import mock

import pytest
from simulation import Simulation, two_versions

from tidegate_contract.acknowledgement import BatchLive
from tidegate_operator.api.batchpolicy import Live, Spec, Status
from tidegate_operator.api.meta import Condition
from tidegate_operator.rollout import policies

BUSY = BatchLive(
    strategy="Adaptive",
    batch_size=12.0,
    fixed_seconds=0.004,
    seconds_per_row=0.0002,
    queue_length=20,
    dropped=3,
    p99=0.03,
)


def test_it_is_in_the_table_and_applied_once() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=16, maxWait="5ms")
    world.run(5)
    batch = world.table.batch
    assert (batch.max_batch_size, batch.max_wait, batch.queue_max_size) == (16, 0.005, 1000)
    status = world.status("p", "BatchPolicy")
    assert (status["phase"], status["appliedPods"], status["totalPods"]) == ("Applied", 2, 2)
    assert status["revision"] == world.table.revision
    assert status["display"] == {
        "models": "digits",
        "strategy": "Adaptive",
        "batch": "-/16",
        "applied": "2/2",
        "p99": "-",
    }
    assert world.reasons("p") == ["PolicyApplied"]


def test_later_tables_carry_it_along_without_a_word() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=16)
    world.run(5)
    world.rollout(initialPercent=50, stepPercent=25)
    world.run_to("Succeeded")
    assert {table.batch.max_batch_size for table in world.tables if table.owner} == {16}
    assert world.reasons("p") == ["PolicyApplied"]
    assert not [w for w in world.writes if "BatchPolicy p" in w and "Applied" not in w][2:]


def test_an_edit_is_applied_without_stopping_a_steps_clock() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=16)
    world.rollout(initialPercent=50, stepPercent=25)
    world.run_to("Progressing")
    world.run(20)
    split = world.table.split_revision
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=4)
    world.run(5)
    assert world.table.batch.max_batch_size == 4
    assert (world.table.split_revision, world.table.revision > split) == (split, True)
    assert world.reasons("p") == ["PolicyApplied"] * 2
    status = world.run_to("Succeeded")
    assert "Holding" not in {entry["to"] for entry in status["history"]}


def test_the_younger_waits_and_follows() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "old", models=["digits"], maxBatchSize=16)
    world.run(2)
    world.apply("BatchPolicy", "young", models=["digits"], maxBatchSize=4)
    world.run(5)
    assert world.table.batch.max_batch_size == 16
    assert world.status("young", "BatchPolicy")["phase"] == "Waiting"
    assert world.condition("BatchPolicy", "young", "WaitingForOwner")["status"] == "True"
    assert "digits by old" in world.status("young", "BatchPolicy")["message"]
    assert world.reasons("young") == ["WaitingForOwner"]
    world.delete("BatchPolicy", "old")
    world.run(5)
    assert world.table.batch.max_batch_size == 4
    assert world.status("young", "BatchPolicy")["phase"] == "Applied"


def test_a_model_that_nobody_serves() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["unheard-of"])
    world.run(40)
    status = world.status("p", "BatchPolicy")
    assert (status["phase"], status["observedGeneration"]) == ("Pending", 1)
    assert status["message"] == "No ModelVersion of unheard-of is served yet"


def test_a_model_that_leaves_the_policy_loses_its_settings_at_once() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=16)
    world.run(5)
    world.apply("BatchPolicy", "p", models=["another"], maxBatchSize=16)
    world.run(2)
    assert world.table.batch.max_batch_size is None


def test_a_restart_tells_nothing_anew() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["digits", "unheard-of"], maxBatchSize=16)
    world.apply("BatchPolicy", "q", models=["digits"])
    world.run(40)
    writes, told = len(world.writes), list(world.events)
    world.kill()
    world.run(40)
    assert world.writes[writes:] == []
    assert world.events == told


def policed(live: BatchLive, **spec: Any) -> Simulation:
    """A world whose pods batch like that, 20 s after a policy was applied."""
    world = two_versions(batching={"": live})
    world.apply("BatchPolicy", "p", models=["digits"], **spec)
    return world.run(20)


def change(live: BatchLive, **fields: Any) -> BatchLive:
    return BatchLive(**{field: getattr(live, field) for field in live.__struct_fields__} | fields)


def said(world: Simulation, type_: str) -> tuple[str, str]:
    condition = world.condition("BatchPolicy", "p", type_)
    return condition["status"], condition["reason"]


def status_writes(world: Simulation) -> int:
    return sum("BatchPolicy p" in what for what in world.writes)


def test_how_its_models_batch() -> None:
    world = policed(BUSY, maxBatchSize=32, targetLatency="50ms")
    world.batching["triton-1"] = change(BUSY, batch_size=24.0, p99=0.0451, fixed_seconds=0.006)
    status = world.run(15).status("p", "BatchPolicy")
    assert status["live"] == [
        {
            "model": "digits",
            "strategy": "Adaptive",
            "batchSize": 18.0,
            "cost": "5ms + 0.2ms*n",
            "fixedSeconds": 0.005,
            "secondsPerRow": 0.0002,
            "queueLength": 40,
            "dropped": 6,
            "p99": 0.0451,
            "notes": [],
        }
    ]
    assert (status["display"]["batch"], status["display"]["p99"]) == ("18/32", "45.1ms")
    assert (said(world, "Ready"), said(world, "TargetMet")) == (
        ("True", "Applied"),
        ("True", "WithinTarget"),
    )
    assert said(world, "StrategyInstalled") == ("True", "Installed")


def test_pods_that_lag_behind_its_table_do_not_tell() -> None:
    world = policed(change(BUSY, strategy="Fixed"), strategy="Fixed")
    assert said(world, "StrategyInstalled") == ("True", "Installed")
    with mock.patch.object(world, "_pods_follow"):
        world.apply("BatchPolicy", "p", models=["digits"])
        world.run(20)
    assert said(world, "StrategyInstalled") == ("Unknown", "NotTold")
    world.run(20)
    assert said(world, "StrategyInstalled") == ("False", "NotInstalled")


def test_figures_go_with_the_last_pod() -> None:
    world = policed(BUSY)
    world.by_name["triton-0"].silent = world.by_name["triton-1"].silent = True
    world.run(20)
    assert world.status("p", "BatchPolicy")["live"][0]["p99"] == 0.03
    for name in list(world.by_name):
        world.remove_pod(name)
    world.run(40)
    assert world.status("p", "BatchPolicy")["live"] == []


def test_figures_that_hardly_move_are_not_written() -> None:
    world = policed(BUSY)
    writes = status_writes(world)
    for number in range(20):
        world.batching[""] = change(BUSY, p99=0.03 + 0.0002 * number, queue_length=20 + number % 4)
        world.run(15)
    assert status_writes(world) == writes
    world.batching[""] = change(BUSY, p99=0.05)
    world.run(15)
    assert status_writes(world) == writes + 1
    assert world.status("p", "BatchPolicy")["display"]["p99"] == "50ms"


def test_a_look_does_not_take_live_figures_away() -> None:
    world = policed(BUSY)
    world.rollout(initialPercent=50, stepPercent=25)
    world.run_to("Succeeded")
    assert world.status("p", "BatchPolicy")["live"][0]["p99"] == 0.03
    assert world.reasons("p") == ["PolicyApplied"]


def test_a_strategy_that_is_not_installed_is_told_until_it_is() -> None:
    why = "strategy learned is not installed here"
    world = policed(change(BUSY, notes=[why]), strategy="learned")
    status = world.status("p", "BatchPolicy")
    assert (status["phase"], status["display"]["strategy"]) == ("Degraded", "Adaptive")
    assert (said(world, "Ready")[0], said(world, "Stalled")[0]) == ("False", "True")
    assert said(world, "StrategyInstalled") == ("False", "NotInstalled")
    message = f"Adaptive runs for digits in place of learned; {why}"
    assert status["message"] == f"All pods apply it; {message}"
    assert [one.message for one in world.events if one.reason == "InvalidSpec"] == [message]
    world.batching[""] = change(BUSY, strategy="learned")
    world.run(15)
    assert world.status("p", "BatchPolicy")["phase"] == "Applied"
    assert (said(world, "Ready")[0], said(world, "Stalled")[0]) == ("True", "False")


def test_an_edit_asks_the_pods_anew() -> None:
    world = policed(BUSY, strategy="learned")
    world.apply("BatchPolicy", "p", models=["digits"], strategy="Adaptive")
    world.run(3)
    assert world.status("p", "BatchPolicy")["phase"] == "Applied"
    assert said(world, "StrategyInstalled") == ("Unknown", "NotTold")
    world.run(15)
    assert said(world, "StrategyInstalled") == ("True", "Installed")


def test_a_target_below_the_cost_of_one_row_is_applied_and_told() -> None:
    world = policed(BUSY, targetLatency="3ms")
    assert world.table.batch.target_latency == 0.003
    status = world.status("p", "BatchPolicy")
    told = "targetLatency 3ms cannot be met: a batch of 1 of digits takes 4.2ms"
    assert (status["phase"], told in status["message"]) == ("Applied", True)
    assert (said(world, "TargetMet"), said(world, "Ready")[0]) == (("False", "BelowCost"), "True")
    assert world.reasons("p") == ["PolicyApplied", "InvalidSpec"]
    world.run(60)
    assert world.reasons("p") == ["PolicyApplied", "InvalidSpec"]


def test_a_memory_limit_below_one_row_is_applied_and_told() -> None:
    world = policed(change(BUSY, row_bytes=1600), memoryLimit="1Ki")
    assert world.table.batch.memory_limit == 1024
    status = world.status("p", "BatchPolicy")
    told = "memoryLimit 1Ki cannot be met: a row of digits takes 1.562Ki; such rows go one by one"
    assert (status["phase"], told in status["message"]) == ("Applied", True)
    assert said(world, "MemoryLimitMet") == ("False", "BelowRow")
    assert (said(world, "Ready")[0], status["live"][0]["rowBytes"]) == ("True", 1600)
    assert world.reasons("p") == ["PolicyApplied", "InvalidSpec"]
    world.run(60)
    assert world.reasons("p") == ["PolicyApplied", "InvalidSpec"]
    world.batching[""] = change(BUSY, row_bytes=1024)
    world.run(30)
    assert said(world, "MemoryLimitMet") == ("True", "WithinLimit")


def test_without_rows_nobody_knows_of_the_memory_limit() -> None:
    assert said(policed(BUSY, memoryLimit="1Ki"), "MemoryLimitMet") == ("Unknown", "NoTraffic")


def test_no_word_of_what_is_not_asked_for() -> None:
    conditions = policed(change(BUSY, row_bytes=1600)).status("p", "BatchPolicy")["conditions"]
    assert not {"TargetMet", "MemoryLimitMet"} & {one["type"] for one in conditions}


def test_a_target_that_is_missed_is_shown_without_an_event() -> None:
    world = policed(change(BUSY, p99=0.07), targetLatency="50ms")
    assert said(world, "TargetMet") == ("False", "P99AboveTarget")
    assert "take up to 70ms" in world.status("p", "BatchPolicy")["message"]
    assert world.reasons("p") == ["PolicyApplied"]


def test_without_traffic_nobody_knows_of_the_target() -> None:
    world = policed(change(BUSY, p99=None), targetLatency="50ms")
    assert said(world, "TargetMet") == ("Unknown", "NoTraffic")
    assert world.status("p", "BatchPolicy")["display"]["p99"] == "-"


def test_the_revision_is_the_one_that_brought_the_settings() -> None:
    world = policed(BUSY)
    before = world.status("p", "BatchPolicy")["revision"]
    world.rollout(initialPercent=50, stepPercent=25)
    world.run_to("Succeeded")
    assert world.status("p", "BatchPolicy")["revision"] == before < world.table.revision
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=2)
    world.run(5)
    assert world.status("p", "BatchPolicy")["revision"] == world.table.revision


def test_what_a_pod_notes_is_in_the_message() -> None:
    note = "batches are at 50% of their size: GPU memory is 93% used"
    message = policed(change(BUSY, notes=[note])).status("p", "BatchPolicy")["message"]
    assert message == f"All pods apply it; {note}"


def test_figures_that_only_waver_around_the_target_change_nothing() -> None:
    world = policed(change(BUSY, p99=0.049), targetLatency="50ms")
    since = world.condition("BatchPolicy", "p", "TargetMet")["lastTransitionTime"]
    for p99 in (0.052, 0.048, 0.054, 0.047):
        world.batching[""] = change(BUSY, p99=p99)
        world.run(15)
    assert said(world, "TargetMet")[0] == "True"
    assert world.condition("BatchPolicy", "p", "TargetMet")["lastTransitionTime"] == since


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ([], (None, "", None, 0)),
        ([BatchLive()], (None, "", None, 0)),
        ([BatchLive(), BUSY], (12.0, "4ms + 0.2ms*n", 0.03, 3)),
        ([BatchLive(fixed_seconds=1.5, seconds_per_row=0.01)], (None, "1.5s + 10ms*n", None, 0)),
        ([change(BUSY, p99=0.0123456), BUSY], (12.0, "4ms + 0.2ms*n", 0.03, 6)),
    ],
)
def test_pods_in_one(
    told: list[BatchLive], shown: tuple[float | None, str, float | None, int]
) -> None:
    live = policies.summed("digits", Spec(models=["digits"]), told)
    assert (live.batch_size, live.cost, live.p99, live.dropped) == shown


def test_the_largest_row_of_all_pods_counts() -> None:
    told = [BatchLive(row_bytes=size) for size in (5, 9, None)]
    assert policies.summed("digits", Spec(models=["digits"]), told).row_bytes == 9


def test_one_pod_without_the_strategy_is_enough() -> None:
    spec = Spec(models=["digits"], strategy="learned")
    rows = [BatchLive(strategy="learned"), BatchLive(strategy=""), BatchLive(strategy="Adaptive")]
    assert policies.summed("digits", spec, rows).strategy == "Adaptive"
    assert policies.summed("digits", spec, rows[:2]).strategy == "learned"


ROW = Live(model="digits", batch_size=10.0, p99=0.1, queue_length=5, dropped=100)


@pytest.mark.parametrize(
    ("after", "moved"),
    [
        (ROW, False),
        (Live(model="digits", batch_size=11.9, p99=0.1, queue_length=5, dropped=100), False),
        (Live(model="digits", batch_size=13.0, p99=0.1, queue_length=5, dropped=100), True),
        (Live(model="digits", batch_size=10.0, p99=0.1, queue_length=14, dropped=100), False),
        (Live(model="digits", batch_size=10.0, p99=0.1, queue_length=15, dropped=100), True),
        (Live(model="digits", batch_size=10.0, p99=0.1, queue_length=5, dropped=126), True),
        (Live(model="digits", batch_size=10.0, queue_length=5, dropped=100), True),
        (Live(model="another", batch_size=10.0, p99=0.1, queue_length=5, dropped=100), True),
    ],
)
def test_what_is_noticeable(after: Live, moved: bool) -> None:
    assert policies.moved(Status(live=[ROW]), Status(live=[after])) == moved


def test_another_condition_is_noticeable() -> None:
    def status(reason: str) -> Status:
        word = Condition(type="TargetMet", status="False", reason=reason, last_transition_time="")
        return Status(live=[ROW], conditions=[word])

    assert policies.moved(status("BelowCost"), status("P99AboveTarget"))
    assert not policies.moved(status("BelowCost"), status("BelowCost"))
