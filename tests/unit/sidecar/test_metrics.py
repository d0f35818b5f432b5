"""What Prometheus reads, by its own parser."""

import json
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tidegate_contract.table import (
    BatchSettings,
    Check,
    ErrorCheck,
    Experiment,
    Outcome,
    SlowCheck,
)
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.tokens import Subject
from tidegate_sidecar.shell.metrics import render

CHECKS: list[Check] = [
    ErrorCheck(id="errors/rollback@1", arms=["stable", "canary"]),
    SlowCheck(id="latency/rollback@1", bounds={"stable": 0.1, "canary": 0.2}),
]


def samples(runtime: ModelRuntime, now: float = 0.0) -> dict[str, dict[tuple[str, ...], float]]:
    """Name to (label values, in the order of their names) to value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    text = render({"m": runtime}, clock=lambda: now).decode()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            labels = tuple(value for _, value in sorted(one.labels.items()))
            found.setdefault(one.name, {})[labels] = one.value
    return found


@pytest.fixture
def runtime(make: Any) -> ModelRuntime:
    table = make.table(
        ("stable", 1, 5_000),
        ("canary", 2, 5_000),
        checks=CHECKS,
        revision=7,
        batch=BatchSettings(max_batch_size=1),
    )
    made: ModelRuntime = make.runtime(table, make.version(1), make.version(2))
    return made


def finish(runtime: ModelRuntime, now: float, status: int = 500) -> None:
    for batch in runtime.poll(now):
        results = runtime.complete(batch, status, None, b'{"error": "no"}')
        runtime.finish(batch, results, now)


def test_each_check_and_arm_has_an_anchor_with_its_table(runtime: ModelRuntime) -> None:
    shown = samples(runtime)
    for name in ("tidegate_check_requests_total", "tidegate_check_bad_total"):
        # arm, bucket, check, model, priority, version
        assert shown[name] == {
            (arm, "", check.id, "m", "3", version): 0
            for arm, version in (("stable", "1"), ("canary", "2"))
            for check in CHECKS
        }
    assert shown["tidegate_routing_revision"] == {("m",): 7}
    assert shown["tidegate_triton_restarts_total"] == {("m",): 0}


def test_what_is_counted(make: Any, runtime: ModelRuntime) -> None:
    with pytest.raises(Refusal):
        make.submit(runtime, datatype="INT8")
    first = make.submit(runtime, parameters={"priority": 1})
    make.submit(runtime, version=first.version)
    assert first.arm in ("stable", "canary")
    shown = samples(runtime)
    labels = (first.arm, "m", "1", str(first.version))
    assert shown["tidegate_queue_length"][labels] == 1
    finish(runtime, 0.004)
    runtime.counters.triton_restarts += 1
    shown = samples(runtime)
    arm, model, level, version = labels
    assert shown["tidegate_requests_total"] == {
        ("none", "m", "client_error", "3", ""): 1,
        (arm, model, "server_error", level, version): 1,
    }
    assert shown["tidegate_inflight"][first.arm, "m", str(first.version)] == 0
    assert shown["tidegate_queue_length"]["direct", "m", "3", str(first.version)] == 1
    duration = shown["tidegate_request_duration_seconds_bucket"]
    assert duration[arm, "0.003", model, version] == 0
    assert duration[arm, "0.005", model, version] == duration[arm, "+Inf", model, version] == 1
    assert shown["tidegate_request_duration_seconds_sum"][arm, model, version] == 0.004
    assert shown["tidegate_queue_seconds_count"][labels] == 1
    assert shown["tidegate_batch_size_bucket"]["1.0", "m", version] == 1
    assert shown["tidegate_triton_restarts_total"] == {("m",): 1}
    assert shown["tidegate_check_bad_total"][arm, "", CHECKS[0].id, "m", "1", version] == 1


def test_a_look_counts_what_hangs(make: Any, runtime: ModelRuntime) -> None:
    pending = make.submit(runtime, 1.0)
    runtime.poll(1.0)
    labels = (pending.arm, "", CHECKS[1].id, "m", "3", str(pending.version))
    assert samples(runtime, 1.05)["tidegate_check_bad_total"][labels] == 0
    for now in (2.0, 3.0):
        shown = samples(runtime, now)
        assert shown["tidegate_check_bad_total"][labels] == 1
        assert shown["tidegate_check_requests_total"][labels] == 1
    assert shown["tidegate_inflight"][pending.arm, "m", str(pending.version)] == 1


def test_fallbacks(make: Any, runtime: ModelRuntime) -> None:
    runtime.version_gone(2)
    for _ in range(4):
        make.submit(runtime)
    assert samples(runtime)["tidegate_fallback_total"] == {("canary", "m"): 2}


def test_expiries_and_what_was_sent_again(make: Any, runtime: ModelRuntime) -> None:
    late = make.submit(runtime, headers={"tidegate-deadline-ms": "100"})
    runtime.poll(0.0)
    runtime.poll(1.0)
    assert [one for one, _ in runtime.given_up(1.0)] == [late]
    runtime.counters.retried(late.version, "answered")
    shown = samples(runtime, 1.0)
    version = str(late.version)
    assert shown["tidegate_requests_total"] == {(late.arm, "m", "expired", "3", version): 1}
    assert shown["tidegate_retries_total"] == {("m", "answered", version): 1}


def test_a_model_without_a_table(make: Any) -> None:
    runtime = ModelRuntime("m", "pod")
    with pytest.raises(Refusal):
        make.submit(runtime)
    shown = samples(runtime)
    assert shown["tidegate_requests_total"] == {("none", "m", "rejected", "3", ""): 1}
    assert "tidegate_routing_revision" not in shown


def test_sums_of_feedback(make: Any, runtime: ModelRuntime) -> None:
    table = make.table(("control", 1, 5_000), ("treatment", 2, 5_000), revision=8)
    test = Experiment(uid="u", outcomes=[Outcome(name="stars", kind="Value", low=-9, high=9)])
    runtime.apply(msgspec.structs.replace(table, experiment=test))
    runtime.feedback.use(b"0123456789abcdef")
    for value in (3.0, -1.0):
        token = runtime.feedback.token(Subject("treatment", 2, None, None))
        assert token
        body = json.dumps([{"token": token.decode(), "value": value}, {"token": "mine"}])
        runtime.feedback.take(body.encode(), 0.0)
    shown = samples(runtime)
    sums = {
        name.removeprefix("tidegate_feedback_value_"): values
        for name, values in shown.items()
        if name.startswith("tidegate_feedback_value_")
    }
    # arm, bucket, metric, model, version
    treatment, control = (
        (arm, "", "stars", "m", version) for arm, version in (("treatment", "2"), ("control", "1"))
    )
    assert {part: values[treatment] for part, values in sums.items()} == {
        "count_total": 2,
        "pos_total": 3,
        "neg_total": 1,
        "squares_total": 10,
    }
    assert {values[control] for values in sums.values()} == {0}
    assert shown["tidegate_feedback_total"] == {("m", "accepted"): 2, ("m", "forged"): 2}
    assert shown["tidegate_feedback_tokens_total"] == {
        ("treatment", "m", "2"): 2,
        ("control", "m", "1"): 0,
    }
    covariate = msgspec.structs.replace(test, covariate="x-history")
    runtime.apply(msgspec.structs.replace(table, experiment=covariate, revision=9))
    assert samples(runtime)["tidegate_feedback_value_cross_neg_total"][treatment] == 0
