"""How much of a pod's queue and device a version beside the main one may take.

The main versions are those of stable arms and the default one. Every other has a part in
proportion to its weight, so that a bad canary cannot crowd out those who never asked for it.
"""

from dataclasses import dataclass
from typing import Final

from tidegate_contract import names
from tidegate_contract.table import WHOLE, RoutingTable
from tidegate_sidecar.core.routing import default_arm

LEAST_QUEUE: Final = 16
"""Requests: one batch must fit, however small the weight."""
LEAST_DEVICE_SHARE: Final = 0.1


@dataclass(frozen=True)
class Quotas:
    """By version, for those that are bounded.

    ``queue``: requests of each arm. ``device``: from 0 to 1, of a version whose batches take longer
    than those of the main ones, while these wait.
    """

    queue: dict[int, float]
    device: dict[int, float]


def quotas(table: RoutingTable) -> Quotas:
    """Twice its weight for each version that is not a main one, and a least.

    ======  =============  ==============  ============
    weight  queue of 1000  queue of 100    device
    ======  =============  ==============  ============
    0       16             16              0.1
    5%      100            16              0.1
    20%     400            40              0.4
    ======  =============  ==============  ============
    """
    weights = {row.version: 0 for row in table.versions}
    for arm in table.split:
        weights[arm.version] += arm.weight
    main = {arm.version for arm in table.split if arm.name == names.ARM_STABLE}
    main.add(default_arm(table).version)
    shares = {v: 2 * weight / WHOLE for v, weight in weights.items() if v not in main}
    size = table.batch.queue_max_size
    return Quotas(
        queue={v: max(LEAST_QUEUE, share * size) for v, share in shares.items()},
        device={v: max(LEAST_DEVICE_SHARE, share) for v, share in shares.items()},
    )
