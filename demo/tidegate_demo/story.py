"""The demo's five acts: a weak version serves, a better one wins a test against it and takes over,
a broken one is rolled back, one that does not fit is refused. Then the figures, and what shows that
it all happened.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tidegate_contract import names
from tidegate_demo import proof
from tidegate_demo.cluster import MANIFESTS
from tidegate_demo.panel import Snapshot
from tidegate_demo.proof import Counted, Ending, Seen
from tidegate_demo.summary import summary
from tidegate_demo.view import Check, Screen
from tidegate_demo.web import fetch
from tidegate_demo.world import World
from tidegate_tools.api import ApiError

LOOK_SECONDS: Final = 0.5
WINDOW_SECONDS: Final = 3.0
SERVING_SECONDS: Final = 60.0
ACT_SECONDS: Final = 150.0
CALM_SECONDS: Final = 4.0
FINISHED: Final = ("Succeeded", "RolledBack", "Failed", "Finished", "Stopped")


class StoryBroken(Exception):  # noqa: N818 - it is named for what happened
    """An act did not come to its end; the message says where it stood."""


@dataclass(frozen=True)
class Act:
    """One act: what is applied, and the rollout or test that it brings, by plural and name."""

    number: int
    title: str
    says: str
    manifest: str
    brings: tuple[str, str] | None = None


ACTS: Final = (
    Act(
        1,
        "A weak version serves",
        "Version 1 sees only the lower half of each image. Two pods serve it to clients that send\n"
        "150 images a second; six in ten come from a user who is to stay on one version.",
        "1-weak.yaml",
    ),
    Act(
        2,
        "Which one do users do better with?",
        "Version 2 sees whole images. Half of the users get it, and all report which answers were\n"
        "right. The first 30 seconds do not count: what was just loaded is still warming up.",
        "2-test.yaml",
        ("abtests", "digits-1-vs-2"),
    ),
    Act(
        3,
        "The better version takes over",
        "Version 2 gets 10% of the traffic, and more as the evidence allows. Of one in five of\n"
        "stable's requests it gets a copy: how often they disagree is shown, and decides nothing.",
        "3-better.yaml",
        ("canaryrollouts", "digits-2"),
    ),
    Act(
        4,
        "A broken version is rolled back",
        "Version 3 raises on one digit and takes 400 ms over another. Nobody is watching.",
        "4-broken.yaml",
        ("canaryrollouts", "digits-3"),
    ),
    Act(
        5,
        "A version that does not fit is refused",
        "Version 4 wants images as 8 by 8; clients send 64 numbers. It must not get one request.",
        "5-other-shape.yaml",
        ("canaryrollouts", "digits-4"),
    ),
)


@dataclass(frozen=True)
class Told:
    """What was seen, and every claim with whether it held."""

    seen: Seen
    checks: list[Check]


class Story:
    """Tells the acts in a world. ``on_look`` is called at every look at a running act, with the
    act's number and the status of what it brings: whoever wants trouble makes it there.
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
        serves, test, better, broken, other_shape = ACTS
        self._serve(serves)
        seen = Seen(
            test=self._watch(test),
            better=self._watch(better),
            broken=self._watch(broken),
            other_shape=self._watch(other_shape),
            finished=self._let_go(),
            counted=self._counted_by_sidecars(),
        )
        checks = proof.checks(seen, self._world.ledger, self._world.held_out)
        self._screen.act(len(ACTS) + 1, "What happened", "")
        summary(self._world, self._screen, seen)
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

    def _watch(self, act: Act) -> Ending:
        """Apply what an act brings and watch it to its end, and a little longer."""
        began = self._open(act)
        with self._screen.live():
            self._until(act, _is_finished, ACT_SECONDS)
            ended = time.time()
            calm = ended + CALM_SECONDS
            self._until(act, lambda _: time.time() > calm, ACT_SECONDS)
        baseline = {share.version: share.weight for share in self._world.cluster.table().baseline}
        return Ending(self._brought(act), began, ended, baseline)

    def _brought(self, act: Act) -> Any:
        """The act's rollout or test as it is now; empty where it brings none."""
        return self._world.cluster.object(*act.brings) if act.brings else {}

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
        brought: Any = {}
        while time.monotonic() - started < seconds:
            # An API server that is away for a moment is shown as it last was.
            try:
                brought = self._brought(act)
                self._tell_events()
            except ApiError:
                pass
            self._show(brought)
            self._on_look(act.number, brought.get("status", {}))
            if ended(brought):
                return
            time.sleep(LOOK_SECONDS)
        status = brought.get("status", {})
        raise StoryBroken(
            f"act {act.number} did not end in {seconds:g} s: {status.get('phase', 'not serving')}. "
            f"{status.get('message', '')} Logs: {self._world.directory}"
        )

    def _is_serving(self, _brought: Any) -> bool:
        version = self._world.cluster.object("modelversions", "digits-1").get("status", {})
        ready = len(self._world.traffic.ready)
        return version.get("trafficPercent") == 100 and ready == len(self._world.pods)  # noqa: PLR2004

    def _is_answering(self) -> bool:
        arms = self._world.ledger.by_arm(time.time(), CALM_SECONDS)
        return names.ARM_STABLE in arms

    def _show(self, brought: Any) -> None:
        now, ledger = time.time(), self._world.ledger
        arms = ledger.by_arm(now, WINDOW_SECONDS)
        self._screen.show(Snapshot(now - self._began, brought, arms, ledger.sent))

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

    def _counted_by_sidecars(self) -> Counted:
        """What the sidecars counted themselves; copies, which nobody asked for, by their fate."""
        requests, copies, reports = Counter[str](), Counter[str](), 0
        for sidecar in self._world.sidecars():
            for family in text_string_to_metric_families(fetch(f"{sidecar}/metrics")):
                for name, labels, value, *_ in family.samples:
                    match name, labels:
                        case "tidegate_requests_total", {"arm": arm} if arm != names.ARM_SHADOW:
                            requests[arm] += int(value)
                        case "tidegate_mirror_total", {"version": "2", "outcome": outcome}:
                            copies[outcome] += int(value)
                        case "tidegate_feedback_total", {"outcome": "accepted"}:
                            reports += int(value)
        return Counted(+requests, reports, copies)


def _is_finished(brought: Any) -> bool:
    return brought.get("status", {}).get("phase") in FINISHED
