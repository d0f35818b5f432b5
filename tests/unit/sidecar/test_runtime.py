"""One model: where requests go, who is let in, what counts for whom."""

import itertools
import json
from base64 import b64decode
from collections.abc import Iterator
from math import inf
from typing import Any

import msgspec
import pytest

from tidegate_contract.table import (
    Assignment,
    BatchSettings,
    ErrorCheck,
    Experiment,
    Level,
    LoadedVersion,
    Outcome,
    SlowCheck,
)
from tidegate_sidecar.core.admission import quotas
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.exchange import Answer
from tidegate_sidecar.core.refusal import Refusal, lost, unavailable
from tidegate_sidecar.core.routing import hashed
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.tokens import Subject

CANARY = (("stable", 1, 5_000), ("canary", 2, 5_000))
ERRORS = ErrorCheck(id="errors/rollback@1", arms=["stable", "canary"])
SLOW = SlowCheck(id="latency/rollback@1", bounds={"stable": 0.1, "canary": 0.2}, priorities=[1, 3])


def run(
    runtime: ModelRuntime, now: float, status: int = 200, body: bytes | None = None
) -> list[Any]:
    """Send what waits and answer it; the results in order."""
    results: list[Any] = []
    for first in iter_batches(runtime, now):
        following: Batch | None = first
        while following:
            json_length = None
            answer = body
            if answer is None:
                rows = following.rows
                header = json.dumps(
                    {
                        "outputs": [
                            {
                                "name": "y",
                                "datatype": "FP32",
                                "shape": [rows, 2],
                                "parameters": {"binary_data_size": 8 * rows},
                            }
                        ]
                    }
                ).encode()
                json_length, answer = len(header), header + bytes(8 * rows)
            done = runtime.complete(following, status, json_length, answer)
            results += [one for one in done if one is not None]
            following = runtime.finish(following, done, now)
    return results


def iter_batches(runtime: ModelRuntime, now: float) -> Iterator[Batch]:
    while batches := runtime.poll(now):
        yield from batches


def checks(runtime: ModelRuntime, check: str) -> dict[tuple[str, int, int], tuple[int, int]]:
    """(arm, version, level or bucket) to (requests, bad), zeros left out."""
    return {
        (arm, version, int("".join(stratum) or -1)): (count.requests, count.bad)
        for (id_, arm, version, stratum), count in runtime.counters.checks.items()
        if id_ == check and count.requests
    }


def outcomes(runtime: ModelRuntime) -> dict[tuple[str, int, str], int]:
    found: dict[tuple[str, int, str], int] = {}
    for (arm, version, _), tally in runtime.counters.tallies.items():
        for outcome, count in tally.outcomes.items():
            key = (arm, version, outcome)
            found[key] = found.get(key, 0) + count
    return found


def test_no_table_yet(make: Any) -> None:
    runtime = ModelRuntime("m", "pod")
    with pytest.raises(Refusal) as caught:
        make.submit(runtime)
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)
    assert outcomes(runtime) == {("none", 0, "rejected"): 1}


def test_no_version_ready(make: Any) -> None:
    runtime = make.runtime()
    runtime.version_gone(1)
    with pytest.raises(Refusal) as caught:
        make.submit(runtime)
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)


def test_requests_are_split_and_labelled(make: Any) -> None:
    runtime = make.runtime(make.table(*CANARY), make.version(1), make.version(2))
    taken = [make.submit(runtime) for _ in range(10)]
    assert (
        sorted((one.arm, one.version) for one in taken) == [("canary", 2)] * 5 + [("stable", 1)] * 5
    )
    assert all(isinstance(one, Answer) for one in run(runtime, 0.0))
    assert outcomes(runtime) == {("stable", 1, "ok"): 5, ("canary", 2, "ok"): 5}


def test_a_key_decides_where_there_is_one(make: Any) -> None:
    table = make.table(*CANARY, assignment=Assignment(header="X-User", salt="s"))
    runtime = make.runtime(table, make.version(1), make.version(2))
    arms = {make.submit(runtime, headers={"x-user": "anna"}).arm for _ in range(20)}
    assert len(arms) == 1
    assert len({make.submit(runtime, headers={"x-user": str(i)}).arm for i in range(20)}) == 2


def test_an_arm_that_is_not_ready_is_served_by_the_default_as_no_evidence(make: Any) -> None:
    runtime = make.runtime(make.table(*CANARY, checks=[ERRORS]), make.version(1))
    assert {make.submit(runtime).arm for _ in range(10)} == {"stable"}
    run(runtime, 0.0)
    assert runtime.counters.fallbacks == {"canary": 5}
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (5, 0)}


def test_a_default_that_is_not_ready_is_not_served_by_the_canary(make: Any) -> None:
    runtime = make.runtime(make.table(*CANARY), make.version(2))
    served = refused = 0
    for _ in range(10):
        try:
            served += make.submit(runtime).arm == "canary"
        except Refusal as refusal:
            refused += refusal.status == 503
    assert (served, refused) == (5, 5)


def test_a_named_version_is_direct_and_no_evidence(make: Any) -> None:
    table = make.table(*CANARY, checks=[ERRORS], loaded=[3])
    runtime = make.runtime(table, make.version(1), make.version(2))
    assert make.submit(runtime, version=2).arm == "direct"
    run(runtime, 0.0, 500, b'{"error": "boom"}')
    assert checks(runtime, ERRORS.id) == {}
    for version, status in ((3, 503), (4, 404)):
        with pytest.raises(Refusal) as caught:
            make.submit(runtime, version=version)
        assert caught.value.status == status


def test_malformed_requests_are_nobodys_evidence(make: Any) -> None:
    runtime = make.runtime(
        make.table(*CANARY, checks=[ERRORS, SLOW]), make.version(), make.version(2)
    )
    for fields in ({"shape": (3,)}, {"datatype": "INT32"}, {"parameters": {"priority": "x"}}):
        with pytest.raises(Refusal):
            make.submit(runtime, **fields)
    assert outcomes(runtime) == {("none", 0, "client_error"): 3}
    assert checks(runtime, ERRORS.id) == checks(runtime, SLOW.id) == {}


def test_priority_from_the_request_or_its_header(make: Any) -> None:
    runtime = make.runtime()
    header = {"tidegate-priority": "1"}
    assert make.submit(runtime).level == 3
    assert make.submit(runtime, headers=header).level == 1
    assert make.submit(runtime, headers={"tidegate-priority": "0"}).level == 3
    assert make.submit(runtime, headers={"tidegate-priority": "99"}).level == 3
    assert make.submit(runtime, headers=header, parameters={"priority": 5}).level == 5
    for wrong in ("", "high", "-1", "1.0", "\u0661", "+1"):
        with pytest.raises(Refusal, match="tidegate-priority"):
            make.submit(runtime, headers={"tidegate-priority": wrong})


def test_levels_are_the_policys(make: Any) -> None:
    levels = tuple(Level(level=level, name=str(level)) for level in range(1, 9))
    policy = BatchSettings(levels=levels, default_level=7)
    runtime = make.runtime(make.table(batch=policy))
    asked = {None: 7, 0: 7, 1: 1, 8: 8, 9: 7}
    for level, found in asked.items():
        fields = {} if level is None else {"parameters": {"priority": level}}
        assert make.submit(runtime, **fields).level == found
    with pytest.raises(Refusal):
        make.submit(runtime, datatype="INT8")
    assert runtime.counters.tally("none", 0, 7).outcomes == {"client_error": 1}
    runtime.apply(make.table(batch=BatchSettings(levels=levels[:2], default_level=2), revision=2))
    assert make.submit(runtime, parameters={"priority": 8}).level == 2
    assert len(run(runtime, 0.0)) == len(asked) + 1  # nobody is lost with his level


def test_deadlines(make: Any) -> None:
    runtime = make.runtime(make.table(batch=BatchSettings(deadline=30.0)))
    one = make.submit(runtime, 1.0)
    assert (one.send_by, one.answer_by) == (inf, 31.0)
    header = {"tidegate-deadline-ms": "1500"}
    one = make.submit(runtime, 1.0, headers=header, parameters={"timeout": 250_000})
    assert (one.send_by, one.answer_by) == (1.25, 2.5)
    one = make.submit(runtime, 1.0, headers={"tidegate-deadline-ms": "60000"})
    assert one.answer_by == 61.0
    runtime.apply(make.table(batch=BatchSettings(deadline=None), revision=2))
    assert make.submit(runtime, 1.0).answer_by == inf
    for wrong in ("", "soon", "-1", "1.5", "\u0661"):
        with pytest.raises(Refusal, match="tidegate-deadline-ms") as caught:
            make.submit(runtime, headers={"tidegate-deadline-ms": wrong})
        assert caught.value.status == 400
    with pytest.raises(Refusal, match=r"parameters\.timeout"):
        make.submit(runtime, parameters={"timeout": -1})


@pytest.mark.parametrize(
    ("fields", "now", "slow"),
    [
        ({"parameters": {"timeout": 50_000}}, 0.06, {}),
        ({"parameters": {"timeout": 50_000}}, 0.2, {("stable", 1, 3): (1, 1)}),
        ({"headers": {"tidegate-deadline-ms": "50"}}, 0.06, {}),
    ],
)
def test_who_waits_too_long_is_told_and_is_no_error(
    make: Any, fields: Any, now: float, slow: dict[Any, Any]
) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW]))
    blocker = make.submit(runtime, headers={"tidegate-deadline-ms": "600000"})
    (sent,) = runtime.poll(0.0)
    assert sent.members == [blocker]
    waiting = make.submit(runtime, 0.0, **fields)
    assert runtime.poll(0.0) == []
    assert runtime.given_up(0.0) == []
    assert runtime.next_wake() == pytest.approx(0.05)
    assert runtime.poll(now) == []
    ((late, refusal),) = runtime.given_up(now)
    assert late is waiting
    assert refusal.status == 504
    assert refusal.message.startswith("Request timeout expired")
    runtime.cancel(late, now)  # its connection goes too
    assert runtime.waiting == 0
    assert outcomes(runtime) == {("stable", 1, "expired"): 1}
    assert checks(runtime, ERRORS.id) == {}
    assert checks(runtime, SLOW.id) == slow


def test_who_is_answered_too_late_is_told_in_time(make: Any) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW]))
    hasty, patient = (
        make.submit(runtime, headers={"tidegate-deadline-ms": ms}) for ms in ("50", "200")
    )
    (batch,) = runtime.poll(0.0)
    assert batch.members == [hasty, patient]
    assert runtime.next_wake() == pytest.approx(0.05)
    runtime.poll(0.06)
    ((late, refusal),) = runtime.given_up(0.06)
    assert (late, refusal.status) == (hasty, 504)
    assert runtime.given_up(0.07) == []
    assert runtime.next_wake() == pytest.approx(0.2)
    body, length = make.reply(2)
    results = runtime.complete(batch, 200, length, body)
    assert isinstance(results[1], Answer)
    runtime.finish(batch, results, 0.08)
    assert outcomes(runtime) == {("stable", 1, "expired"): 1, ("stable", 1, "ok"): 1}
    # Its version had it in hand.
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (2, 1)}
    assert checks(runtime, SLOW.id) == {("stable", 1, 3): (2, 1)}
    assert runtime.next_wake() is None
    assert not runtime.in_use(1, 0.0)


def test_a_deadline_that_is_over_on_arrival_is_nobodys_error(make: Any) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW]))
    try:
        make.submit(runtime, 1.0, headers={"tidegate-deadline-ms": "0"})
        assert runtime.poll(1.0) == []
        ((_, refusal),) = runtime.given_up(1.0)
    except Refusal as at_once:
        refusal = at_once
    assert refusal.status == 504
    assert outcomes(runtime) == {("stable", 1, "expired"): 1}
    assert checks(runtime, ERRORS.id) == checks(runtime, SLOW.id) == {}


def test_who_is_thrown_out_for_a_higher_level_is_told_when_to_come_again(make: Any) -> None:
    policy = BatchSettings(queue_max_size=2, on_full="DropLowest")
    runtime = make.runtime(make.table(batch=policy, checks=[ERRORS, SLOW]))
    make.submit(runtime, parameters={"priority": 4})
    lowest = make.submit(runtime, parameters={"priority": 5})
    make.submit(runtime, parameters={"priority": 1})
    ((thrown_out, refusal),) = runtime.given_up(0.0)
    assert thrown_out is lowest
    assert refusal.status == 503
    assert refusal.retry_after
    assert runtime.waiting == 2
    with pytest.raises(Refusal) as caught:
        make.submit(runtime, parameters={"priority": 5})
    assert caught.value.status == 429
    assert outcomes(runtime) == {("stable", 1, "rejected"): 2}
    assert checks(runtime, ERRORS.id) == checks(runtime, SLOW.id) == {}
    assert len(run(runtime, 0.0)) == 2


def test_a_level_has_a_bound_of_its_own(make: Any) -> None:
    levels = (Level(level=1, name="high"), Level(level=2, name="low", max_queue=1))
    runtime = make.runtime(make.table(batch=BatchSettings(levels=levels, default_level=1)))
    make.submit(runtime, parameters={"priority": 2})
    with pytest.raises(Refusal) as caught:
        make.submit(runtime, parameters={"priority": 2})
    assert caught.value.status == 429
    assert caught.value.retry_after
    make.submit(runtime)


def test_a_full_queue_refuses(make: Any) -> None:
    runtime = make.runtime(make.table(batch=BatchSettings(queue_max_size=3), checks=[ERRORS, SLOW]))
    for _ in range(3):
        make.submit(runtime)
    with pytest.raises(Refusal) as caught:
        make.submit(runtime)
    assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
    # Nobody's fault but the load's.
    assert outcomes(runtime) == {("stable", 1, "rejected"): 1}
    assert checks(runtime, ERRORS.id) == checks(runtime, SLOW.id) == {}
    run(runtime, 0.0)
    make.submit(runtime)


def test_a_canary_that_fills_its_part_of_the_queue_answers_for_it(make: Any) -> None:
    table = make.table(
        ("stable", 1, 9_900),
        ("canary", 2, 100),
        assignment=Assignment(header="k", salt="s"),
        checks=[ERRORS, SLOW],
    )
    other = make.runtime(table, make.version(1), make.version(2))
    keys = map(str, range(100_000))
    key = next(key for key in keys if make.submit(other, headers={"k": key}).arm == "canary")
    runtime = make.runtime(table, make.version(1), make.version(2))
    for _ in range(20):  # twice 1% of 1000
        make.submit(runtime, headers={"k": key})
    with pytest.raises(Refusal, match="arm canary has 20 requests waiting"):
        make.submit(runtime, headers={"k": key})
    bucket = hashed("s", key)[1]
    assert checks(runtime, SLOW.id) == {("canary", 2, bucket): (1, 1)}
    assert checks(runtime, ERRORS.id) == {("canary", 2, bucket): (1, 0)}


@pytest.mark.parametrize(
    ("split", "size", "queue", "device"),
    [
        ((("stable", 1, 10_000),), 1000, {9: 16}, {9: 0.1}),
        ((("stable", 1, 9_500), ("canary", 2, 500)), 1000, {2: 100, 9: 16}, {2: 0.1, 9: 0.1}),
        ((("stable", 1, 9_500), ("canary", 2, 500)), 100, {2: 16, 9: 16}, {2: 0.1, 9: 0.1}),
        ((("stable", 1, 8_000), ("canary", 2, 2_000)), 1000, {2: 400, 9: 16}, {2: 0.4, 9: 0.1}),
        ((("stable", 1, 5_000), ("stable", 2, 5_000)), 1000, {9: 16}, {9: 0.1}),
        ((("control", 1, 6_000), ("treatment", 2, 4_000)), 1000, {2: 800, 9: 16}, {2: 0.8, 9: 0.1}),
    ],
)
def test_parts_of_queue_and_device(
    make: Any, split: Any, size: int, queue: dict[int, float], device: dict[int, float]
) -> None:
    table = make.table(*split, batch=BatchSettings(queue_max_size=size), loaded=[9])
    found = quotas(table)
    assert found.queue == pytest.approx(queue)
    assert found.device == pytest.approx(device)


def test_what_waits_for_a_version_that_goes_falls_back(make: Any) -> None:
    table = make.table(
        *CANARY, checks=[ERRORS], batch=BatchSettings(strategy="Fixed", max_wait=9.0)
    )
    runtime = make.runtime(table, make.version(1), make.version(2))
    taken = [make.submit(runtime) for _ in range(4)] + [make.submit(runtime, version=2)]
    runtime.version_gone(2)
    ((direct, refusal),) = runtime.replan(1.0)
    assert direct is taken[4]
    assert refusal.status == 503
    assert {one.arm for one in taken[:4]} == {"stable"}
    assert len(run(runtime, 9.0)) == 4
    assert runtime.counters.fallbacks == {"canary": 2}
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (2, 0)}
    assert outcomes(runtime) == {("stable", 1, "ok"): 4, ("direct", 2, "rejected"): 1}


def test_what_waits_for_a_version_that_is_loaded_anew_still_gets_it(make: Any) -> None:
    table = make.table(
        *CANARY, checks=[ERRORS], batch=BatchSettings(strategy="Fixed", max_wait=9.0)
    )
    runtime = make.runtime(table, make.version(1), make.version(2))
    taken = [make.submit(runtime) for _ in range(4)] + [make.submit(runtime, version=2)]
    before = [(one.arm, one.version) for one in taken]
    runtime.version_ready(make.version(2, instances=2))
    assert runtime.replan(1.0) == []
    assert [(one.arm, one.version) for one in taken] == before
    assert len(run(runtime, 9.0)) == 5
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (2, 0), ("canary", 2, 3): (2, 0)}


def test_what_waits_for_the_only_version_gets_an_error_and_is_no_evidence(make: Any) -> None:
    runtime = make.runtime(
        make.table(checks=[ERRORS], batch=BatchSettings(strategy="Fixed", max_wait=9.0))
    )
    make.submit(runtime)
    gone = make.submit(runtime)
    runtime.version_gone(1)
    runtime.cancel(gone, 0.5)
    assert [refusal.status for _, refusal in runtime.replan(1.0)] == [503]
    assert checks(runtime, ERRORS.id) == {}
    assert outcomes(runtime) == {("stable", 1, "cancelled"): 1, ("stable", 1, "rejected"): 1}


def test_a_batch_that_reached_no_server_is_no_evidence_and_one_that_was_lost_is(make: Any) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS]))
    for refusal in (unavailable("connection refused"), lost("connection reset")):
        make.submit(runtime)
        (batch,) = runtime.poll(0.0)
        runtime.finish(batch, [refusal], 0.1)
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (1, 1)}
    assert outcomes(runtime) == {("stable", 1, "rejected"): 1, ("stable", 1, "server_error"): 1}
    assert not runtime.in_use(1, 0.0)


def test_a_version_that_is_ready_again_is_used(make: Any) -> None:
    runtime = make.runtime()
    make.submit(runtime)
    (batch,) = runtime.poll(0.0)
    runtime.version_gone(1)
    assert runtime.ready == {}
    runtime.version_ready(make.version())
    runtime.version_ready(make.version())
    assert list(runtime.ready) == [1]
    make.submit(runtime)
    assert len(run(runtime, 0.0)) == 1  # the lost batch holds no slot of the new one
    runtime.finish(batch, runtime.complete(batch, 500, None, b""), 1.0)
    assert not runtime.in_use(1, 0.0)


def test_tables_keep_what_they_count(make: Any) -> None:
    table = make.table(*CANARY, checks=[ERRORS, SLOW])
    runtime = make.runtime(table, make.version(1), make.version(2))
    anchors = {(series.check, series.arm) for series in runtime.counters.checks}
    assert len(runtime.counters.checks) == len(anchors) == 2 * 2  # before any request
    make.submit(runtime)
    run(runtime, 0.0)
    before = checks(runtime, ERRORS.id)
    assert sum(requests for requests, _ in before.values()) == 1
    other = ErrorCheck(id="errors/rollback@2", arms=["stable", "canary"])
    runtime.apply(make.table(*CANARY, checks=[ERRORS, other], revision=2))
    assert checks(runtime, ERRORS.id) == before
    assert checks(runtime, other.id) == checks(runtime, SLOW.id) == {}


@pytest.mark.parametrize(
    ("status", "seconds", "errors", "slow"),
    [
        (200, 0.05, (1, 0), (1, 0)),
        (200, 0.15, (1, 0), (1, 1)),
        (500, 0.05, (1, 1), (1, 1)),
        (503, 0.05, (1, 1), (1, 1)),
        (404, 0.05, (1, 1), (1, 1)),  # it was ready when it was asked
        (400, 0.05, (1, 0), (1, 0)),
        (400, 0.15, (1, 0), (1, 1)),
    ],
)
def test_what_is_bad(
    make: Any, status: int, seconds: float, errors: tuple[int, int], slow: tuple[int, int]
) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW]))
    make.submit(runtime, 1.0)
    run(runtime, 1.0 + seconds, status, None if status == 200 else b'{"error": "no"}')
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): errors}
    assert checks(runtime, SLOW.id) == {("stable", 1, 3): slow}


def test_a_check_of_some_levels_concerns_no_other(make: Any) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW]))
    make.submit(runtime, parameters={"priority": 2})
    run(runtime, 9.0)
    assert checks(runtime, SLOW.id) == {}
    assert checks(runtime, ERRORS.id) == {("stable", 1, 2): (1, 0)}


def test_what_hangs_counts_as_slow_once(make: Any) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW], batch=BatchSettings(max_batch_size=1)))
    make.submit(runtime)
    make.submit(runtime)
    (batch,) = runtime.poll(0.0)
    runtime.look(0.05)
    assert checks(runtime, SLOW.id) == {}
    for now in (0.2, 0.3, 5.0):
        runtime.look(now)
        assert checks(runtime, SLOW.id) == {("stable", 1, 3): (2, 2)}
    assert checks(runtime, ERRORS.id) == {}
    runtime.finish(batch, runtime.complete(batch, 500, None, b""), 6.0)
    run(runtime, 6.0)
    assert checks(runtime, SLOW.id) == {("stable", 1, 3): (2, 2)}
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (2, 1)}


def test_who_gives_up_late_counts_and_who_gives_up_early_does_not(make: Any) -> None:
    runtime = make.runtime(make.table(checks=[ERRORS, SLOW], batch=BatchSettings(max_batch_size=1)))
    sent, early, late = (make.submit(runtime) for _ in range(3))
    (batch,) = runtime.poll(0.0)
    runtime.cancel(early, 0.05)
    runtime.cancel(late, 0.15)
    runtime.cancel(sent, 0.16)
    runtime.look(9.0)
    assert checks(runtime, SLOW.id) == {("stable", 1, 3): (2, 2)}
    assert checks(runtime, ERRORS.id) == {}
    # What was sent has an end, though nobody hears of it.
    runtime.finish(batch, runtime.complete(batch, 500, None, b""), 9.0)
    assert checks(runtime, ERRORS.id) == {("stable", 1, 3): (1, 1)}
    assert outcomes(runtime) == {("stable", 1, "cancelled"): 3}
    assert runtime.poll(9.0) == []


def test_one_error_goes_to_all_members(make: Any) -> None:
    runtime = make.runtime()
    for _ in range(3):
        make.submit(runtime)
    results = run(runtime, 0.0, 500, b'{"error": "division by zero"}')
    assert [(one.status, one.message) for one in results] == [(500, "division by zero")] * 3


def test_an_answer_that_does_not_fit_is_an_error_for_all(make: Any) -> None:
    runtime = make.runtime()
    for _ in range(2):
        make.submit(runtime)
    assert [one.status for one in run(runtime, 0.0, 200, b"rubbish")] == [500, 500]


def test_what_triton_gets_is_the_members_rows_in_order(make: Any) -> None:
    runtime = make.runtime()
    bodies = []
    for i in range(3):
        body, length = make.body(rows=i + 1)
        body = body[:length] + bytes([i]) * 8 * (i + 1)
        bodies.append(body[length:])
        runtime.submit(None, body, json_length=length, version=None, headers={}, now=0.0)
    (batch,) = runtime.poll(0.0)
    header, buffers = runtime.encode(batch)
    assert b"".join(buffers) == b"".join(bodies)
    (tensor,) = json.loads(header)["inputs"]
    assert (tensor["shape"], tensor["parameters"]) == ([6, 2], {"binary_data_size": 48})
    assert json.loads(header)["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]


def test_batches_take_the_tables_settings(make: Any) -> None:
    runtime = make.runtime(
        make.table(batch=BatchSettings(strategy="Fixed", max_batch_size=2, max_wait=0.5))
    )
    make.submit(runtime, 1.0)
    assert runtime.poll(1.0) == []
    assert runtime.next_wake() == 1.5
    runtime.apply(make.table(batch=BatchSettings(max_batch_size=1), revision=2))
    assert len(runtime.poll(1.0)) == 1


def test_the_table_names_what_may_be_asked_for(make: Any) -> None:
    table = make.table(loaded=[2])
    assert table.versions == [LoadedVersion(version=1), LoadedVersion(version=2)]
    runtime = make.runtime(table)
    assert runtime.default_version == 1
    with pytest.raises(Refusal):
        _ = ModelRuntime("m", "pod").default_version


TEST = Experiment(
    uid="uid", outcomes=[Outcome(name="accuracy", kind="Binary")], covariate="X-History"
)


def a_test(make: Any, **fields: Any) -> ModelRuntime:
    """Control is version 1, treatment version 2; a user named 1 is on control, 2 on treatment."""
    table = make.table(
        ("control", 1, 5_000),
        ("treatment", 2, 5_000),
        assignment=Assignment(header="X-User", salt="salt-1", unassigned=1),
        checks=[ErrorCheck(id=ERRORS.id, arms=["control", "treatment"])],
        **fields,
    )
    table = msgspec.structs.replace(table, experiment=TEST)
    runtime: ModelRuntime = make.runtime(table, make.version(1), make.version(2))
    return runtime


def users_of(runtime: ModelRuntime, arm: str, make: Any) -> Iterator[str]:
    other = make.runtime(runtime.table, make.version(1), make.version(2))
    for i in itertools.count():
        if make.submit(other, headers={"x-user": str(i)}).arm == arm:
            yield str(i)


def test_feedback_is_wanted_on_both_arms_of_a_test_alone(make: Any) -> None:
    runtime = a_test(make)
    for arm, version in (("control", 1), ("treatment", 2)):
        user = next(users_of(runtime, arm, make))
        bucket = hashed("salt-1", user)[1]
        one = make.submit(runtime, headers={"x-user": user, "x-history": "2.5"})
        assert one.subject == Subject(arm, version, bucket, 2.5)
        one = make.submit(runtime, headers={"x-user": user, "x-history": "long"})
        assert one.subject == Subject(arm, version, bucket, None)
        assert make.submit(runtime, version=version, headers={"x-user": user}).subject is None
    unassigned = make.submit(runtime)
    assert (unassigned.arm, unassigned.version, unassigned.subject) == ("unassigned", 1, None)
    canary = make.runtime(make.table(*CANARY), make.version(1), make.version(2))
    assert make.submit(canary).subject is None


def test_unassigned_requests_and_fallbacks_are_no_evidence_for_anybody(make: Any) -> None:
    runtime = a_test(make, batch=BatchSettings(strategy="Fixed", max_wait=9.0))
    user = next(users_of(runtime, "treatment", make))
    waiting = make.submit(runtime, headers={"x-user": user})
    runtime.version_gone(2)
    assert runtime.replan(0.0) == []
    late = make.submit(runtime, headers={"x-user": user})
    make.submit(runtime)
    for one in (waiting, late):
        assert (one.arm, one.subject, one.evidence) == ("control", None, False)
    assert len(run(runtime, 9.0)) == 3
    assert checks(runtime, ERRORS.id) == {}
    assert runtime.counters.fallbacks == {"treatment": 2}
    sample = runtime.users.sample()
    assert sample
    assert set(sample.arms) == {"treatment"}  # it was asked for once


def test_distinct_users_are_counted_by_arm(make: Any) -> None:
    runtime = a_test(make)
    for arm in ("control", "treatment"):
        for user in itertools.islice(users_of(runtime, arm, make), 5):
            for _ in range(2):
                make.submit(runtime, headers={"x-user": user})
    make.submit(runtime)
    sample = runtime.users.sample()
    assert sample
    assert {arm: len(b64decode(marks)) // 8 for arm, marks in sample.arms.items()} == {
        "control": 5,
        "treatment": 5,
    }


def test_who_names_a_version_is_remembered(make: Any) -> None:
    runtime = make.runtime(make.table(loaded=[2]), make.version(1), make.version(2))
    make.submit(runtime, 1.0)
    assert runtime.direct_at == {}
    make.submit(runtime, 2.0, version=2)
    make.submit(runtime, 3.0, version=2)
    with pytest.raises(Refusal):
        make.submit(runtime, 4.0, version=9)
    assert runtime.direct_at == {2: 3.0}
