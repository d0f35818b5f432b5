"""Feedback: what fits is summed once, what does not changes no sum, and all of it is counted."""

import contextlib
import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_contract.table import Assignment, Experiment, Outcome, RoutingTable
from tidegate_sidecar.core.feedback import (
    LARGEST,
    MAX_BYTES,
    MAX_ENTRIES,
    Feedback,
    Receipt,
    Series,
    Sums,
    covariate,
)
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.tokens import Subject

KEY = b"0123456789abcdef"
ACCURACY = Outcome(name="accuracy", kind="Binary")
STARS = Outcome(name="stars", kind="Value", low=-5.0, high=5.0)
PRICE = Outcome(name="price", kind="Value", low=0.0, high=1e300)
TEST = Experiment(uid="uid-1", outcomes=[ACCURACY, STARS], covariate="x-history")
SUBJECT = Subject("treatment", 2, 17, None)


def a_table(make: Any, experiment: Experiment | None, *, sticky: bool = True) -> RoutingTable:
    table: RoutingTable = make.table(
        ("control", 1, 5_000),
        ("treatment", 2, 5_000),
        assignment=Assignment(header="x-user", salt="s", unassigned=1) if sticky else None,
    )
    return msgspec.structs.replace(table, experiment=experiment)


@pytest.fixture
def feedback(make: Any) -> Feedback:
    made = Feedback(issuer=1)
    made.follow(a_table(make, TEST))
    made.use(KEY)
    return made


def token(feedback: Feedback, subject: Subject = SUBJECT) -> str:
    made = feedback.token(subject)
    assert made
    return made.decode()


def take(feedback: Feedback, *entries: Any, now: float = 0.0) -> Receipt:
    return feedback.take(json.dumps(entries).encode(), now)


def reasons(receipt: Receipt) -> list[str]:
    return [one.reason for one in receipt.refused]


def sums(feedback: Feedback) -> dict[Series, Sums]:
    """Those that are not empty."""
    return {series: one for series, one in feedback.sums.items() if one != Sums()}


def test_each_metric_and_arm_has_an_anchor(make: Any, feedback: Feedback) -> None:
    assert set(feedback.sums) == {
        Series(metric, arm, version, "0")
        for metric in ("accuracy", "stars")
        for arm, version in (("control", 1), ("treatment", 2))
    }
    assert feedback.issued == {("control", 1): 0, ("treatment", 2): 0}
    feedback.follow(a_table(make, msgspec.structs.replace(TEST, uid="uid-2"), sticky=False))
    assert {series.bucket for series in feedback.sums} == {""}


def test_one_or_many_are_summed(feedback: Feedback) -> None:
    one = json.dumps({"token": token(feedback), "correct": True}).encode()
    assert feedback.take(one, 0.0) == Receipt(1, [])
    receipt = take(
        feedback,
        {"token": token(feedback), "correct": False},
        {"token": token(feedback), "value": -2.5},
        {"token": token(feedback), "value": 4, "metric": "stars", "comment": "good"},
    )
    assert receipt == Receipt(3, [])
    assert sums(feedback) == {
        Series("accuracy", "treatment", 2, "17"): Sums(count=2, pos=1.0, squares=1.0),
        Series("stars", "treatment", 2, "17"): Sums(count=2, pos=4.0, neg=2.5, squares=22.25),
    }
    assert feedback.outcomes == {"accepted": 4}
    assert feedback.issued["treatment", 2] == 4


def test_covariates_are_summed_beside(feedback: Feedback) -> None:
    for known, value in ((2.0, 3.0), (-1.0, 4.0), (-3.0, -1.0), (None, 5.0)):
        subject = SUBJECT._replace(covariate=known, bucket=None)
        assert take(feedback, {"token": token(feedback, subject), "value": value}).accepted
    assert sums(feedback)[Series("stars", "treatment", 2, "")] == Sums(
        count=4,
        pos=12.0,
        neg=1.0,
        squares=51.0,
        covariate_pos=2.0,
        covariate_neg=4.0,
        covariate_squares=14.0,
        cross_pos=9.0,
        cross_neg=4.0,
    )


def test_a_token_counts_once_for_each_metric(feedback: Feedback) -> None:
    mine = token(feedback)
    entries = [{"token": mine, "correct": True}, {"token": mine, "value": 1.0}]
    receipt = take(feedback, *entries, *entries)
    assert receipt.accepted == 2
    assert [(one.index, one.reason) for one in receipt.refused] == [(2, "used"), (3, "used")]


def test_a_token_of_any_pod_is_taken(make: Any, feedback: Feedback) -> None:
    other = Feedback(issuer=2)
    other.follow(a_table(make, TEST))
    other.use(KEY)
    mine, its = token(feedback), token(other)
    assert take(feedback, {"token": mine, "correct": True}, {"token": its, "correct": True})
    assert sums(feedback)[Series("accuracy", "treatment", 2, "17")].count == 2


def test_what_is_forgotten_is_refused(make: Any) -> None:
    feedback = Feedback(issuer=1, most_groups=2)
    feedback.follow(a_table(make, TEST))
    feedback.use(KEY)
    mine = [token(feedback) for _ in range(3 * 256)]
    for i in (0, 300, 600):
        assert take(feedback, {"token": mine[i], "correct": True}).accepted
    entries = [{"token": mine[i], "correct": True} for i in (0, 1, 301, 300, 601)]
    receipt = take(feedback, *entries)
    assert reasons(receipt) == ["old", "old", "used"]
    assert receipt.accepted == 2


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "malformed"),
        ({"correct": True}, "malformed"),
        ({"token": None, "correct": True}, "malformed"),
        ({"token": "mine"}, "malformed"),
        ({"token": "mine", "correct": 1}, "malformed"),
        ({"token": "mine", "correct": "true"}, "malformed"),
        ({"token": "mine", "correct": None}, "malformed"),
        ({"token": "mine", "value": True}, "malformed"),
        ({"token": "mine", "value": "0.5"}, "malformed"),
        ({"token": "mine", "value": [1.0]}, "malformed"),
        ({"token": "mine", "value": 1.0, "correct": True}, "malformed"),
        ({"token": "mine", "value": 1.0, "metric": "accuracy"}, "malformed"),
        ({"token": "mine", "correct": True, "metric": "stars"}, "malformed"),
        ({"token": "mine", "correct": True, "metric": 3}, "malformed"),
        ("mine", "malformed"),
        (None, "malformed"),
        ([[]], "malformed"),
        ({"token": "", "correct": True}, "forged"),
        ({"token": "A" * 80, "correct": True}, "forged"),
        ({"token": "\u00e4" * 80, "correct": True}, "forged"),
        ({"token": "mine", "value": 5.001}, "out_of_range"),
        ({"token": "mine", "value": -1e300}, "out_of_range"),
        ({"token": "mine", "correct": True, "metric": "speed"}, "unknown_metric"),
    ],
)
def test_what_does_not_fit_changes_no_sum(feedback: Feedback, entry: Any, reason: str) -> None:
    mine = token(feedback)
    text = json.dumps(entry).replace('"mine"', json.dumps(mine))
    receipt = feedback.take(f"[{text}]".encode(), 0.0)
    assert receipt.accepted == 0
    assert reasons(receipt) == [reason]
    assert sums(feedback) == {}
    assert feedback.outcomes == {reason: 1}
    # Its token is not used up.
    assert take(feedback, {"token": mine, "correct": True}).accepted == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "1e", "01"])
def test_numbers_that_are_none_are_refused(feedback: Feedback, number: str) -> None:
    body = f'{{"token": "{token(feedback)}", "value": {number}}}'.encode()
    with contextlib.suppress(Refusal):
        assert feedback.take(body, 0.0).accepted == 0
    assert sums(feedback) == {}
    assert sum(feedback.outcomes.values()) == 1


def test_a_value_that_would_drown_others_is_refused_whatever_the_range(make: Any) -> None:
    feedback = Feedback(issuer=1)
    feedback.follow(a_table(make, msgspec.structs.replace(TEST, outcomes=[PRICE])))
    feedback.use(KEY)
    entries = [{"token": token(feedback), "value": value} for value in (LARGEST, 2 * LARGEST)]
    assert reasons(take(feedback, *entries)) == ["out_of_range"]


def test_a_metric_must_be_named_where_several_fit(make: Any) -> None:
    feedback = Feedback(issuer=1)
    feedback.follow(a_table(make, msgspec.structs.replace(TEST, outcomes=[STARS, PRICE])))
    feedback.use(KEY)
    mine = token(feedback)
    receipt = take(
        feedback,
        {"token": mine, "value": 1.0},
        {"token": mine, "value": 1.0, "metric": "price"},
        {"token": mine, "correct": True},
    )
    assert reasons(receipt) == ["unknown_metric", "unknown_metric"]
    assert receipt.accepted == 1


def test_another_tests_token_is_told_from_a_forged_one(make: Any, feedback: Feedback) -> None:
    old = token(feedback)
    feedback.follow(a_table(make, msgspec.structs.replace(TEST, uid="uid-2")))
    assert reasons(take(feedback, {"token": old, "correct": True})) == ["other_test"]
    feedback.use(b"another key of 16 bytes")
    assert reasons(take(feedback, {"token": old, "correct": True})) == ["forged"]


def test_feedback_is_taken_until_the_test_says(make: Any, feedback: Feedback) -> None:
    mine = [token(feedback) for _ in range(2)]
    ended = msgspec.structs.replace(TEST, until=100.0)
    table = msgspec.structs.replace(make.table(revision=2), experiment=ended)
    feedback.follow(table)
    assert take(feedback, {"token": mine[0], "correct": True}, now=100.0).accepted == 1
    late = take(feedback, {"token": mine[1], "correct": True}, now=100.1)
    assert reasons(late) == ["late"]
    assert sums(feedback)[Series("accuracy", "treatment", 2, "17")].count == 1
    feedback.follow(make.table(revision=3))
    assert (feedback.sums, feedback.issued) == ({}, {})


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (b"", 400, "malformed"),
        (b"\xff", 400, "malformed"),
        (b"{", 400, "malformed"),
        (b"[", 400, "malformed"),
        (b"{}, {}", 400, "malformed"),
        (b"[" * 100_000, 400, "malformed"),
        (b"[%b1]" % (b"1," * MAX_ENTRIES), 413, "too_large"),
        (b" " * (MAX_BYTES + 1), 413, "too_large"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_as_a_whole(
    feedback: Feedback, body: bytes, status: int, outcome: str
) -> None:
    with pytest.raises(Refusal) as caught:
        feedback.take(body, 0.0)
    assert caught.value.status == status
    assert feedback.outcomes == {outcome: 1}


def test_without_a_test_or_its_key_nothing_is_taken_or_given(make: Any) -> None:
    feedback = Feedback(issuer=1)
    feedback.follow(a_table(make, TEST))
    assert feedback.token(SUBJECT) is None
    with pytest.raises(Refusal) as caught:
        take(feedback, {"token": "x", "correct": True})
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)
    feedback.use(KEY)
    feedback.follow(a_table(make, None))
    assert feedback.token(SUBJECT) is None
    with pytest.raises(Refusal) as caught:
        take(feedback, {"token": "x", "correct": True})
    assert caught.value.status == 409
    assert feedback.outcomes == {"no_key": 1, "no_test": 1}


@pytest.mark.parametrize(
    ("text", "known"),
    [("3.5", 3.5), (" -1e3 ", -1000.0), (None, None), ("", None), ("many", None)]
    + [(text, None) for text in ("nan", "inf", "-inf", "1e13", "1,5", "0x10")],
)
def test_a_covariate_is_a_number_that_can_be_summed(text: str | None, known: float | None) -> None:
    assert covariate(text) == known


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["mine", "accuracy", "stars"]),
)
ENTRIES = st.dictionaries(st.sampled_from(["token", "correct", "value", "metric", "x"]), VALUES)


@given(st.lists(st.lists(ENTRIES, max_size=4) | ENTRIES | st.binary(max_size=40), max_size=6))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_gets_one_answer_and_poisons_nothing(make: Any, bodies: list[Any]) -> None:
    feedback = Feedback(issuer=1)
    feedback.follow(a_table(make, TEST))
    feedback.use(KEY)
    accepted = answered = 0
    for body in bodies:
        mine = token(feedback)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            receipt = feedback.take(text.replace(b'"mine"', json.dumps(mine).encode()), 0.0)
        except Refusal:
            answered += 1
        else:
            accepted += receipt.accepted
            answered += receipt.accepted + len(receipt.refused)
            assert len({one.index for one in receipt.refused}) == len(receipt.refused)
    assert sum(feedback.outcomes.values()) == answered
    assert feedback.outcomes.get("accepted", 0) == accepted
    assert sum(one.count for one in feedback.sums.values()) == accepted
    for one in feedback.sums.values():
        values = [getattr(one, name) for name in Sums.__slots__]
        assert all(math.isfinite(value) and value >= 0 for value in values)
        assert max(one.pos, one.neg) <= 5.0 * one.count
