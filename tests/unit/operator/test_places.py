"""Who gets a place when there are fewer than are wanted."""

import asyncio

import pytest

from tidegate_operator.places import Places


async def test_the_lowest_rank_goes_first_then_who_came_first() -> None:
    places, order = Places(1), list[str]()

    async def take(rank: int, name: str) -> None:
        async with places.taken(rank):
            order.append(name)
            await asyncio.sleep(0)

    async with places.taken(2):
        waiting = [("late", 2), ("later", 2), ("first", 0), ("second", 1)]
        tasks = [asyncio.create_task(take(rank, name)) for name, rank in waiting]
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["first", "second", "late", "later"]
    assert places.free == 1


async def test_a_place_is_given_back_after_a_failure() -> None:
    places = Places(1)
    with pytest.raises(ZeroDivisionError):
        async with places.taken(0):
            raise ZeroDivisionError
    assert places.free == 1


@pytest.mark.parametrize("told", [False, True])
async def test_a_place_is_not_lost_with_who_waited_for_it(*, told: bool) -> None:
    places = Places(1)

    async def take() -> None:
        async with places.taken(0):
            pass

    async with places.taken(0):
        given_up, other = asyncio.create_task(take()), asyncio.create_task(take())
        await asyncio.sleep(0)
        if not told:
            given_up.cancel()
            await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, other, return_exceptions=True)
    assert given_up.cancelled()
    assert not other.cancelled()
    assert places.free == 1
