"""The end of kopf's tasks, and what it does not keep."""

import asyncio

from tidegate_operator.handlers import _end_others, _NoMemories


async def test_tasks_that_go_on_after_being_cancelled_end() -> None:
    refused = 0

    async def stubborn() -> None:
        nonlocal refused
        while refused < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                refused += 1

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await _end_others()
    assert task.done()
    assert refused == 3


async def test_kopf_keeps_nothing_of_an_object() -> None:
    memories = _NoMemories()
    await memories.recall({"metadata": {"uid": "1"}}, noticed_by_listing=True)
    assert list(memories.iter_all_memories()) == []
