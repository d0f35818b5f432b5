"""Which arm a request goes to: spread by jittered strata, or sticky by a hash of the user's key.

Spread. Each arm is owed its weight with every request and gives up one with every request that
it gets; what it is owed beyond that is its lag. A draw decides where within its stratum of
1/weight requests an arm takes its one. Of two arms the rarer one takes it exactly there, and the
other the rest: any request of a stratum may be the one, with equal probability, and both lags stay
within one. Of more arms, choosing is held to what keeps them there:

* an arm may take only what it is owed in part: its lag stays above -1;
* what will be owed in full must find room: for every number of requests t from here,
  sum over arms of max(0, floor(lag + t * weight)) <= t.

Lags add up to zero. With one arm at most below zero at t the second rule holds by itself, for the
floors then add up to less than t + 1: so it is looked at only while two arms or more are ahead. It
is the condition under which unit tasks with deadlines fit one server, so that an arm which keeps it
is always there to be chosen. Any prefix of the requests is therefore within one of its share, any
window within two. Lags outlive a change of weights: that is the kept phase.

Sticky. A key's place in [0, 1) never moves; arms lie side by side in it, the default arm last. An
arm that grows while no other does keeps everybody it has. What else is asked of a key, its bucket
and its mark, comes from other bytes of the same digest, and so has nothing to do with its arm.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count

from tidegate_contract import names
from tidegate_contract.table import WHOLE, Arm, RoutingTable

ArmKey = tuple[str, int]
"""An arm's name and version: what counters are kept by."""


@dataclass(slots=True)
class _Stratum:
    """Where an arm is: ``lag`` in basis points of a request, ``draw`` where it takes the next."""

    lag: int
    draw: float


class Spread:
    """Assignment without a key."""

    def __init__(self, seed: bytes) -> None:
        self._draws = draws(seed)
        self._strata: dict[ArmKey, _Stratum] = {}
        self._arms: list[tuple[Arm, _Stratum]] = []

    def change(self, arms: Sequence[Arm], seed: bytes) -> None:
        """Take other weights over; every arm that stays keeps its place in its stratum.

        What arms that leave were owed, or had got too early, is settled with the arm farthest to
        the other side: lags add up to zero again, and stay within one.
        """
        self._draws = draws(seed)
        old, self._strata = self._strata, {}
        for arm in arms:
            if arm.weight:
                key = (arm.name, arm.version)
                self._strata[key] = old.get(key) or _Stratum(0, next(self._draws))
        strata = self._strata.values()
        unsettled = sum(stratum.lag for stratum in strata)
        farthest = max if unsettled > 0 else min
        farthest(strata, key=lambda stratum: stratum.lag).lag -= unsettled
        self._arms = [
            (arm, self._strata[arm.name, arm.version])
            for arm in sorted(arms, key=lambda arm: arm.weight)
            if arm.weight
        ]

    def next(self) -> Arm:
        """Assign one request."""
        if len(self._arms) == 1:
            return self._arms[0][0]
        for arm, stratum in self._arms:
            stratum.lag += arm.weight
        chosen, place = self._choose()
        place.lag -= WHOLE
        place.draw = next(self._draws)
        return chosen

    def _choose(self) -> tuple[Arm, _Stratum]:
        """The owed arm whose drawn place comes first, if the others can still get theirs."""
        if len(self._arms) == 2:  # noqa: PLR2004 - see above
            (_, rarer), _ = self._arms
            return self._arms[0 if rarer.lag > rarer.draw * WHOLE else 1]
        owed = [(arm, stratum) for arm, stratum in self._arms if stratum.lag > 0]
        owed.sort(key=_time_to_drawn_place)
        for arm, stratum in owed:
            if self._leaves_room(stratum):
                return arm, stratum
        # Only weights that changed in between can leave no way: then the most urgent goes.
        return min(owed, key=lambda one: (WHOLE - one[1].lag) / one[0].weight)

    def _leaves_room(self, taker: _Stratum) -> bool:
        """Whether the others' deadlines can all be met after this arm took one."""
        lags = [
            (stratum.lag - WHOLE * (stratum is taker), arm.weight) for arm, stratum in self._arms
        ]
        for ahead in count():
            owed = [lag + ahead * weight for lag, weight in lags]
            if sum(lag < 0 for lag in owed) <= 1:
                return True
            if sum(lag // WHOLE for lag in owed if lag > 0) > ahead:
                return False
        raise AssertionError  # count() does not end


def _time_to_drawn_place(one: tuple[Arm, _Stratum]) -> float:
    arm, stratum = one
    return (stratum.draw * WHOLE - stratum.lag) / arm.weight


def draws(seed: bytes) -> Iterator[float]:
    """Numbers in [0, 1) that look random and are the same for the same seed."""
    key = blake2b(seed).digest()
    for block in count():
        digest = blake2b(block.to_bytes(8), key=key).digest()
        for number in struct.unpack("<16I", digest):
            yield number / 2**32


def hashed(salt: str, key: str) -> tuple[int, int, int]:
    """Hash a key: (place, bucket, mark).

    The place, in 2**64ths, decides the arm. The bucket, below ``names.BUCKETS``, is the group of
    users that evidence is counted by. The mark has 64 bits by which distinct users are counted.
    """
    place, mark, bucket = _PARTS.unpack(blake2b(f"{salt}\0{key}".encode(), digest_size=17).digest())
    return place, bucket % names.BUCKETS, mark


_PARTS = struct.Struct(">QQB")


class Router:
    """Assigns each request of one model to an arm of the table."""

    def __init__(self, model: str, pod_uid: str) -> None:
        self._seed = f"{model}/{pod_uid}"
        self._spread = Spread(b"")
        self._salt = ""
        self._sides: list[tuple[int, Arm]] = []
        self._unassigned: Arm | None = None
        self.header: str | None = None

    def change(self, table: RoutingTable) -> None:
        """Take a table over as a whole."""
        self._spread.change(table.split, f"{self._seed}/{table.revision}".encode())
        assignment = table.assignment
        self.header = assignment.header.lower() if assignment else None
        self._salt = assignment.salt if assignment else ""
        self._unassigned = (
            Arm(name=names.ARM_UNASSIGNED, version=assignment.unassigned, weight=0)
            if assignment and assignment.unassigned is not None
            else None
        )
        default = default_arm(table)
        end = 0  # of the last arm laid down
        self._sides = []
        for arm in sorted(table.split, key=lambda arm: (arm == default, arm.name, arm.version)):
            end += arm.weight
            self._sides.append((end * 2**64 // WHOLE, arm))

    def route(self, key: str | None) -> tuple[Arm, int | None, int]:
        """Assign a request, by its sticky key where there is one.

        Returns the arm, and the key's bucket (None without a key) and mark. An empty key is none:
        it would put everybody who is not logged in on one arm.
        """
        if not key:
            return self._unassigned or self._spread.next(), None, 0
        place, bucket, mark = hashed(self._salt, key)
        for end, arm in self._sides:
            if place < end:
                return arm, bucket, mark
        raise AssertionError  # the last side ends beyond every place


def default_arm(table: RoutingTable) -> Arm:
    """The arm that serves what no other can: the largest of the default version."""
    candidates = (arm for arm in table.split if arm.version == table.default_version)
    main = (names.ARM_STABLE, names.ARM_CONTROL)
    return max(candidates, key=lambda arm: (arm.name in main, arm.weight))
