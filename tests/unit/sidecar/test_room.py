"""How much of requests is held at once."""

import pytest

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.room import Room


def status_of(room: Room, size: int, begun: int = 0) -> int:
    """0: there was room."""
    try:
        room.take(size, begun)
    except Refusal as refusal:
        return refusal.status
    return 0


def test_a_body_gets_a_quarter_of_what_is_free() -> None:
    room = Room(1_000)
    assert status_of(room, 250) == 0
    assert status_of(room, 188) == 503
    assert status_of(room, 187) == 0
    assert room.free == 563
    room.give(250)
    assert status_of(room, 203) == 0


def test_what_is_never_taken_is_the_clients_mistake() -> None:
    with pytest.raises(Refusal, match="more than 250 bytes") as caught:
        Room(1_000).take(251)
    assert (caught.value.status, caught.value.retry_after) == (413, None)


def test_a_body_that_grows_is_taken_as_a_whole() -> None:
    room = Room(1_000)
    for begun in range(0, 250, 50):
        assert status_of(room, 50, begun) == 0
    assert room.free == 750
    assert status_of(room, 1, 250) == 413


def test_however_many_there_are_the_bound_holds_and_small_ones_find_room() -> None:
    room = Room(10**6)
    while status_of(room, 50_000) == 0:
        assert room.free >= 0
    assert status_of(room, 10_000) == 0
    while status_of(room, 1) == 0:
        assert room.free >= 0
    assert room.free < 4
