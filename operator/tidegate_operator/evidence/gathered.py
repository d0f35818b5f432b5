"""What a test has counted so far, as its checkpoint holds it: sums by arm and bucket of users.

Requests are kept as ``[arm, bucket, (requests, bad)]`` and outcomes as ``[arm, bucket, (count, sum,
squares, covariate)]``, packed, so that a test of many metrics stays a few KB. Without an assignment
there are no users to group: all is bucket 0.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidegate_contract.acknowledgement import UserSample
from tidegate_contract.names import ARM_CONTROL, ARM_TREATMENT, BUCKETS
from tidegate_operator.api.abtest import Checkpoint, Users
from tidegate_operator.evidence import counters
from tidegate_operator.evidence.queries import Answer, Value

Floats = NDArray[np.float64]

ARMS = (ARM_CONTROL, ARM_TREATMENT)
REQUESTS, BAD = range(2)
COUNT, SUM, SQUARES, COVARIATE = range(4)

_CHECK_SHAPE = (len(ARMS), BUCKETS, 2)
_OUTCOME_SHAPE = (len(ARMS), BUCKETS, 4)
_MOST_USERS = 4096
"""Users kept of both arms: as many as a sidecar tells."""


def requests(evidence: Checkpoint, check: str) -> Floats:
    """Requests of a check: by arm, bucket, and (requests, bad)."""
    return _unpack(evidence.requests.get(check), _CHECK_SHAPE)


def outcomes(evidence: Checkpoint, metric: str) -> Floats:
    """Outcomes of a metric: by arm, bucket, and (count, sum, squares, covariate)."""
    return _unpack(evidence.outcomes.get(metric), _OUTCOME_SHAPE)


def with_requests(
    evidence: Checkpoint, window: counters.Window, checks: Iterable[str], *, assigned: bool
) -> Checkpoint:
    """The evidence with what was counted of requests.

    Gaps count, too: what they hide is hidden of both arms, and all that rests on these numbers is
    a comparison of the two.
    """
    packed = dict(evidence.requests)
    for check in checks:
        sums = requests(evidence, check)
        for stratum in window.strata.get(check, []):
            for arm, tally in stratum.arms.items():
                if arm in ARMS:
                    cell = ARMS.index(arm), _bucket(stratum.cell, assigned)
                    sums[cell] += tally.requests, tally.bad
        packed[check] = _pack(sums)
    return msgspec.structs.replace(evidence, requests=packed)


def with_outcomes(
    evidence: Checkpoint, found: counters.Outcomes, metrics: Iterable[str], *, assigned: bool
) -> Checkpoint:
    """The evidence with what users reported."""
    packed = dict(evidence.outcomes)
    for metric in metrics:
        sums = outcomes(evidence, metric)
        for (name, arm, cell), one in found.sums.items():
            if name == metric and arm in ARMS:
                sums[ARMS.index(arm), _bucket(cell, assigned)] += (
                    one.count,
                    one.pos - one.neg,
                    one.squares,
                    one.covariate_pos - one.covariate_neg,
                )
        packed[metric] = _pack(sums)
    return msgspec.structs.replace(evidence, outcomes=packed)


def with_answers(
    evidence: Checkpoint, answers: Mapping[str, Answer], *, counting: bool
) -> Checkpoint:
    """The evidence with what the user's own counters rose by, if it is ``counting``; else only
    where they are now. ``answers``: by query.

    A fall adds nothing: a sum over pods falls by a whole pod's count where one goes, which is no
    restart from zero.
    """
    queried = dict(evidence.queried)
    for name, answer in answers.items():
        if isinstance(answer, Value):
            last, risen = queried.get(name, [answer.value, 0.0])
            rise = max(answer.value - last, 0.0) if counting else 0.0
            queried[name] = [answer.value, risen + rise]
    return msgspec.structs.replace(evidence, queried=queried)


def united(known: Users, samples: Iterable[UserSample], salt: str) -> Users:
    """The distinct users that were known, and those that pods tell of for the same assignment."""
    mine = [one for one in samples if one.salt == salt]
    # A limit between two halvings counts as the lower one, which it is no less fair to cut at.
    halvings = max([known.halvings, *(65 - one.limit.bit_length() for one in mine)])
    kept = [
        _union([getattr(known, arm), *(one.arms.get(arm, "") for one in mine)], halvings)
        for arm in ARMS
    ]
    while sum(map(len, kept)) > _MOST_USERS:
        halvings += 1
        kept = [hashes[hashes < _limit(halvings)] for hashes in kept]
    control, treatment = (b64encode(hashes.tobytes()).decode() for hashes in kept)
    return Users(halvings=halvings, control=control, treatment=treatment)


def _limit(halvings: int) -> int:
    return 1 << (64 - halvings)


def _bucket(cell: str, assigned: bool) -> int:
    return int(cell) if assigned and cell else 0


def _union(packed: Sequence[str], halvings: int) -> NDArray[np.uint64]:
    known = [np.frombuffer(b64decode(one), dtype="<u8") for one in packed]
    hashes: NDArray[np.uint64] = np.unique(np.concatenate(known))
    return hashes[hashes < _limit(halvings)] if halvings else hashes


def _pack(values: Floats) -> str:
    return b64encode(zlib.compress(values.astype("<f8").tobytes())).decode()


def _unpack(text: str | None, shape: tuple[int, ...]) -> Floats:
    if text is None:
        return np.zeros(shape)
    flat = np.frombuffer(zlib.decompress(b64decode(text)), dtype="<f8")
    return flat.astype(np.float64).reshape(shape)
