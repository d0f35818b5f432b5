"""What a sticky canary's checks counted by bucket of users, packed for a checkpoint."""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tidegate_contract.names import ARM_CANARY, ARM_SHADOW, ARM_STABLE, BUCKETS
from tidegate_operator.evidence.counters import Stratum
from tidegate_operator.evidence.dispersion import dispersion

_ARMS = (ARM_CANARY, ARM_STABLE, ARM_SHADOW)
_SHAPE = (len(_ARMS), 2, BUCKETS)


def added(packed: str, strata: Iterable[Stratum]) -> str:
    """The counts with those of more strata; requests without the key belong to no user."""
    counts = _unpack(packed)
    for stratum in strata:
        if stratum.cell.isdecimal():
            for arm, tally in stratum.arms.items():
                if arm in _ARMS:
                    cell = counts[_ARMS.index(arm), :, int(stratum.cell)]
                    cell += (tally.requests, tally.bad)
    return b64encode(zlib.compress(counts.astype("<u4").tobytes())).decode()


def dispersion_of(packed: str) -> float:
    """How much more the errors vary between users than by chance; at least 1."""
    arms = _unpack(packed).astype(np.float64)
    return float(dispersion(*((requests, bad) for requests, bad in arms)))


def _unpack(packed: str) -> NDArray[np.int64]:
    """By arm, (requests, bad), and bucket. An older operator's counts lack the last arm."""
    counts = np.zeros(_SHAPE, dtype=np.int64)
    if packed:
        stored = np.frombuffer(zlib.decompress(b64decode(packed)), dtype="<u4")
        known = stored.reshape(-1, *_SHAPE[1:])
        counts[: len(known)] = known
    return counts
