"""The routing table: what is written is read back, what breaks a rule is refused by its name."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_contract import table as contract
from tidegate_contract.table import (
    Arm,
    Assignment,
    BatchSettings,
    ErrorCheck,
    Latch,
    LoadedVersion,
    Owner,
    RoutingTable,
    Share,
    SlowCheck,
    TableError,
)


def table(**changes: Any) -> RoutingTable:
    plain = RoutingTable(
        namespace="default",
        model="digits",
        revision=3,
        split_revision=2,
        split=[
            Arm(name="stable", version=1, weight=9_500),
            Arm(name="canary", version=2, weight=500),
        ],
        versions=[LoadedVersion(version=1), LoadedVersion(version=2, pods=["a"])],
        baseline=[Share(version=1, weight=10_000)],
        claims={1: 100},
    )
    return msgspec.structs.replace(plain, **changes)


FULL = table(
    owner=Owner(kind="CanaryRollout", name="r", uid="u"),
    latch=Latch(uid="u", reason="errors", cause="AnalysisFailed"),
    assignment=Assignment(header="x-user", salt="u"),
    checks=[
        ErrorCheck(id="errors/rollback@1", arms=["stable", "canary"]),
        SlowCheck(id="slow/success@2", bounds={"stable": 0.1, "canary": 0.1}, priorities=[1, 2]),
    ],
    batch=BatchSettings(max_batch_size=8, max_wait=0.005, queue_max_size=10),
)


def test_a_latch_of_an_operator_that_wrote_no_cause_is_read() -> None:
    text = contract.encode(FULL)[0].replace(',\n    "cause": "AnalysisFailed"', "")
    assert "cause" not in text
    read = contract.decode(text, hashlib.sha256(text.encode()).hexdigest())
    assert read.latch == Latch(uid="u", reason="errors")


@pytest.mark.parametrize("one", [table(), FULL])
def test_what_is_written_is_read_back(one: RoutingTable) -> None:
    assert contract.decode(*contract.encode(one)) == one


def test_a_table_is_written_for_people_and_the_digest_is_sha256_of_that_text() -> None:
    text, digest = contract.encode(FULL)
    assert '\n  "splitRevision": 2' in text
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@given(st.data())
def test_any_hand_edit_of_the_text_is_noticed(data: st.DataObject) -> None:
    text, digest = contract.encode(FULL)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda c: c != text[at]))
    with pytest.raises(TableError, match="digest"):
        contract.decode(text[:at] + other + text[at + 1 :], digest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
)


@given(JSON | st.text())
def test_rubbish_with_a_fitting_digest_is_refused(rubbish: Any) -> None:
    text = rubbish if isinstance(rubbish, str) else json.dumps(rubbish)
    with pytest.raises(TableError):
        contract.decode(text, digest(text))


@given(st.sampled_from(sorted(json.loads(contract.encode(FULL)[0]))), JSON)
def test_no_field_takes_rubbish_silently(field: str, rubbish: Any) -> None:
    content = json.loads(contract.encode(FULL)[0])
    text = json.dumps({**content, field: rubbish})
    try:
        read = contract.decode(text, digest(text))
    except TableError:
        return
    contract.check(read)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"schema": 2}, "schema 2"),
        ({"split": [Arm(name="stable", version=1, weight=9_999)]}, "split's weights"),
        ({"split": []}, "split's weights"),
        (
            {
                "split": [
                    Arm(name="stable", version=1, weight=10_001),
                    Arm(name="canary", version=2, weight=-1),
                ]
            },
            "split's weights",
        ),
        ({"baseline": [Share(version=1, weight=1)]}, "baseline's weights"),
        ({"baseline": []}, "baseline's weights"),
        ({"split": [Arm(name="stable", version=7, weight=10_000)]}, "version 7, which is not"),
        ({"split": [Arm(name="stable", version=1, weight=5_000)] * 2}, "in the split twice"),
        ({"checks": [ErrorCheck(id="a", arms=[]), ErrorCheck(id="a", arms=[])]}, "one id"),
    ],
)
def test_each_rule_is_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        contract.decode(*contract.encode(table(**changes)))


def test_the_default_version_is_the_largest_of_stable() -> None:
    split = [
        Arm(name="stable", version=1, weight=1_000),
        Arm(name="stable", version=3, weight=2_000),
        Arm(name="canary", version=2, weight=7_000),
    ]
    assert table(split=split).default_version == 3
    assert table(split=[Arm(name="canary", version=2, weight=10_000)]).default_version == 2


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
