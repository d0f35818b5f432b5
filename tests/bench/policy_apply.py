"""From a policy's write into the routing table to its being applied in a pod, under load.

As `table_apply`, with changes of all that a BatchPolicy sets in place of weights: the batches'
size, waits, levels and bounds change a hundred times while clients ask.
"""

import table_apply
from msgspec.structs import replace

from tidegate_contract.table import LEVELS, BatchSettings, Deduplication, RoutingTable


def main() -> None:
    """Run with changes of policy."""
    table_apply.run("policy_apply", a_policy)


def a_policy(revision: int) -> RoutingTable:
    """The weights stay, the policy is another one each time."""
    settings = BatchSettings(
        strategy="Fixed" if revision % 3 == 0 else "Adaptive",
        max_batch_size=1 + revision % 64,
        max_wait=revision % 7 / 1000,
        optimize="Latency" if revision % 2 else "Throughput",
        queue_max_size=500 + revision,
        levels=LEVELS[: 3 + revision % 3],
        deduplication=Deduplication() if revision % 5 == 0 else None,
    )
    return replace(table_apply.a_table(50), revision=revision, split_revision=50, batch=settings)


if __name__ == "__main__":
    main()
