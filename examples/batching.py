"""Batching in a program of one's own: no Triton, no Kubernetes.

    python examples/batching.py

Three hundred questions come at once, from three kinds of users. The function answers up to 32 of
them at a time, and takes 5 ms for that, whatever their number. Urgent questions go first, and one
that cannot be answered does not spoil its batch.
"""

import asyncio
import time

from tidegate_batcher.library import Batcher
from tidegate_contract.table import BatchSettings

ROOTS = BatchSettings(max_batch_size=32, max_wait=0.002)


def roots(numbers: list[float]) -> list[float | Exception]:
    """Stand for a model: answer a batch."""
    time.sleep(0.005)
    return [n**0.5 if n >= 0 else ValueError(f"{n} has no root") for n in numbers]


async def ask(batcher: Batcher[float, float], number: float, priority: int) -> tuple[int, float]:
    """Ask, and say how long the answer took."""
    started = time.perf_counter()
    await batcher.submit(number, priority=priority, deadline=10.0)
    return priority, time.perf_counter() - started


async def main() -> None:
    """Ask everything at once, and show who waited for how long."""
    async with Batcher(roots, ROOTS) as batcher:
        took = await asyncio.gather(*(ask(batcher, n, (5, 3, 1)[n % 3]) for n in range(300)))
        try:
            await batcher.submit(-1.0)
        except ValueError as error:
            print(f"refused: {error}")
        statistics = batcher.statistics
    for priority in (1, 3, 5):
        waits = sorted(seconds for level, seconds in took if level == priority)
        print(f"priority {priority}: {len(waits)} answers, median {waits[len(waits) // 2]:.3f} s")
    print(f"{statistics.batches} batches of {statistics.mean_batch:.1f} on the average")


if __name__ == "__main__":
    asyncio.run(main())
