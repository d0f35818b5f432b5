"""One request from its arrival to its end, and how it counts for or against its arm.

A check concerns every request that the split routed to its arm; none that was refused as
malformed or while the arm was within its share of the queue, none that fell back, none that named
its version itself: those have no checks at all. Then, by what became of the request:

=====================  ===================  ====================================
end                    error check          check of a bound b
=====================  ===================  ====================================
answered well          concerned            bad above b
error of the server    bad                  bad
4xx of the model       concerned            bad above b
refused over quota     concerned            bad
its version was gone   not concerned        bad above b, if looked at by then
thrown out of queue    not concerned        bad if older than b, else not concerned
expired in queue       not concerned        the same
cancelled in queue     not concerned        the same
cancelled when sent    by its batch's end   the same
expired when sent      bad                  bad
=====================  ===================  ====================================

What is unanswered and older than b when somebody looks counts as bad at once, and only once. That
a request expires, or is thrown out, before it was sent is the queue's doing, which all arms share;
where one version holds the queue up, the requests that it holds itself say so.
"""

from typing import Any

from tidegate_batcher.item import Item
from tidegate_sidecar.core.counters import NOBODY, CheckCount, Outcome, Stratum, Tally
from tidegate_sidecar.core.request import Buffer, Decoded, Plan
from tidegate_sidecar.core.slices import Slices
from tidegate_sidecar.core.tokens import Subject
from tidegate_sidecar.core.trace_context import TraceContext


class Pending(Item):
    """A request that was let in. ``caller`` is whom to answer: the shell's business.

    ``arrived``: when it was read completely, in seconds. ``buffers``: its inputs' bytes, in the
    order of its group. ``evidence``: the split gave it to its arm, and its arm took it.
    ``cancelled``: its caller waits no more, gone or answered already. ``counted``: its end is
    counted whatever becomes of its batch. ``stratum``: what its checks count it under.
    ``slices``: where it is sent in parts, what becomes of them. ``subject``: what feedback on its
    answer will speak of; None: there is to be none. ``trace``: the span that it was sent in, where
    its batch is to be linked to that.
    """

    __slots__ = (
        "_overdue",
        "arm",
        "body",
        "buffers",
        "caller",
        "cancelled",
        "checks",
        "counted",
        "decoded",
        "evidence",
        "plan",
        "slices",
        "start",
        "stratum",
        "subject",
        "tally",
        "trace",
        "version",
    )

    def __init__(
        self,
        caller: Any,
        decoded: Decoded,
        body: Buffer,
        start: int,
        level: int,
        arrived: float,
    ) -> None:
        super().__init__(level, 0, None, arrived)
        self.caller = caller
        self.decoded = decoded
        self.body = body
        self.start = start
        self.cancelled = False
        self.counted = False
        self._overdue = 0
        self.evidence = False
        self.stratum: Stratum = NOBODY
        self.subject: Subject | None = None
        self.slices: Slices | None = None
        self.trace: TraceContext | None = None
        self.arm: str
        self.version: int
        self.plan: Plan
        self.buffers: list[Buffer]
        self.tally: Tally
        self.checks: tuple[CheckCount, ...]

    def assign(self, arm: str, version: int, plan: Plan, tally: Tally) -> None:
        """Give the request to an arm of a version that takes it, as no evidence so far.

        Raises:
            Refusal: its data contradict its shapes.
        """
        self.move(plan)
        self.arm = arm
        self.version = version
        self.tally = tally
        self.checks = ()
        self.evidence = False
        self.subject = None

    def move(self, plan: Plan) -> None:
        """Have its version take the request as that is now.

        Raises:
            Refusal: its data contradict its shapes.
        """
        self.buffers = plan.take(self.decoded, self.body, self.start)
        self.plan = plan
        self.rows = plan.rows
        self.group = plan.group
        self.alone = plan.group.alone
        self.size = plan.size if plan.size is not None else sum(map(len, self.buffers))

    def end(self, outcome: Outcome, now: float) -> None:
        """Count the request as it was answered."""
        seconds = now - self.arrived
        self.tally.count(outcome)
        if outcome != "rejected":
            self.tally.duration.observe(seconds)
        if not self.checks:
            return
        failed = outcome in ("server_error", "expired")
        for i, check in enumerate(self.checks):
            if check.bound is None:
                check.requests += 1
                check.bad += failed
            elif not self._overdue >> i & 1:
                check.requests += 1
                check.bad += failed or outcome == "rejected" or seconds > check.bound

    def end_unserved(self) -> None:
        """Count a request that no version was asked to answer, for and against nobody."""
        self.tally.count("rejected")

    def cancel(self, now: float) -> None:
        """Count a request whose caller has gone."""
        self.cancelled = True
        self.tally.count("cancelled")
        self.look(now)

    def drop(self, outcome: Outcome, now: float) -> None:
        """Count a request that ends without any version's doing."""
        self.counted = True
        self.tally.count(outcome)
        self.look(now)

    def expire(self, now: float) -> None:
        """Count a request that was sent, and whose time is over before it is answered."""
        self.end("expired", now)
        self.cancelled = self.counted = True

    def end_cancelled(self, *, failed: bool) -> None:
        """Count what became of the batch of a request that was cancelled after it was sent."""
        if self.counted:
            return
        for check in self.checks:
            if check.bound is None:
                check.requests += 1
                check.bad += failed

    def look(self, now: float) -> None:
        """Count what is overdue already."""
        for i, check in enumerate(self.checks):
            overdue = check.bound is not None and now - self.arrived > check.bound
            if overdue and not self._overdue >> i & 1:
                self._overdue |= 1 << i
                check.requests += 1
                check.bad += 1
