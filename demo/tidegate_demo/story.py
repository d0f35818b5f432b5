"""The demo's four acts: a weak version serves, a better one takes over, a broken one is rolled
back, one that does not fit is refused. Then the figures, and what shows that it all happened.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tidegate_contract import names
from tidegate_demo import proof
from tidegate_demo.breach import breach, decided
from tidegate_demo.cluster import MANIFESTS, NAMESPACE
from tidegate_demo.ledger import p95
from tidegate_demo.proof import Ending, Seen
from tidegate_demo.view import Check, Screen, Snapshot
from tidegate_demo.web import fetch
from tidegate_demo.world import World
from tidegate_tools.api import ApiError

LOOK_SECONDS: Final = 0.5
WINDOW_SECONDS: Final = 3.0
SERVING_SECONDS: Final = 60.0
ACT_SECONDS: Final = 150.0
CALM_SECONDS: Final = 4.0
FINISHED: Final = ("Succeeded", "RolledBack", "Failed")
ROLLBACK_SHARES: Final = {"errors": 0.05, "latency": 0.05}
"""Shares of bad requests that the manifests' rollback bounds allow."""


class StoryBroken(Exception):  # noqa: N818 - it is named for what happened
    """An act did not come to its end; the message says where it stood."""


@dataclass(frozen=True)
class Act:
    """One act: what is applied, and the rollout that it brings."""

    number: int
    title: str
    says: str
    manifest: str
    rollout: str = ""


ACTS: Final = (
    Act(
        1,
        "A weak version serves",
        "Version 1 sees only the lower half of each image. Two pods serve it to clients that send\n"
        "150 images a second; three in ten come from a user who is to stay on one version.",
        "1-weak.yaml",
    ),
    Act(
        2,
        "A better version takes over",
        "Version 2 sees whole images. It gets 10% of the traffic, and more as the evidence allows.",
        "2-better.yaml",
        "digits-2",
    ),
    Act(
        3,
        "A broken version is rolled back",
        "Version 3 raises on one digit and takes 400 ms over another. Nobody is watching.",
        "3-broken.yaml",
        "digits-3",
    ),
    Act(
        4,
        "A version that does not fit is refused",
        "Version 4 wants images as 8 by 8; clients send 64 numbers. It must not get one request.",
        "4-other-shape.yaml",
        "digits-4",
    ),
)


@dataclass(frozen=True)
class Told:
    """What was seen, and every claim with whether it held."""

    seen: Seen
    checks: list[Check]


class Story:
    """Tells the acts in a world. ``on_look`` is called at every look at a running act, with the
    act's number and its rollout's status: a test makes its trouble there.
    """

    def __init__(
        self,
        world: World,
        screen: Screen,
        on_look: Callable[[int, Any], None] = lambda _act, _status: None,
    ) -> None:
        self._world = world
        self._screen = screen
        self._on_look = on_look
        self._began = time.time()
        self._events_seen: set[tuple[str, int]] = set()

    def tell(self) -> Told:
        """Tell it all, to the end where that can be.

        Raises:
            StoryBroken: an act did not end in time.
        """
        serves, better, broken, other_shape = ACTS
        self._serve(serves)
        seen = Seen(
            better=self._roll_out(better),
            broken=self._roll_out(broken),
            other_shape=self._roll_out(other_shape),
            finished=self._let_go(),
            counted=self._counted_by_sidecars(),
        )
        checks = proof.checks(seen, self._world.ledger, self._world.held_out)
        self._summary(seen)
        self._screen.checks(checks)
        return Told(seen, checks)

    def _serve(self, act: Act) -> None:
        """Act one: apply, wait for the version to be live, let the clients begin."""
        self._open(act)
        with self._screen.live():
            self._until(act, self._is_serving, SERVING_SECONDS)
            self._world.traffic.start()
            calm = time.time() + CALM_SECONDS
            self._until(act, lambda _: time.time() > calm and self._is_answering(), SERVING_SECONDS)

    def _roll_out(self, act: Act) -> Ending:
        """Apply an act's rollout and watch it to its end, and a little longer."""
        began = self._open(act)
        with self._screen.live():
            self._until(act, _is_finished, ACT_SECONDS)
            ended = time.time()
            calm = ended + CALM_SECONDS
            self._until(act, lambda _: time.time() > calm, ACT_SECONDS)
        baseline = {share.version: share.weight for share in self._world.cluster.table().baseline}
        return Ending(self._world.cluster.rollout(act.rollout), began, ended, baseline)

    def _open(self, act: Act) -> float:
        self._screen.act(act.number, act.title, act.says)
        path = MANIFESTS / act.manifest
        began = time.time()
        output = self._world.cluster.kubectl("apply", f"--filename={path}")
        self._screen.command(f"kubectl apply -f {path}", output)
        return began

    def _until(self, act: Act, ended: Callable[[Any], bool], seconds: float) -> None:
        """Show the act twice a second until it has ended."""
        started = time.monotonic()
        rollout: Any = {}
        while time.monotonic() - started < seconds:
            # An API server that is away for a moment is shown as it last was.
            try:
                rollout = self._world.cluster.rollout(act.rollout) if act.rollout else {}
                self._tell_events()
            except ApiError:
                pass
            self._show(rollout)
            self._on_look(act.number, rollout.get("status", {}))
            if ended(rollout):
                return
            time.sleep(LOOK_SECONDS)
        status = rollout.get("status", {})
        raise StoryBroken(
            f"act {act.number} did not end in {seconds:g} s: {status.get('phase', 'not serving')}. "
            f"{status.get('message', '')} Logs: {self._world.directory}"
        )

    def _is_serving(self, _rollout: Any) -> bool:
        version = self._world.cluster.model_version("digits-1").get("status", {})
        ready = len(self._world.traffic.ready)
        return version.get("trafficPercent") == 100 and ready == len(self._world.pods)  # noqa: PLR2004

    def _is_answering(self) -> bool:
        arms = self._world.ledger.by_arm(time.time(), CALM_SECONDS)
        return names.ARM_STABLE in arms

    def _show(self, rollout: Any) -> None:
        now, ledger = time.time(), self._world.ledger
        arms = ledger.by_arm(now, WINDOW_SECONDS)
        self._screen.show(Snapshot(now - self._began, rollout, arms, ledger.sent))

    def _tell_events(self) -> None:
        for event in self._world.cluster.events():
            key = (event["metadata"]["uid"], event.get("count", 1))
            if key not in self._events_seen:
                self._events_seen.add(key)
                warning = event.get("type") == "Warning"
                seconds = time.time() - self._began
                self._screen.event(seconds, warning, event["reason"], event["message"])

    def _let_go(self) -> float:
        """The clients stop; returns when the last of them had its answer."""
        self._world.traffic.stop()
        return time.time()

    def _counted_by_sidecars(self) -> Counter[str]:
        """Requests by arm, as the sidecars themselves counted them."""
        counted: Counter[str] = Counter()
        for sidecar in self._world.sidecars():
            for family in text_string_to_metric_families(fetch(f"{sidecar}/metrics")):
                for sample in family.samples:
                    if sample.name == "tidegate_requests_total" and sample.value:
                        counted[sample.labels["arm"]] += int(sample.value)
        return counted

    def _summary(self, seen: Seen) -> None:
        self._screen.act(5, "What happened", "")
        self._requests()
        self._accuracies()
        self._rollback(seen.broken)
        kinds = "canaryrollouts,modelversions,batchpolicies"
        output = self._world.cluster.kubectl("get", kinds, f"--namespace={NAMESPACE}")
        self._screen.command(f"kubectl get {kinds} -n {NAMESPACE}", output)
        self._screen.say()
        self._screen.say("More of it (make demo KEEP=1 leaves everything running):")
        for line in COMMANDS:
            self._screen.say(f"$ {line}", "bold")

    def _requests(self) -> None:
        ledger = self._world.ledger
        answers = ledger.since(0)
        rows = []
        for arm, count in ledger.answers_by_arm().most_common():
            slowest = p95(one.done - one.sent for one in answers if one.arm == arm)
            failed = ledger.failed_by_arm[arm]
            rows.append([arm, f"{count:,}", f"{failed:,}", f"{(slowest or 0) * 1000:.0f} ms"])
        title = f"{ledger.sent:,} requests sent, {ledger.lost:,} without an answer"
        self._screen.table(title, ["arm", "answered", "failed", "p95"], rows)

    def _accuracies(self) -> None:
        held_out, rows = self._world.held_out, []
        for version in (1, 2, 3):
            if measured := self._world.ledger.accuracy(version):
                share, answers = measured
                trained = f"{held_out.accuracy(version):.1%}"
                rows.append([f"version {version}", f"{answers:,}", f"{share:.1%}", trained])
        columns = ["accuracy", "read", "right", "right when trained"]
        self._screen.table("Accuracy, of the images that were read at all", columns, rows)

    def _rollback(self, ending: Ending) -> None:
        """Seconds of the rollback, by three clocks that a user can check."""
        url = self._world.prometheus.url
        proven = breach(url, 3, ending.status, ROLLBACK_SHARES)
        written = decided(ending.status, "RollingBack")
        applied = decided(ending.status, "RolledBack")
        given = self._world.ledger.answers_of(3)
        rows = []
        if proven and written and applied:
            rows += [
                ["breach provable in Prometheus → decided", f"{written - proven:.2f} s"],
                [
                    "breach provable in Prometheus → every pod has gone back",
                    f"{applied - proven:.2f} s",
                ],
            ]
        if failures := [answer for answer in given if not answer.ok]:
            exposure = max(answer.sent for answer in given) - failures[0].done
            rows.append(
                ["first failed answer → last request that version 3 got", f"{exposure:.2f} s"]
            )
        self._screen.table("The rollback", ["from → to", "took"], rows)


COMMANDS: Final = (
    f"kubectl describe canaryrollout digits-3 -n {NAMESPACE}",
    f"kubectl get events -n {NAMESPACE} --sort-by=.metadata.creationTimestamp",
    f"kubectl get configmap tidegate-routing-digits -n {NAMESPACE} -o yaml",
)


def _is_finished(rollout: Any) -> bool:
    return rollout.get("status", {}).get("phase") in FINISHED
