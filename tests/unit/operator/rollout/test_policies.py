"""BatchPolicies: the oldest holds, the table has what it sets, its status says where it is live."""

from simulation import two_versions


def test_it_is_in_the_table_and_applied_once() -> None:
    world = two_versions()
    world.apply("BatchPolicy", "p", models=["digits"], maxBatchSize=16, maxWait="5ms")
    world.run(5)
    batch = world.table.batch
    assert (batch.max_batch_size, batch.max_wait, batch.queue_max_size) == (16, 0.005, 1000)
    status = world.status("p", "BatchPolicy")
    assert (status["phase"], status["appliedPods"], status["totalPods"]) == ("Applied", 2, 2)
    assert status["display"] == {"models": "digits", "batch": "16", "applied": "2/2"}
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
