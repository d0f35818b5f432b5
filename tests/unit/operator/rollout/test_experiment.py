"""A test's states, one look at a time, on a model whose writes all succeed at once."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from experiments import ERRORS, LATENCY, NOW, ab_test, sample

from tidegate_contract.acknowledgement import Acknowledgement, Tensor, UserSample, VersionState
from tidegate_contract.table import Latch, Owner, RoutingTable
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import Metadata, convert, wire
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.api.quantity import timestamp
from tidegate_operator.evidence import gathered
from tidegate_operator.evidence.counters import Counts, Series
from tidegate_operator.evidence.queries import Answer, NoValue, QueryError, Value
from tidegate_operator.rollout.experiment_state import Settling
from tidegate_operator.rollout.model import Plan, decide
from tidegate_operator.rollout.observation import (
    Before,
    Observation,
    Pod,
    Reading,
    StoredTable,
    Unreadable,
)

CELLS = 16
"""Buckets that these users fall into."""
TENSOR = Tensor(name="INPUT", datatype="FP32", shape=[64])
FAST = Before(latency={1: ((0.05, 900.0), (0.1, 1000.0), (float("inf"), 1000.0))})


def version(number: int, **spec: Any) -> ModelVersion:
    meta = Metadata(name=f"digits-{number}", namespace="default", uid=f"uid-{number}")
    whole = {"model": "digits", "version": number, **spec}
    return convert({"metadata": wire(meta), "spec": whole}, ModelVersion)


@dataclass
class Bench:
    """One model with two pods; time passes in steps of ten seconds, a look in each.

    ``rates``: by arm, (requests, errors, outcomes, right ones) of all pods in ten seconds.
    """

    test: ABTest | None
    now: float = NOW
    versions: list[ModelVersion] = field(
        default_factory=lambda: [version(1, lifecycle="Active", trafficPercent=100), version(2)]
    )
    rollouts: tuple[CanaryRollout, ...] = ()
    stored: StoredTable | None = None
    acked: int = 2
    asked: int = 2
    heard: int = 2
    unreadable: str = ""
    before: Before | None = None
    busy: Owner | None = None
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    last_look: float | None = None
    remembers: bool = True
    loaded: set[int] = field(default_factory=lambda: {1, 2})
    tensors: dict[int, list[Tensor]] = field(default_factory=dict)
    users: UserSample | None = None
    rates: dict[str, tuple[int, int, int, int]] = field(
        default_factory=lambda: dict.fromkeys(("control", "treatment"), (640, 0, 640, 512))
    )
    events: list[tuple[str, str]] = field(default_factory=list)
    tables: list[RoutingTable] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    urgent: int = 0
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    _samples: dict[tuple[str, str, str, Counts, str], list[tuple[float, float]]] = field(
        default_factory=dict
    )

    # What a user does.

    def edit(self, **spec: Any) -> None:
        assert self.test is not None
        self.test = msgspec.structs.replace(
            self.test, spec=msgspec.structs.replace(self.test.spec, **spec)
        )

    def annotate(self, **words: str) -> None:
        assert self.test is not None
        known = {f"tidegate.dev/{word}": value for word, value in words.items()}
        meta = msgspec.structs.replace(self.test.metadata, annotations=known)
        self.test = msgspec.structs.replace(self.test, metadata=meta)

    # What time does.

    def run(self, looks: int) -> "Bench":
        for _ in range(looks):
            self.look()
        return self

    def looks(self, most: int) -> Iterator[Plan]:
        for _ in range(most):
            yield self.look()

    def run_to(self, *phases: str, within: int = 200) -> "Bench":
        for _ in range(within):
            if self.phase in phases:
                return self
            self.look()
        raise AssertionError(f"{self.phase}: {self.status.message}")

    def look(self) -> Plan:
        self.now += 10.0
        self._count()
        seen = self._observation()
        plan = decide(seen, self.states if self.remembers else {})
        self.plans.append(plan)
        self.last_look = self.now
        self.states = dict(plan.states)
        for write in plan.statuses:
            if write.kind == "ABTest" and self.test is not None:
                self.events += [(one.reason, one.message) for one in write.events]
                self.urgent += write.urgent
                written = msgspec.to_builtins(self.test) | {"metadata": wire(self.test.metadata)}
                written["spec"] = wire(self.test.spec)
                self.test = convert({**written, "status": write.after}, ABTest)
        if plan.table is not None:
            self.tables.append(plan.table)
            self.stored = StoredTable(uid="uid-table", resource_version="1", table=plan.table)
        return plan

    @property
    def status(self) -> Any:
        assert self.test is not None
        return self.test.status

    @property
    def phase(self) -> str:
        phase: str = self.status.phase
        return phase

    @property
    def split(self) -> list[tuple[str, int, int]]:
        return [(arm.name, arm.version, arm.weight // 100) for arm in self.tables[-1].split]

    @property
    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events]

    def condition(self, type_: str) -> str:
        found: str = next(one.status for one in self.status.conditions if one.type == type_)
        return found

    def _count(self) -> None:
        """What a scrape of the pods says now."""
        table = self.stored.table if self.stored else None
        if self.test is None or table is None:
            return
        splitting = {arm.name for arm in table.split} >= {"control", "treatment"}
        for number, (arm, rates) in itertools.product(range(self.heard), self.rates.items()):
            requests, errors, outcomes, right = rates
            for check in table.checks if splitting else []:
                for kind, amount in (("requests", requests), ("bad", errors)):
                    parts = [amount // CELLS + (i < amount % CELLS) for i in range(CELLS)]
                    self._rise(number, arm, check.id, kind, parts)
            right = self._random.binomial(outcomes // CELLS, right / outcomes, CELLS)
            for metric in self.test.spec.outcomes if table.experiment else []:
                self._rise(number, arm, metric.name, "count", np.full(CELLS, outcomes / CELLS))
                self._rise(number, arm, metric.name, "pos", right)
                self._rise(number, arm, metric.name, "squares", right)

    def _rise(self, number: int, arm: str, name: str, kind: Counts, parts: Any) -> None:
        for bucket in range(CELLS):
            key = (f"pod-{number}", arm, name, kind, str(bucket))
            samples = self._samples.setdefault(key, [(self.now - 10.0, 0.0)])
            samples.append((self.now - 1.0, samples[-1][1] + float(parts[bucket])))

    def _observation(self) -> Observation:
        reading: Reading | Unreadable | None = None
        if self.unreadable:
            reading = Unreadable(self.unreadable)
        else:
            series = [
                Series(pod, arm, name, kind, *zip(*samples, strict=True), bucket)
                for (pod, arm, name, kind, bucket), samples in self._samples.items()
            ]
            reading = Reading(self.now, tuple(series))
        return Observation(
            now=self.now,
            namespace="default",
            model="digits",
            versions=tuple(self.versions),
            rollouts=self.rollouts,
            tests=(self.test,) if self.test else (),
            stored=self.stored,
            last_table=self.stored.table if self.stored else None,
            pods=tuple(self._pod(number) for number in range(2)),
            reading=reading,
            before=self.before,
            busy=self.busy,
            answers=self.answers,
            last_look=self.last_look,
            scrape_interval=10.0,
        )

    def _pod(self, number: int) -> Pod:
        table = self.stored.table if self.stored else None
        versions = {
            one: VersionState(
                state="Ready", inputs=self.tensors.get(one, [TENSOR]), outputs=[TENSOR]
            )
            for one in self.loaded
        }
        revision = table.revision if table and number < self.acked else 0
        ack = Acknowledgement(
            table_uid="uid-table", revision=revision, versions=versions, users=self.users
        )
        return Pod(name=f"pod-{number}", uid=f"uid-{number}", ready=number < self.asked, ack=ack)


def bench(**spec: Any) -> Bench:
    metric = {"name": "accuracy", "feedback": {"kind": "Binary"}}
    made = Bench(ab_test(**{"minSamples": 1000, "successMetrics": [metric], **spec}))
    made.users = sample(range(0, 4000, 2), range(1, 4000, 2))
    return made.run(1)


def better(made: Bench) -> Bench:
    made.rates["treatment"] = (640, 0, 640, 576)
    return made


def test_a_test_gets_its_split_once_the_treatment_is_loaded_everywhere() -> None:
    made = bench()
    made.loaded = {1}
    made.run(3)
    assert made.phase == "Gating"
    assert made.status.reason == "Loading"
    assert made.split == [("stable", 1, 100)]
    made.loaded = {1, 2}
    made.run(2)
    assert made.phase == "Running"
    assert made.split == [("control", 1, 50), ("treatment", 2, 50)]
    table = made.tables[-1]
    assert table.assignment is not None
    assert (table.assignment.salt, table.assignment.unassigned) == ("uid-test", 1)
    assert table.experiment is not None
    assert [one.name for one in table.experiment.outcomes] == ["accuracy"]
    assert table.owner is not None
    assert table.owner.kind == "ABTest"
    assert made.plans[-1].secrets == ["tidegate-feedback-digits"]
    assert made.reasons == ["TestStarted"]
    assert made.condition("Reconciling") == "True"
    assert made.condition("Ready") == "False"
    assert made.condition("Promoted") == "Unknown"


def test_a_winner_is_promoted_where_the_user_says_so() -> None:
    made = better(bench(onFinish="PromoteWinner")).run_to("Finished")
    assert made.status.verdict == "TreatmentWins"
    assert made.split == [("stable", 2, 100)]
    assert [(one.version, one.weight) for one in made.tables[-1].baseline] == [(2, 10_000)]
    assert [table.owner is None for table in made.tables[-2:]] == [False, True]
    made.run(2)
    assert made.split == [("stable", 2, 100)]
    assert made.condition("Ready") == made.condition("Promoted") == "True"
    assert made.condition("Stalled") == "False"
    assert made.reasons == ["TestStarted", "TestFinished"]
    assert "accuracy is better with the treatment" in made.status.message
    assert made.status.message.endswith("version 2 gets all the traffic")
    assert 0.05 < float(made.status.display["lift"].strip("+%")) / 100 < 0.2


def test_a_promotion_is_in_the_status_before_it_is_in_the_table() -> None:
    made = better(bench(onFinish="PromoteWinner"))
    promoted = [("stable", 2, 100)]
    plan = next(plan for plan in made.looks(50) if plan.table and made.split == promoted)
    assert isinstance(plan.states["uid-test"], Settling)
    assert not plan.table_first


@pytest.mark.parametrize("share", [576, 512, 448])
def test_control_gets_the_traffic_back_by_default(share: int) -> None:
    made = bench(duration="3m")
    made.rates["treatment"] = (640, 0, 640, share)
    made.run_to("Finished").run(1)
    verdict = {576: "TreatmentWins", 512: "Inconclusive", 448: "ControlWins"}[share]
    assert made.status.verdict == verdict
    assert made.split == [("stable", 1, 100)]
    assert made.condition("Promoted") == "False"


def test_no_difference_ends_a_test_early() -> None:
    metric = {"name": "accuracy", "feedback": {"kind": "Binary", "minEffect": 0.1}}
    made = bench(duration="10h", successMetrics=[metric]).run_to("Finished")
    assert made.status.verdict == "NoDifference"


def test_without_stop_early_the_time_is_waited_for() -> None:
    made = better(bench(stopEarly=False, duration="10m"))
    made.run(40)
    assert made.phase == "Running"
    assert "TreatmentWins so far; ends after 10m in all" in made.status.message
    made.run_to("Finished")
    assert made.status.verdict == "TreatmentWins"
    assert made.status.elapsed == pytest.approx(600, abs=10)


def test_hold_keeps_the_split_and_the_model_until_the_test_is_deleted() -> None:
    made = better(bench(onFinish="Hold")).run_to("Finished").run(5)
    assert made.split == [("control", 1, 50), ("treatment", 2, 50)]
    assert made.tables[-1].owner is not None
    assert made.tables[-1].experiment is None
    assert "keeps 50% and the test keeps the model, as onFinish is Hold" in made.status.message
    made.test = None
    made.run(1)
    assert made.split == [("stable", 1, 100)]
    assert made.tables[-1].owner is None


@pytest.mark.parametrize(("edited", "version"), [("RevertToControl", 1), ("PromoteWinner", 2)])
def test_what_is_held_is_given_up_once_the_user_says_otherwise(edited: str, version: int) -> None:
    made = better(bench(onFinish="Hold")).run_to("Finished")
    made.edit(on_finish=edited)
    made.run(3)
    assert made.phase == "Finished"
    assert made.split == [("stable", version, 100)]
    assert made.tables[-1].owner is None


def test_a_finished_test_takes_nothing_back_up_when_it_is_edited() -> None:
    made = better(bench()).run_to("Finished").run(2)
    made.edit(on_finish="Hold")
    made.run(3)
    assert made.split == [("stable", 1, 100)]


def test_harm_ends_a_test_at_once_table_first_and_latched() -> None:
    made = better(bench(guardrails=[ERRORS], onFinish="Hold", stopEarly=False)).run(8)
    made.rates["treatment"] = (640, 64, 640, 640)
    plan = next(plan for plan in made.looks(20) if plan.table and plan.table.latch)
    assert plan.table_first
    assert made.split == [("stable", 1, 100)]
    made.run(1)
    assert made.phase == "Stopped"
    assert made.status.verdict == "GuardrailFailed"
    assert made.status.message.startswith("GuardrailFailed: errors: ")
    assert made.condition("Stalled") == "True"
    assert made.condition("Ready") == "False"
    assert made.reasons[-1] == "TestFinished"
    assert made.plans[-1].states["uid-test"].reason == "GuardrailFailed"


def test_an_end_that_only_the_table_knows_of_is_taken_up_again() -> None:
    """Killed after the table was written, before the status was."""
    made = bench(guardrails=[ERRORS]).run(8)
    made.rates["treatment"] = (640, 64, 640, 512)
    before = [made.test]
    for plan in made.looks(20):
        if plan.table and plan.table.latch:
            break
        before.append(made.test)
    made.test, made.states = before[-1], {}
    assert made.phase == "Running"
    made.rates["treatment"] = (640, 0, 640, 512)
    made.run(2)
    assert made.phase == "Stopped"
    assert made.status.verdict == "GuardrailFailed"
    assert made.split == [("stable", 1, 100)]


def test_a_latch_that_somebody_wrote_by_hand_is_an_abort() -> None:
    made = bench(stopEarly=False).run(8)
    assert made.stored is not None
    assert made.stored.table is not None
    latch = Latch(uid="uid-test", reason="I did it")
    table = msgspec.structs.replace(made.stored.table, latch=latch)
    made.stored = replace(made.stored, table=table)
    made.run(3)
    assert (made.phase, made.status.reason, made.status.message) == (
        "Stopped",
        "Aborted",
        "I did it",
    )
    assert made.split == [("stable", 1, 100)]


def test_lost_users_stop_a_test() -> None:
    made = bench()
    made.users = sample(range(0, 1000, 2), range(1, 1000, 2))
    made.run(8)
    assert made.status.sample_ratio.verdict == "AsAsked"
    made.users = sample(range(0, 4000, 2), range(1, 2400, 2))
    made.run(2)
    assert made.phase == "Stopped"
    assert made.status.verdict == "SampleRatioMismatch"
    assert made.status.sample_ratio.verdict == "Mismatch"
    assert made.split == [("stable", 1, 100)]


def test_an_abort_is_acted_on_once() -> None:
    made = bench().run(8)
    made.annotate(abort="changed our minds")
    made.run(1)
    assert made.status.last_verb == "abort=changed our minds"
    assert made.split == [("stable", 1, 100)]
    removal = made.look().removals[0]
    assert (removal.kind, removal.value) == ("ABTest", "changed our minds")
    assert made.phase == "Stopped"
    assert made.status.reason == "Aborted"
    assert "changed our minds" in made.status.message
    made.annotate()
    made.run(1)
    assert made.status.last_verb is None
    assert made.reasons.count("TestFinished") == 1


def test_other_words_mean_nothing_to_a_test() -> None:
    made = bench().run(4)
    made.annotate(promote="full")
    made.run(2)
    assert made.phase == "Running"
    assert made.reasons.count("VerbIgnored") == 1


@pytest.mark.parametrize("phase", ["Waiting", "Gating"])
def test_an_abort_before_the_start_moves_nothing(phase: str) -> None:
    made = bench(startTime=timestamp(NOW + 1000) if phase == "Waiting" else None)
    made.loaded = {1}
    made.run(2)
    assert made.phase == phase
    made.annotate(abort="")
    made.run(2)
    assert made.phase == "Stopped"
    assert "no reason given; no traffic was moved" in made.status.message
    assert all(arm.name == "stable" for table in made.tables for arm in table.split)


def test_start_and_end_times_are_kept() -> None:
    made = bench(
        duration=None,
        startTime=timestamp(NOW + 300),
        endTime=timestamp(NOW + 600),
        stopEarly=False,
    )
    made.run(20)
    assert made.phase == "Waiting"
    assert made.status.message.startswith("Starts at ")
    made.run_to("Running")
    assert made.now == pytest.approx(NOW + 310, abs=20)
    made.run_to("Finished")
    assert made.now == pytest.approx(NOW + 620, abs=20)


def test_a_start_put_off_while_the_treatment_loads_is_waited_for() -> None:
    made = bench()
    made.loaded = {1}
    made.run_to("Gating")
    made.edit(start_time=timestamp(made.now + 300))
    made.loaded = {1, 2}
    made.run(20)
    assert (made.phase, made.status.reason) == ("Waiting", "NotYet")
    assert all(arm.name == "stable" for table in made.tables for arm in table.split)
    made.run_to("Running")


def test_a_test_whose_end_has_passed_never_starts() -> None:
    made = bench(duration=None, endTime=timestamp(NOW - 1)).run(1)
    assert made.phase == "Failed"
    assert made.status.reason == "EndTimePassed"
    assert made.condition("Stalled") == "True"
    assert made.split == [("stable", 1, 100)]


def test_a_test_whose_end_passes_while_its_version_loads_never_starts() -> None:
    made = bench(duration=None, endTime=timestamp(NOW + 300))
    made.loaded = {1}
    made.run(40)
    assert (made.phase, made.status.reason) == ("Failed", "EndTimePassed")
    made.loaded = {1, 2}
    made.run(3)
    assert all(arm.name == "stable" for table in made.tables for arm in table.split)


def test_late_outcomes_count_after_the_end() -> None:
    made = bench(duration="2m", feedbackDelay="3m", stopEarly=False)
    tables = (plan.table.experiment for plan in made.looks(40) if plan.table)
    last = next(one for one in tables if one is not None and one.until is not None)
    ended = made.now
    assert last.until == ended + 180
    assert made.split == [("stable", 1, 100)]
    assert made.tables[-1].owner is not None
    outcomes = made.status.metrics[0]
    better(made)
    made.run(10)
    assert made.phase == "Running"
    assert "late outcomes count until" in made.status.message
    assert made.status.metrics[0].treatment > outcomes.treatment
    made.run_to("Finished")
    assert made.now >= ended + 180 + 20, "the last of them have been scraped"
    assert made.status.verdict == "TreatmentWins"


def test_a_test_waits_for_what_is_not_declared() -> None:
    made = bench(treatmentVersion=3)
    assert made.phase == "Pending"
    assert made.status.message == "No ModelVersion declares version 3 of digits; apply one"
    made.versions.append(version(3, lifecycle="Inactive"))
    made.run(1)
    assert made.status.reason == "VersionNotEligible"


def test_a_test_waits_for_control_to_hold_all_the_traffic() -> None:
    made = Bench(ab_test(controlVersion=2, treatmentVersion=1)).run(2)
    assert made.phase == "Waiting"
    assert made.status.reason == "AmbiguousBaseline"
    assert made.status.message == "Starts when version 2 holds all the traffic; now 1: 100%"


def test_a_rollout_and_a_test_take_turns() -> None:
    meta = Metadata(
        name="rollout",
        namespace="default",
        uid="uid-rollout",
        creation_timestamp=timestamp(NOW - 10_000),
    )
    spec = {"model": "digits", "canaryVersion": 2}
    rollout = convert({"metadata": wire(meta), "spec": spec}, CanaryRollout)
    made = Bench(ab_test())
    made.test = msgspec.structs.replace(
        made.test,
        metadata=msgspec.structs.replace(
            made.test.metadata, creation_timestamp=timestamp(NOW - 5_000)
        ),
    )
    made.rollouts = (rollout,)
    made.run(2)
    assert made.phase == "Waiting"
    assert made.status.message == (
        "Waits for CanaryRollout rollout, which owns the traffic of digits; starts when it is "
        "finished or deleted"
    )
    assert made.reasons == ["WaitingForOwner"]
    made.rollouts = ()
    made.states = {}
    made.run(3)
    assert made.phase == "Running"


def test_a_test_waits_while_another_model_moves_in_the_same_pods() -> None:
    made = Bench(ab_test(), busy=Owner(kind="CanaryRollout", name="other", uid="uid-other"))
    made.run(3)
    assert (made.phase, made.status.reason) == ("Waiting", "WaitingForOwner")
    assert "CanaryRollout other" in made.status.message
    made.busy = None
    made.run_to("Running", within=5)


def test_suspended_before_its_start_a_test_does_not_queue() -> None:
    made = bench(suspend=True).run(2)
    assert made.phase == "Waiting"
    assert made.status.reason == "Suspended"
    made.edit(suspend=False)
    made.run_to("Running")


def test_suspended_it_keeps_its_split_and_counts_nothing() -> None:
    made = bench(stopEarly=False).run(12)
    counted, elapsed = rated(made), made.status.elapsed
    made.edit(suspend=True)
    made.run(10)
    assert made.phase == "Holding"
    assert made.status.reason == "Suspended"
    assert made.condition("Paused") == "True"
    assert made.split == [("control", 1, 50), ("treatment", 2, 50)]
    assert rated(made) == counted
    made.edit(suspend=False)
    made.run(5)
    assert made.phase == "Running"
    assert rated(made) == counted + 5 * 2 * 2 * 640
    assert made.status.elapsed == elapsed + 40
    assert made.reasons == ["TestStarted", "RolloutPaused", "RolloutResumed"]


def rated(made: Bench) -> float:
    """Outcomes that count."""
    evidence = made.states["uid-test"].run.evidence
    return float(gathered.outcomes(evidence, "accuracy")[:, :, 0].sum())


def test_suspended_it_still_ends_for_harm() -> None:
    made = bench(guardrails=[ERRORS]).run(8)
    made.edit(suspend=True)
    made.rates["treatment"] = (640, 100, 640, 512)
    made.run_to("Stopped")
    assert made.status.verdict == "GuardrailFailed"


@pytest.mark.parametrize(
    ("trouble", "reason", "words"),
    [
        ({"unreadable": "no answer"}, "Error", "cannot be read (no answer); resumes when"),
        ({"heard": 1}, "NoData", "no samples of pod pod-1 since"),
        ({"asked": 0}, "NoReadyPods", "None of the 2 pods of digits is Ready"),
    ],
)
def test_missing_evidence_holds_and_is_never_counted_as_time(
    trouble: dict[str, Any], reason: str, words: str
) -> None:
    made = bench(stopEarly=False, duration="5m").run(12)
    before = made.status.elapsed
    healthy = {name: getattr(made, name) for name in trouble}
    for name, value in trouble.items():
        setattr(made, name, value)
    made.run(30)
    assert made.phase == "Holding"
    assert made.status.reason == reason
    assert words in made.status.message
    assert made.status.message.startswith("Holding: ")
    assert made.split == [("control", 1, 50), ("treatment", 2, 50)]
    for name, value in healthy.items():
        setattr(made, name, value)
    made.run(2)
    assert made.phase == "Running"
    assert made.status.elapsed <= before + 60
    assert [one for one in made.reasons if "Rollout" in one] == ["RolloutHeld", "RolloutResumed"]
    made.run_to("Finished")


def test_what_came_in_while_prometheus_was_away_counts_once_it_is_back() -> None:
    """Outcomes are compared, not timed: what counters hold is no worse for being read late."""
    made, other = bench(stopEarly=False, duration="5m"), bench(stopEarly=False, duration="5m")
    made.run(12)
    other.run(12)
    made.unreadable = "refused"
    made.run(6)
    made.unreadable = ""
    made.run(1)
    other.run(7)
    keys = ("outcomes", "requests", "heard", "cursors")
    for key in keys:
        assert getattr(made.states["uid-test"].run.evidence, key) == getattr(
            other.states["uid-test"].run.evidence, key
        )


def test_pods_that_do_not_acknowledge_hold_the_start() -> None:
    made = bench()
    made.acked = 1
    made.run_to("Holding")
    assert made.status.reason == "NotAcknowledged"
    assert "pod-1 did not apply the weight within 1m" in made.status.message
    made.acked = 2
    made.run(2)
    assert made.phase == "Running"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NoValue(NOW, "gives no series"), "NoData"),
        (QueryError(NOW, "it is refused: parse error"), "Error"),
    ],
)
def test_the_users_own_queries_hold_a_test_while_they_give_no_number(
    answer: Answer, reason: str
) -> None:
    queries = {"successes": "orders", "total": "visits"}
    made = bench(successMetrics=[{"name": "orders", "prometheus": queries}])
    names = [f"orders/{a}/{p}" for a in ("control", "treatment") for p in ("total", "successes")]
    made.answers = {("uid-test", name): Value(NOW, 5.0) for name in names}
    made.run(6)
    assert made.phase == "Running"
    assert made.plans[-1].secrets == []
    assert made.tables[-1].experiment is None
    made.answers["uid-test", "orders/control/total"] = answer
    made.run(2)
    assert made.phase == "Holding"
    assert made.status.reason == reason
    assert "orders/control/total" in made.status.message


def test_a_test_of_the_users_own_counters_ends_though_no_arm_is_counted_any_more() -> None:
    queries = {"successes": "orders", "total": "visits"}
    metric = {"name": "orders", "prometheus": queries}
    made = bench(
        successMetrics=[metric], duration="2m", feedbackDelay="3m", stopEarly=False, guardrails=None
    )
    names = [f"orders/{a}/{p}" for a in ("control", "treatment") for p in ("total", "successes")]
    made.answers = {("uid-test", name): Value(NOW, 5.0) for name in names}
    made.run_to("Finished", within=60)
    assert "RolloutHeld" not in made.reasons


def test_the_users_own_counters_begin_after_the_warm_up() -> None:
    queries = {"successes": "orders", "total": "visits"}
    made = bench(successMetrics=[{"name": "orders", "prometheus": queries}])
    names = [f"orders/{a}/{p}" for a in ("control", "treatment") for p in ("total", "successes")]
    made.answers = {("uid-test", name): NoValue(NOW, "no series") for name in names}
    made.run_to("Running")
    live = next(made.now for _ in range(9) if made.look() and started_at(made) is not None)
    while made.now < live + 20:
        made.look()
        assert made.phase == "Running", "nothing needs to be there yet"
    made.answers = {("uid-test", name): Value(NOW, 100.0) for name in names}
    made.run(1)
    for value in (150.0, 170.0):
        made.answers = {("uid-test", name): Value(NOW, value) for name in names}
        made.run(1)
    risen = made.states["uid-test"].run.evidence.queried
    assert risen == {name: [170.0, 70.0] for name in names}


def started_at(made: Bench) -> float | None:
    """When the split was live."""
    found: float | None = made.states["uid-test"].run.evidence.live_since
    return found


def test_latency_guardrails_wait_until_control_is_known() -> None:
    made = bench(guardrails=[LATENCY]).run(4)
    assert made.phase == "Gating"
    assert made.status.reason == "NoData"
    made.before = FAST
    made.run(2)
    assert made.phase == "Running"
    slow = made.tables[-1].checks[-1]
    assert slow.bounds["control"] == pytest.approx(0.075)  # type: ignore[union-attr]
    assert slow.bounds["treatment"] == pytest.approx(0.09)  # type: ignore[union-attr]


def test_a_guardrail_that_cannot_be_judged_is_told_from_the_start_and_promotes_nobody() -> None:
    made = better(bench(guardrails=[LATENCY], onFinish="PromoteWinner", duration="5m"))
    made.before = Before()
    made.run(10)
    words = "the treatment cannot win, as nobody can judge latency; ends after 5m in all"
    assert words in made.status.message
    made.run_to("Finished").run(1)
    assert made.status.verdict == "Inconclusive"
    assert made.split == [("stable", 1, 100)]


def test_versions_that_do_not_fit_each_other_are_not_tested() -> None:
    made = Bench(ab_test(), tensors={2: [msgspec.structs.replace(TENSOR, datatype="INT8")]})
    made.run_to("Failed")
    assert made.status.reason == "Incompatible"
    assert "INT8[64], not FP32[64]" in made.status.message
    assert made.reasons == ["Incompatible"]
    assert all(arm.name == "stable" for table in made.tables for arm in table.split)


def test_a_version_that_never_loads_fails_the_test() -> None:
    made = Bench(ab_test(), loaded={1}).run_to("Failed")
    assert made.status.reason == "GatingDeadlineExceeded"
    assert made.now <= NOW + 950


def test_a_lost_table_is_written_as_it_was() -> None:
    """Nobody remembers it, and the versions' statuses say how the test has split the traffic."""
    made = bench(stopEarly=False).run(10)
    split, baseline = made.split, made.tables[-1].baseline
    for one, percent in zip(made.versions, (50, 50), strict=True):
        status = msgspec.structs.replace(one.status, traffic_percent=percent)
        made.versions[one.spec.version - 1] = msgspec.structs.replace(one, status=status)
    made.stored, made.states = None, {}
    made.run(1)
    assert made.tables[-1].baseline == baseline
    assert made.split == split


def test_deleting_an_unfinished_test_returns_to_the_baseline() -> None:
    made = bench().run(5)
    made.test = None
    made.run(1)
    assert made.split == [("stable", 1, 100)]
    assert made.tables[-1].experiment is None
    assert made.tables[-1].assignment is None


def test_progress_alone_is_no_reason_to_write_a_status() -> None:
    made = bench(stopEarly=False).run(15)
    urgent = made.urgent
    made.run(20)
    assert made.urgent == urgent


def test_an_operator_that_remembers_nothing_decides_the_same() -> None:
    """Every state can be rebuilt from the status, as a whole and at any time."""
    made, other = (better(bench(guardrails=[ERRORS], onFinish="PromoteWinner")) for _ in range(2))
    other.remembers = False
    for _ in range(40):
        made.look()
        other.look()
        assert made.test == other.test
    assert made.phase == "Finished"


def test_a_restart_from_an_old_checkpoint_counts_every_outcome_once() -> None:
    """Progress is written seldom: what the memory lost is read again from Prometheus."""
    made, other = bench(stopEarly=False), bench(stopEarly=False)
    made.run(10)
    checkpoint = made.test
    made.run(5)
    made.test, made.states, made.last_look = checkpoint, {}, None
    made.run(3)
    other.run(18)
    for key in ("outcomes", "requests", "heard", "cursors"):
        assert getattr(made.status.checkpoint, key) == getattr(other.status.checkpoint, key)
    assert made.status.elapsed < other.status.elapsed, "nobody watched the clock"


def test_the_estimated_end_is_told() -> None:
    made = bench(duration="1h").run(20)
    assert made.status.estimated_end is not None
    made = bench(duration="10m", stopEarly=False).run(10)
    ends = timestamp(made.now + 600 - made.status.elapsed)
    assert made.status.estimated_end == ends
    assert replace(made).status.started_at is not None
