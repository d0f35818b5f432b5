"""The figures at the end of the story, each from the clients' own book or the cluster's objects."""

from typing import Final

from tidegate_demo.breach import breach, decided
from tidegate_demo.cluster import NAMESPACE
from tidegate_demo.ledger import p95
from tidegate_demo.panel import points
from tidegate_demo.proof import Ending, Seen
from tidegate_demo.view import Screen
from tidegate_demo.world import World

ROLLBACK_SHARES: Final = {"errors": 0.05, "latency": 0.05}
"""Shares of bad requests that the manifests' rollback bounds allow."""
SHOWN: Final = (
    ("get", "abtests,canaryrollouts"),
    ("tidegate", "status"),
)
COMMANDS: Final = (
    f"kubectl tidegate promote digits-2 -n {NAMESPACE}  # while it runs; or abort, suspend, resume",
    f"kubectl describe canaryrollout digits-3 -n {NAMESPACE}",
    f"kubectl get events -n {NAMESPACE} --sort-by=.metadata.creationTimestamp",
    f"kubectl get configmap tidegate-routing-digits -n {NAMESPACE} -o yaml",
)


def summary(world: World, screen: Screen, seen: Seen) -> None:
    """What happened, in figures, and as kubectl shows it."""
    _requests(world, screen)
    _accuracies(world, screen)
    _test(screen, seen.test)
    _rollback(world, screen, seen.broken)
    for words in SHOWN:
        output = world.cluster.kubectl(*words, "-n", NAMESPACE)
        screen.command(f"kubectl {' '.join(words)} -n {NAMESPACE}", output)
    screen.say()
    screen.say("More of it (make demo KEEP=1 leaves everything running):")
    for line in COMMANDS:
        screen.say(f"$ {line}", "bold")


def _requests(world: World, screen: Screen) -> None:
    ledger = world.ledger
    answers = ledger.since(0)
    rows = []
    for arm, count in ledger.answers_by_arm().most_common():
        slowest = p95(one.done - one.sent for one in answers if one.arm == arm)
        failed = ledger.failed_by_arm[arm]
        rows.append([arm, f"{count:,}", f"{failed:,}", f"{(slowest or 0) * 1000:.0f} ms"])
    title = f"{ledger.sent:,} requests sent, {ledger.lost:,} without an answer"
    screen.table(title, ["arm", "answered", "failed", "p95"], rows)


def _accuracies(world: World, screen: Screen) -> None:
    held_out, rows = world.held_out, []
    for version in (1, 2, 3):
        if measured := world.ledger.accuracy(version):
            share, answers = measured
            trained = f"{held_out.accuracy(version):.1%}"
            rows.append([f"version {version}", f"{answers:,}", f"{share:.1%}", trained])
    columns = ["accuracy", "read", "right", "right when trained"]
    screen.table("Accuracy, of the images that were read at all", columns, rows)


def _test(screen: Screen, ending: Ending) -> None:
    """What the test found, as its status says it."""
    samples, row = ending.status.get("samples", {}), ending.metric("accuracy")
    arms = ("control", "treatment")
    rows = [["users", *(f"{samples.get(arm, 0):,}" for arm in arms), "", "", ""]]
    if row.get("interval"):
        shares = [f"{row[arm]:.1%}" for arm in arms]
        between = [f"{row['lift']:+.1%}", points(row["interval"]), f"{row['p']:.2g}"]
        rows.append(["accuracy", *shares, *between])
    columns = ["", *arms, "lift", "difference, interval", "p"]
    screen.table(f"The test: {ending.status.get('verdict')}", columns, rows)


def _rollback(world: World, screen: Screen, ending: Ending) -> None:
    """Seconds of the rollback, by three clocks that a user can check."""
    url = world.prometheus.url
    proven = breach(url, 3, ending.status, ROLLBACK_SHARES)
    written = decided(ending.status, "RollingBack")
    applied = decided(ending.status, "RolledBack")
    given = world.ledger.answers_of(3)
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
        rows.append(["first failed answer → last request that version 3 got", f"{exposure:.2f} s"])
    screen.table("The rollback", ["from → to", "took"], rows)
