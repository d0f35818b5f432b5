"""The operator killed (-9) in the middle of rollouts, and restarted at once: do they end the same?

The API server, Prometheus and the operator are real; the pods are stand-ins that apply tables and
count requests. Workers side by side, each with an operator and a namespace of its own, take whole
rollouts with steps of two seconds: promotions, rollbacks, gates and verbs, an abort, a suspension,
a retry. Each is killed once: at a random moment of its life (strata of equal length, a seed), or
before one write, so that every gap between two writes is met. Its history (phases, weights,
reasons) is compared with that of a rollout that nobody disturbed, and so are the weights that were
written to its routing table.

A step is shortened if its clock ran for less than its duration: what is added up is the time during
which the table had its weight, the status said that the clock runs, and an operator was there that
could look (not from its death to the first request of the next one).
"""

import argparse
import json
import queue
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from killing_proxy import KillingProxy, Write
from operator_world import GROUP, Raw, World, install, observed
from result import report

from tidegate_contract import names
from tidegate_operator.api.quantity import epoch, seconds
from tidegate_tools.api import MERGE_PATCH
from tidegate_tools.controlplane import ControlPlane

NAME = "kills"
KILLS, WORKERS, SEED = 100, 6, 4
STEP = "2s"
PATIENCE = 90.0
SCRAPE_MS = 500
FINISHED = {"Succeeded", "RolledBack", "Failed"}
IDLE = {"WaitingPromotion", "Holding", *FINISHED}
"""Phases in which it waits for a person."""
ANALYSIS = {"interval": "1s", "warmup": "0s", "minRequests": 20, "ackTimeout": "60s"}

Signature = tuple[str, ...]
Moment = float | Signature | None
"""When a run is killed: so many seconds after its begin, before a write, or never."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a person, or a bad version, does once a rollout's status says so. ``where``: phase,
    step, attempt; the clock runs if the phase is Progressing.
    """

    where: tuple[str, int, int]
    errors: float | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    spec: Raw = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A rollout and what happens to it. ``errors``: the canary's from the beginning."""

    name: str
    steps: list[Raw]
    acts: list[Act] = field(default_factory=list)
    errors: float = 0.0


def step(percent: int, *, gated: bool = False) -> Raw:
    gate = {"gate": "Manual"} if gated else {}
    return {"percent": percent, **gate, **({} if percent == 100 else {"duration": STEP})}


PLAIN = [step(25), step(50), step(100)]
SCENARIOS = [
    Scenario("promotion", PLAIN),
    Scenario("rollback", PLAIN, [Act(("Progressing", 2, 1), errors=0.5)]),
    Scenario(
        "gates",
        [step(25, gated=True), step(50, gated=True), step(100, gated=True)],
        [
            Act(("WaitingPromotion", 0, 1), annotations={"promote": "step"}),
            Act(("WaitingPromotion", 1, 1), annotations={"promote": "step@1"}),
            Act(("WaitingPromotion", 2, 1), annotations={"promote": "full"}),
        ],
    ),
    Scenario("abort", PLAIN, [Act(("Progressing", 2, 1), annotations={"abort": "not today"})]),
    Scenario(
        "suspension",
        PLAIN,
        [
            Act(("Progressing", 1, 1), spec={"suspend": True}),
            Act(("Holding", 1, 1), spec={"suspend": False}),
        ],
    ),
    Scenario(
        "retry",
        PLAIN,
        [Act(("RolledBack", 1, 1), errors=0.0, annotations={"retry": "mended"})],
        errors=0.5,
    ),
]


@dataclass(slots=True)
class Sample:
    """What became of one rollout. ``life``: seconds from its creation to its end. ``first_sign``,
    ``first_write``: seconds from the restart to the operator's first request, and to its first
    write for this rollout; None where nothing was to be written.
    ``ran``: by step, seconds that its clock ran.
    """

    scenario: str
    moment: Moment
    killed_after: float | None = None
    first_sign: float | None = None
    first_write: float | None = None
    life: float = 0.0
    history: list[list[Any]] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    ran: list[float] = field(default_factory=list)
    signatures: list[Signature] = field(default_factory=list)


def main() -> None:
    """Run, print the figures, write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="at random moments")
    parser.add_argument("--no-gaps", action="store_true", help="not before every write as well")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    with ExitStack() as stack:
        workers = Workers(stack, given.workers)
        calm = {one.scenario: one for one in workers.run([(one, None) for one in SCENARIOS])}
        moments = [*at_random(calm, given.kills, given.seed)]
        if not given.no_gaps:
            moments += before_writes(calm)
        killed = [one for one in workers.run(moments) if one.killed_after is not None]
        while short := given.kills - sum(isinstance(one.moment, float) for one in killed):
            again = [*at_random(calm, given.kills, given.seed + len(killed))][:short]
            killed += [one for one in workers.run(again) if one.killed_after is not None]
    samples = [asdict(one) for one in (*calm.values(), *killed)]
    report(NAME, figures(calm, killed), samples)


def at_random(calm: dict[str, Sample], kills: int, seed: int) -> Iterator[tuple[Scenario, Moment]]:
    """Moments spread over the life of each scenario: one in each of as many equal strata as it is
    killed.
    """
    draw = random.Random(seed)
    for number in range(kills):
        scenario = SCENARIOS[number % len(SCENARIOS)]
        strata = len(range(number % len(SCENARIOS), kills, len(SCENARIOS)))
        place = (number // len(SCENARIOS) + draw.random()) / strata
        yield scenario, place * calm[scenario.name].life


def before_writes(calm: dict[str, Sample]) -> Iterator[tuple[Scenario, Moment]]:
    """Every write that a scenario is the first one to need."""
    met: set[Signature] = set()
    for scenario in SCENARIOS:
        fresh = [one for one in calm[scenario.name].signatures if one not in met]
        yield from ((scenario, one) for one in fresh)
        met.update(fresh)


def figures(calm: dict[str, Sample], killed: list[Sample]) -> Raw:
    """The marks: 100 or more, 0, 0, 0, all, 3."""
    first = [one.first_write for one in killed if one.first_write is not None]
    counted = Counter[str]()
    for one in killed:
        counted.update(differences(calm[one.scenario], one))
    return {
        "kills": len(killed),
        "kills_at_random": sum(isinstance(one.moment, float) for one in killed),
        "kills_before_a_write": sum(isinstance(one.moment, tuple) for one in killed),
        "steps_skipped": counted["skipped"],
        "steps_doubled": counted["doubled"],
        "steps_shortened": counted["shortened"],
        "histories_equal": len(killed) - counted["other history"],
        "first_write_p50_s": round(statistics.median(first), 2),
        "first_write_max_s": round(max(first), 2),
        "first_writes": len(first),
        "first_sign_p50_s": round(statistics.median(one.first_sign or 0 for one in killed), 2),
        "worst_step_stretch_s": round(stretch(killed), 2),
    }


def differences(calm: Sample, one: Sample) -> Iterator[str]:
    """How a killed rollout was not like an undisturbed one."""
    wanted, got = Counter(calm.weights), Counter(one.weights)
    yield from ["skipped"] * (wanted - got).total()
    yield from ["doubled"] * (got - wanted).total()
    yield from ["shortened" for ran in one.ran if ran < seconds(STEP)]
    if one.history != calm.history:
        yield "other history"


def stretch(killed: list[Sample]) -> float:
    """The longest that a step's clock ran beyond its duration: what is not known of it after a
    kill is watched anew.
    """
    return max(ran - seconds(STEP) for one in killed for ran in one.ran)


class Workers:
    """Operators side by side in one control plane, for as long as the stack lives."""

    def __init__(self, stack: ExitStack, count: int) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-"))
        self._plane = stack.enter_context(ControlPlane(Path(folder) / "control-plane"))
        install(self._plane)
        prometheus, targets = stack.enter_context(observed(self._plane, Path(folder)))
        self._pool = stack.enter_context(ThreadPoolExecutor(count))
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for number in range(count):
            world = World(self._plane, prometheus, targets, f"kills-{number}")
            self._free.put(Worker(stack.enter_context(world), stack))
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()

    def run(self, runs: list[tuple[Scenario, Moment]]) -> list[Sample]:
        """All of them, as many at a time as there are workers."""
        total, done = len(runs), iter(range(1, len(runs) + 1))

        def one(run: tuple[Scenario, Moment]) -> Sample:
            with self._lock:
                number = next(self._numbers)
            worker = self._free.get()
            try:
                sample = worker.run(*run, number)
            finally:
                self._free.put(worker)
            with self._lock:
                end = sample.history[-1][1] if sample.history else "nothing"
                print(f"{next(done)}/{total} {run[0].name} {run[1]} -> {end}", file=sys.stderr)
            return sample

        return list(self._pool.map(one, runs))


class Worker:
    """One operator in one namespace, behind a proxy that knows its writes."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self._world = world
        world.operator.scrape_interval = "2s"  # a busy machine's late scrape is no missing data
        self._proxy = stack.enter_context(KillingProxy(world.plane, world.kubeconfig))
        self._proxy.kill = self._kill
        self._killed_at: float | None = None
        self._start()

    def run(self, scenario: Scenario, moment: Moment, number: int) -> Sample:
        """One rollout, from its creation to its end."""
        model = f"{scenario.name}-{number}"
        self._prepare(model, scenario)
        self._killed_at = None
        course = Course(scenario, model)
        if isinstance(moment, tuple):
            self._proxy.doom = lambda method, path, body: (
                signature(model, method, path, body) == moment
            )
        self._fresh()
        began = time.time()
        kill_at = began + moment if isinstance(moment, float) else None
        self._create("canaryrollouts", "CanaryRollout", model, self._spec(scenario, model))
        restarted_at = self._until_the_end(course, kill_at)
        self._proxy.doom = lambda _method, _path, _body: False
        history = self._history(model)
        if not course.over:  # whoever comes next needs the pods
            self._world.kubectl("delete", "cro", model)
        sample = Sample(
            scenario=scenario.name,
            moment=moment,
            life=time.time() - began,
            history=history,
            weights=course.weights,
            ran=course.ran(self._killed_at, self._proxy.first_sign),
            signatures=course.signatures,
        )
        if self._killed_at is not None and restarted_at is not None:
            sample.killed_after = self._killed_at - began
            sample.first_sign = (self._proxy.first_sign or time.time()) - restarted_at
            sample.first_write = course.first_write(self._killed_at, restarted_at)
        return sample

    def _until_the_end(self, course: "Course", kill_at: float | None) -> float | None:
        """Follow the writes, do what the scenario says and kill; returns when it was restarted."""
        deadline = time.monotonic() + PATIENCE
        restarted_at = None
        while not course.over and time.monotonic() < deadline:
            for write in self._fresh():
                for act in course.take(write):
                    self._do(act, course.model)
            if kill_at is not None and time.time() >= kill_at:
                kill_at = None
                self._kill()
            if self._killed_at is not None and restarted_at is None:
                restarted_at = self._start()
        return restarted_at

    def _fresh(self) -> list[Write]:
        with self._proxy.noted:
            self._proxy.noted.wait(0.02)
            fresh = self._proxy.log[:]
            self._proxy.log.clear()
        return fresh

    def _kill(self) -> None:
        self._world.operator.kill()
        self._killed_at = time.time()

    def _start(self) -> float:
        at = time.time()
        self._proxy.first_sign = None
        self._world.operator.start(self._proxy.kubeconfig)
        return at

    def _prepare(self, model: str, scenario: Scenario) -> None:
        """Both versions, loaded; version 1 has the traffic."""
        self._world.model(model).errors[2] = scenario.errors
        selector = {"matchLabels": {"app": "stand-in"}}
        for version in (1, 2):
            spec = {"model": model, "version": version, "podSelector": selector}
            spec |= {"lifecycle": "Active", "trafficPercent": 100} if version == 1 else {}
            self._create("modelversions", "ModelVersion", f"{model}-{version}", spec)
        for version in (1, 2):
            self._world.await_phase(f"{model}-{version}", "Ready", plural="modelversions")

    def _spec(self, scenario: Scenario, model: str) -> Raw:
        return {
            "model": model,
            "canaryVersion": 2,
            "steps": scenario.steps,
            "analysis": ANALYSIS,
        }

    def _create(self, plural: str, kind: str, name: str, spec: Raw) -> None:
        version = f"{names.GROUP}/{names.API_VERSION}"
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
        path = f"{GROUP}/{self._world.namespace}/{plural}"
        self._world.plane.api.request("POST", path, body)

    def _do(self, act: Act, model: str) -> None:
        if act.errors is not None:
            self._world.model(model).errors[2] = act.errors
        annotations = {f"{names.GROUP}/{verb}": word for verb, word in act.annotations.items()}
        patch: Raw = {"metadata": {"annotations": annotations}} if annotations else {}
        patch |= {"spec": act.spec} if act.spec else {}
        if patch:
            path = f"{GROUP}/{self._world.namespace}/canaryrollouts/{model}"
            self._world.plane.api.request("PATCH", path, patch, content_type=MERGE_PATCH)

    def _history(self, model: str) -> list[list[Any]]:
        entries = self._world.status(model).get("history", [])
        return [[one[key] for key in ("from", "to", "weight", "reason")] for one in entries]


@dataclass(frozen=True, slots=True)
class Mark:
    """What is so from a write on. ``step``: whose clock runs, at its weight; 0 for none. ``began``:
    since when (epoch seconds). ``weight``: the table's, in percent.
    """

    write: Write
    phase: str
    attempt: int
    step: int
    began: float
    weight: int


class Course:
    """A rollout's course as its operators' writes tell it."""

    def __init__(self, scenario: Scenario, model: str) -> None:
        self.model = model
        self.weights: list[int] = []
        self.signatures: list[Signature] = []
        self._writes: list[Write] = []
        self._status: Raw = {}
        self._acts = list(scenario.acts)
        self._marks: list[Mark] = []
        self._weight_at = 0.0
        self._plan = [one["percent"] for one in scenario.steps]

    @property
    def over(self) -> bool:
        """Whether it is finished and nobody has more to say."""
        return self._status.get("phase") in FINISHED and not self._acts

    def take(self, write: Write) -> Iterator[Act]:
        """Take in a write; gives what is done about it."""
        about = signature(self.model, write.method, write.path, write.body)
        if about is None or not write.accepted:
            return
        self._writes.append(write)
        if about not in self.signatures:
            self.signatures.append(about)
        if about[0] == "table":
            weight = int(about[1])
            if self.weights[-1:] != [weight]:
                self.weights.append(weight)
                self._weight_at = write.asked
        elif about[0] == "status":
            self._status = merged(self._status, write.body["status"])
        self._mark(write)
        if about[0] == "status" and self._acts and self._acts[0].where == self._where():
            if self._status["phase"] in FINISHED:
                self._status["phase"] = "to be retried"
            yield self._acts.pop(0)

    def _where(self) -> tuple[str, int, int] | None:
        """The place by which a scenario's acts are told."""
        phase = self._status.get("phase", "")
        if phase == "Progressing" and not self._status.get("clockRunningSince"):
            return None
        return phase, self._status.get("currentStep", 0), self._status.get("attempt", 1)

    def _mark(self, write: Write) -> None:
        """Note which step's clock runs from this write on, in which attempt; 0 for none."""
        now = self._status
        since = now.get("clockRunningSince") if now.get("phase") == "Progressing" else None
        step_ = now.get("currentStep", 0) if since else 0
        if step_ and self.weights[-1:] != [self._plan[step_ - 1]]:
            step_ = 0
        weight = self.weights[-1] if self.weights else 0
        began = max(epoch(since), self._weight_at) if since else 0.0
        told = now.get("phase", ""), now.get("attempt", 1)
        self._marks.append(Mark(write, *told, step_, began, weight))

    def ran(self, killed_at: float | None, alive_at: float | None) -> list[float]:
        """By step that the last attempt has passed, the seconds that its clock ran under an
        operator that could look: from the time that the status names, or the table's write if that
        came later, to the write that ended it.
        """
        last = max((one.attempt for one in self._marks), default=1)
        mine = [one for one in self._marks if one.attempt == last]
        total: Counter[int] = Counter()
        running: tuple[float, int] | None = None
        for step_, group in groupby(mine, key=lambda one: one.step):
            first = next(group)
            if running is not None:
                began, of = running
                end = first.write.at
                total[of] += round(1e6 * (end - began - dead(began, end, killed_at, alive_at)))
            running = (first.began, step_) if step_ else None
        reached = max((one.weight for one in mine), default=0)
        return [total[n] / 1e6 for n, percent in enumerate(self._plan, 1) if percent < reached]

    def first_write(self, killed_at: float, restarted_at: float) -> float | None:
        """Seconds from the restart to the first write; None where none was due."""
        before = [one.phase for one in self._marks if one.write.at <= killed_at]
        if before and before[-1] in IDLE:
            return None
        after = [one.asked for one in self._writes if one.asked > restarted_at]
        return after[0] - restarted_at if after else None


def dead(begin: float, end: float, killed_at: float | None, alive_at: float | None) -> float:
    """For how much of a time the operator could not look at anything."""
    if killed_at is None or alive_at is None:
        return 0.0
    return max(0.0, min(end, alive_at) - max(begin, killed_at))


def merged(old: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396), applied."""
    if not isinstance(patch, dict):
        return patch
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


def signature(model: str, method: str, path: str, body: Any) -> Signature | None:
    """What tells the writes of one rollout apart; the same in every run. None: not about it."""
    rollout = f"/canaryrollouts/{model}"
    if path.endswith(f"{rollout}/status"):
        told = body["status"]
        fields = ("phase", "reason", "currentStep", "weight", "lastVerb", "attempt")
        clock = str("clockRunningSince" in told and told["clockRunningSince"] is not None)
        return ("status", *(str(told.get(name, "")) for name in fields), clock)
    if path.endswith(rollout):
        return method, "annotation"
    if "/configmaps" in path and body.get("metadata", {}).get("name") == (
        names.routing_table_name(model)
    ):
        return table_signature(json.loads(body["data"][names.TABLE_KEY]))
    if path.endswith("/events") and body["involvedObject"]["name"] == model:
        return "event", body["reason"]
    return None


def table_signature(table: Raw) -> Signature:
    weight = sum(arm["weight"] for arm in table["split"] if arm["name"] == names.ARM_CANARY)
    promoted = [one["version"] for one in table["baseline"]] == [2]
    return (
        "table",
        str(100 if promoted else weight // 100),
        str(len(table["versions"])),
        *(part for part in ("owner", "latch") if table.get(part)),
    )


if __name__ == "__main__":
    main()
