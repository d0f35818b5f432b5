"""The demo's story on real parts, undisturbed: every claim that it makes holds."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from tidegate_contract import names
from tidegate_demo.proof import checks
from tidegate_demo.story import Told
from tidegate_demo.world import World

pytestmark = pytest.mark.timeout(900)
"""The story has limits of its own, for each act; the first test waits for all of it."""
Telling = tuple[World, Told]
CLAIMS = [
    "version 2 won its test, which moved nothing",
    "the test measured what its users know",
    "every user in it stayed on one version",
    "every report of theirs was counted once",
    "version 2 was promoted",
    "its share grew step by step, as planned",
    "no sticky user was sent back while it grew",
    "copies disagreed as often as the versions do",
    "that was a dry run, and decided nothing",
    "version 3 was rolled back",
    "version 4 was refused before any weight",
    "every request was answered exactly once",
    "the stable arm never failed",
    "each answer is what its version says",
    "version 1 is as accurate as trained",
    "version 2 is as accurate as trained",
]


@pytest.fixture(scope="module")
def calm(tell: Callable[[], AbstractContextManager[Telling]]) -> Iterator[Telling]:
    with tell() as told:
        yield told


@pytest.mark.parametrize("claim", CLAIMS)
def test_claim(calm: Telling, claim: str) -> None:
    (check,) = [one for one in calm[1].checks if one.claim == claim]

    assert check.held, check.shown


def test_no_claim_goes_untested(calm: Telling) -> None:
    world, told = calm

    assert [one.claim for one in checks(told.seen, world.ledger, world.held_out)] == CLAIMS


def test_all_traffic_is_version_2s_in_the_end(calm: Telling) -> None:
    table = calm[0].cluster.table()

    assert [(arm.version, arm.weight) for arm in table.split if arm.weight] == [(2, 10_000)]
    assert table.owner is None


def test_the_winner_is_named_with_what_users_said_and_how_sure_that_is(calm: Telling) -> None:
    ending = calm[1].seen.test

    assert ending.metric("accuracy")["p"] <= ending.raw["spec"]["significanceLevel"]
    assert "version 1 gets all the traffic back" in ending.status["message"]
    assert ending.status["sampleRatio"]["verdict"] == "AsAsked"
    assert min(ending.status["samples"].values()) >= ending.raw["spec"]["minSamples"]


def test_a_person_sees_the_outcome_by_kubectl(calm: Telling) -> None:
    output = calm[0].cluster.kubectl("tidegate", "status", "digits", "--namespace=demo")

    assert "digits-1-vs-2: Finished · TreatmentWins" in output
    assert "digits-3: RolledBack" in output


def test_the_broken_version_is_named_with_what_it_did(calm: Telling) -> None:
    status = calm[1].seen.broken.status

    assert "Fail" in {metric["verdict"] for metric in status["metrics"]}
    assert "allowed" in status["message"]


def test_its_policy_is_tuned_on_the_real_thing(calm: Telling, tmp_path: Path) -> None:
    world, _ = calm
    cluster = world.cluster
    spec = {"models": ["digits"], "maxWait": "3ms"}
    policy = {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": "BatchPolicy",
        "metadata": {"name": "digits", "namespace": "demo"},
        "spec": spec,
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    address = world.sidecars()[0].removeprefix("http://").partition(":")[0]
    written = tmp_path / "policy.yaml"
    told = cluster.kubectl(
        *("tidegate", "tune", "digits", "--namespace=demo", "--policy=digits"),
        *(f"--url={address}:{names.PORT_HTTP}", "--trials=3", "--rate=40"),
        *("--seconds=1", f"--journal={tmp_path / 'journal'}", f"--output={written}"),
    )

    assert "default policy" in told
    found = yaml.safe_load(written.read_text())
    assert found["spec"]["models"] == ["digits"]
    cluster.kubectl("apply", "--dry-run=server", "--namespace=demo", "-f", str(written))
    kept = json.loads(cluster.kubectl("get", "bpol", "digits", "-n", "demo", "-o", "json"))["spec"]
    assert kept["maxWait"] == "3ms"
    assert "maxBatchSize" not in kept
