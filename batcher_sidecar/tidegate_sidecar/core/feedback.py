"""Outcomes that clients report of a test's answers, summed for the operator.

Whoever has no token (``tokens``) can report nothing. Any pod that knows the key takes any pod's
token, and remembers which it took: issuers number their tokens, so that this takes a bit where most
come back. The groups of numbers that were taken up first are forgotten first, and refused as old
from then on. Pods do not ask each other: a client that sends a token to two of them is counted by
both.

==============  =================================================================
outcome         an entry that
==============  =================================================================
accepted        fits: it is summed, and nothing else is
malformed       is no object of a token and one value of the right type
forged          has a token that was not signed with the key, or is none
other_test      has a token of another test than the table's
late            comes after the time until which the test takes feedback
unknown_metric  names a metric that the test has not, or none where several fit
out_of_range    has a value beyond the metric's range, or one that drowns others
used            was counted already for this metric
old             has a token that may have been: it is forgotten
==============  =================================================================

A request is refused as a whole, with one outcome, where no test runs (409, ``no_test``), the key is
not known yet (503, ``no_key``), it is too much at once (413, ``too_large``) or no JSON (400,
``malformed``).
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal, NamedTuple

import msgspec

from tidegate_contract.table import Experiment, Outcome, RoutingTable
from tidegate_sidecar.core import tokens
from tidegate_sidecar.core.refusal import Refusal, malformed, too_large, unavailable
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.tokens import ARMS, ForgedError, Subject, Token

MAX_BYTES: Final = 2**20
MAX_ENTRIES: Final = 1000
MAX_GROUPS: Final = 2**17
"""Groups of 256 token numbers that are remembered: 32 MiB at most."""
LARGEST: Final = 1e12
"""Of values and covariates. In a double, beside the square of one larger there is no room for 1."""

_GROUP_BITS: Final = 8
_WHOLE: Final = {
    HTTPStatus.CONFLICT: "no_test",
    HTTPStatus.SERVICE_UNAVAILABLE: "no_key",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.BAD_REQUEST: "malformed",
}

Reason = Literal[
    "malformed",
    "forged",
    "other_test",
    "late",
    "unknown_metric",
    "out_of_range",
    "used",
    "old",
]


class Series(NamedTuple):
    """The labels of one group of sums. ``bucket``: empty for users without a key."""

    metric: str
    arm: str
    version: int
    bucket: str


@dataclass(slots=True)
class Sums:
    """What means, variances and covariances are made of.

    What may be negative is kept in two parts, as a counter must not fall. An outcome whose user
    has no covariate adds nothing to the covariate's sums: it counts as 0.
    """

    count: int = 0
    pos: float = 0.0
    neg: float = 0.0
    squares: float = 0.0
    covariate_pos: float = 0.0
    covariate_neg: float = 0.0
    covariate_squares: float = 0.0
    cross_pos: float = 0.0
    cross_neg: float = 0.0

    def add(self, value: float, covariate: float | None) -> None:
        """Take in one outcome."""
        self.count += 1
        self.pos += max(value, 0.0)
        self.neg += max(-value, 0.0)
        self.squares += value * value
        if covariate is not None:
            self.covariate_pos += max(covariate, 0.0)
            self.covariate_neg += max(-covariate, 0.0)
            self.covariate_squares += covariate * covariate
            self.cross_pos += max(value * covariate, 0.0)
            self.cross_neg += max(-value * covariate, 0.0)


class Refused(msgspec.Struct, frozen=True):
    """An entry that changed nothing, by its place in the request."""

    index: int
    reason: Reason


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a request with feedback."""

    accepted: int
    refused: list[Refused]


class _Entry(msgspec.Struct):
    token: str
    correct: bool | None = None
    value: float | None = None
    metric: str | None = None


_read_entry = msgspec.json.Decoder(_Entry).decode
_read_one = msgspec.json.Decoder(msgspec.Raw).decode
_read_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _UnfitError(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Taken:
    """Which tokens were taken for which metric: a bit for each, in groups of close numbers."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: dict[tuple[str, int, int], int] = {}
        self._forgotten: dict[tuple[str, int], int] = {}

    def add(self, metric: str, issuer: int, number: int) -> None:
        """Take a token.

        Raises:
            _UnfitError: it was taken, or whether it was is forgotten.
        """
        group = number >> _GROUP_BITS
        if group <= self._forgotten.get((metric, issuer), -1):
            raise _UnfitError("old")
        bit = 1 << number % (1 << _GROUP_BITS)
        taken = self._groups.get((metric, issuer, group), 0)
        if taken & bit:
            raise _UnfitError("used")
        self._groups[metric, issuer, group] = taken | bit
        if len(self._groups) > self._most:
            self._forget()

    def _forget(self) -> None:
        metric, issuer, group = first = next(iter(self._groups))
        del self._groups[first]
        before = self._forgotten.get((metric, issuer), -1)
        self._forgotten[metric, issuer] = max(before, group)


class Feedback:
    """One model's feedback in one pod.

    ``issuer``: 64 bits that no other pod, and no other start of this one, has. ``issued``: tokens,
    by arm and version; none before ``use``.
    """

    def __init__(self, issuer: int, most_groups: int = MAX_GROUPS) -> None:
        self.experiment: Experiment | None = None
        self.sums: dict[Series, Sums] = {}
        self.issued: dict[tuple[str, int], int] = {}
        self.outcomes: dict[str, int] = {}
        self._key: bytes | None = None
        self._issuer = issuer
        self._number = 0
        self._tag = b""
        self._metrics: dict[str, Outcome] = {}
        self._most_groups = most_groups
        self._taken = _Taken(most_groups)

    def follow(self, table: RoutingTable) -> None:
        """Take a table's test over; what was summed for another one goes.

        One series of each metric and arm exists from here, at 0: see ``Counters.follow``.
        """
        before, self.experiment = self.experiment, table.experiment
        if (before and before.uid) != (self.experiment and self.experiment.uid):
            self.sums = {}
            self.issued = {}
            self._taken = _Taken(self._most_groups)
        self._tag = tokens.tag(self.experiment.uid) if self.experiment else b""
        self._metrics = {one.name: one for one in _outcomes(self.experiment)}
        bucket = "0" if table.assignment else ""
        for arm in table.split:
            if self.experiment and arm.name in ARMS:
                self.issued.setdefault((arm.name, arm.version), 0)
                for metric in self._metrics:
                    self.sums.setdefault(Series(metric, arm.name, arm.version, bucket), Sums())

    def use(self, key: bytes) -> None:
        """Sign and check tokens with a key from now on."""
        self._key = key

    def token(self, subject: Subject) -> bytes | None:
        """Issue a token for one answer; None where no test runs or the key is not known."""
        if self._key is None or self.experiment is None:
            return None
        self._number += 1
        counted = subject.arm, subject.version
        self.issued[counted] = self.issued.get(counted, 0) + 1
        return tokens.write(Token(subject, self._issuer, self._number, self._tag), self._key)

    def take(self, body: Buffer, now: float) -> Receipt:
        """Count what a client reports: one object, or a list of them. ``now``: epoch seconds.

        Raises:
            Refusal: nothing of it was looked at.
        """
        try:
            key, entries = self._open(body)
        except Refusal as refusal:
            self._count(_WHOLE[HTTPStatus(refusal.status)])
            raise
        refused: list[Refused] = []
        for index, entry in enumerate(entries):
            try:
                self._take_one(entry, key, now)
                self._count("accepted")
            except _UnfitError as error:
                self._count(error.reason)
                refused.append(Refused(index, error.reason))
        return Receipt(len(entries) - len(refused), refused)

    def _open(self, body: Buffer) -> tuple[bytes, list[msgspec.Raw]]:
        if self.experiment is None:
            raise Refusal(HTTPStatus.CONFLICT, "no test is running that takes feedback")
        if self._key is None:
            raise unavailable("the key of the test's tokens is not known yet")
        if len(body) > MAX_BYTES:
            raise too_large(f"more than {MAX_BYTES} bytes of feedback")
        try:
            body = bytes(body)
            many = body.lstrip()[:1] == b"["
            entries = _read_list(body) if many else [_read_one(body)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(f"feedback: {error}") from error
        if len(entries) > MAX_ENTRIES:
            raise too_large(f"more than {MAX_ENTRIES} entries of feedback")
        return self._key, entries

    def _take_one(self, raw: msgspec.Raw, key: bytes, now: float) -> None:
        try:
            entry = _read_entry(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _UnfitError("malformed") from error
        try:
            token = tokens.read(entry.token, key)
        except ForgedError as error:
            raise _UnfitError("forged") from error
        if token.test != self._tag:
            raise _UnfitError("other_test")
        if self.experiment and self.experiment.until is not None and now > self.experiment.until:
            raise _UnfitError("late")
        metric, value = self._measured(entry)
        self._taken.add(metric, token.issuer, token.number)
        arm, version, bucket, covariate = token.subject
        series = Series(metric, arm, version, "" if bucket is None else str(bucket))
        self.sums.setdefault(series, Sums()).add(value, covariate)

    def _measured(self, entry: _Entry) -> tuple[str, float]:
        """The metric that is meant, and its value."""
        if (entry.correct is None) == (entry.value is None):
            raise _UnfitError("malformed")
        kind = "Binary" if entry.value is None else "Value"
        if entry.metric is not None:
            fitting = [self._metrics[entry.metric]] if entry.metric in self._metrics else []
        else:
            fitting = [one for one in self._metrics.values() if one.kind == kind]
        if len(fitting) != 1:
            raise _UnfitError("unknown_metric")
        (metric,) = fitting
        if metric.kind != kind:
            raise _UnfitError("malformed")
        value = float(bool(entry.correct)) if entry.value is None else entry.value
        if not metric.low <= value <= metric.high or abs(value) > LARGEST:
            raise _UnfitError("out_of_range")
        return metric.name, value

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def covariate(text: str | None) -> float | None:
    """A user's covariate from its header; None where that is no number that can be summed."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None


def _outcomes(experiment: Experiment | None) -> list[Outcome]:
    return experiment.outcomes if experiment else []
