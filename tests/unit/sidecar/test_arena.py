"""Memory lent in pieces: whose each piece is, and when it is free again."""

import threading
from pathlib import Path

import pytest

from tidegate_sidecar.shell.arena import Arena, Piece

PAGE = 4096


@pytest.fixture
def arena(tmp_path: Path) -> Arena:
    return Arena("test-", 8 * PAGE, tmp_path)


def lent(arena: Arena, size: int) -> Piece:
    piece = arena.lend(size)
    assert piece
    return piece


def test_pieces_do_not_overlap_and_are_seen_in_the_file(arena: Arena) -> None:
    sizes = [1, PAGE, PAGE + 1, 3 * PAGE]
    pieces = [lent(arena, size) for size in sizes]
    for number, piece in enumerate(pieces, 1):
        piece.view[:] = bytes([number]) * len(piece.view)
    content = arena._path.read_bytes()
    assert len(content) == arena.size
    for number, (piece, size) in enumerate(zip(pieces, sizes, strict=True), 1):
        assert content[piece.begin : piece.begin + size] == bytes([number]) * size
    assert arena.lend(PAGE + 1) is None
    assert lent(arena, PAGE).begin == 7 * PAGE


def test_a_piece_is_free_once_nobody_has_a_part_of_it(arena: Arena) -> None:
    part = lent(arena, arena.size).view[5:10].toreadonly()
    assert arena.lend(1) is None
    del part
    assert lent(arena, arena.size).begin == 0


def test_what_is_free_again_is_one_piece(arena: Arena) -> None:
    pieces = [lent(arena, 2 * PAGE) for _ in range(4)]
    del pieces[3], pieces[1]
    assert arena.lend(3 * PAGE) is None
    pieces.clear()
    assert lent(arena, arena.size)


def test_a_view_may_end_in_another_thread(arena: Arena) -> None:
    pieces = [lent(arena, arena.size)]
    thread = threading.Thread(target=pieces.clear)
    thread.start()
    thread.join()
    assert lent(arena, arena.size)


def test_what_is_kept_is_lent_to_nobody_again(arena: Arena) -> None:
    arena.keep(lent(arena, PAGE))
    assert arena.lend(arena.size) is None
    assert lent(arena, 7 * PAGE).begin == PAGE


def test_views_outlive_the_arena_and_its_name(tmp_path: Path) -> None:
    arena = Arena("test-", PAGE, tmp_path)
    view = lent(arena, 3).view
    arena.hide()
    arena.hide()
    assert not list(tmp_path.iterdir())
    del arena
    view[:] = b"abc"
    assert bytes(view) == b"abc"


def test_what_an_earlier_life_has_left_goes(tmp_path: Path) -> None:
    other = Arena("other-", PAGE, tmp_path)
    left = Arena("test-", PAGE, tmp_path)
    made = Arena("test-", PAGE, tmp_path)
    assert left.name != made.name
    assert {one.name for one in tmp_path.iterdir()} == {other.name, made.name}


def test_too_little_memory_is_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        Arena("test-", 2**62, tmp_path)
    assert not list(tmp_path.iterdir())
