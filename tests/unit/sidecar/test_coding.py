"""Content codings: what comes packed is unpacked within bounds, what is wanted packed is."""

import gzip
import zlib
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.shell.coding import Inflater, coding_of, compress, wanted_coding

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}
MOST = 2**20


def unpack(body: bytes, coding: str, count: int = 1, most: int = MOST) -> bytes:
    inflater = Inflater(body, coding, most)
    while not inflater.unpack(count):
        pass
    return inflater.body


@given(
    st.sampled_from(["gzip", "deflate"]),
    st.binary(max_size=200),
    st.integers(0, 2000),
    st.integers(1, 70_000),
)
@settings(max_examples=300, deadline=None)
def test_what_was_packed_is_unpacked_however_it_is_cut(
    coding: str, part: bytes, times: int, count: int
) -> None:
    body = part * times
    assert unpack(PACK[coding](body), coding, count) == body
    assert unpack(compress([part] * times, coding), coding, count) == body


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**17, MOST])
def test_sizes_around_a_step(coding: str, size: int) -> None:
    assert unpack(PACK[coding](bytes(size)), coding, 2**16) == bytes(size)


@pytest.mark.parametrize("coding", PACK)
async def test_the_rest_is_unpacked_aside(coding: str) -> None:
    body = bytes(range(256)) * 4096
    inflater = Inflater(PACK[coding](body), coding, MOST)
    assert not inflater.unpack(100)
    assert await inflater.finish() == body


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("count", [1, MOST * 2])
def test_a_bomb_stops_at_the_bound(coding: str, count: int) -> None:
    for times in (1, 100):
        inflater = Inflater(PACK[coding](bytes(times * MOST + 1)), coding, MOST)
        with pytest.raises(Refusal) as caught:
            list(iter(partial(inflater.unpack, count), True))
        assert caught.value.status == 413
        assert len(inflater.body) <= MOST + 2**16


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda packed: b"",
        lambda packed: b"rubbish",
        lambda packed: packed[:-1],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed + b"x",
        lambda packed: packed + packed,
        lambda packed: packed[:-4] + bytes(4),
        lambda packed: b"\0" + packed,
    ],
)
def test_what_is_not_what_it_says_is_refused(coding: str, wrong: object) -> None:
    packed = PACK[coding](b"some text, and then some more of it")
    with pytest.raises(Refusal) as caught:
        unpack(wrong(packed), coding, 10)  # type: ignore[operator]
    assert caught.value.status == 400
    assert "content-encoding" in caught.value.message


def test_more_after_the_end_is_refused_in_whatever_step_it_comes() -> None:
    packed = gzip.compress(bytes(10)) + bytes(2**17)
    with pytest.raises(Refusal, match="more follows"):
        unpack(packed, "gzip")


@pytest.mark.parametrize(
    ("fields", "coding"),
    [
        ([], ""),
        (["identity"], ""),
        ([""], ""),
        (["GZip"], "gzip"),
        ([" deflate "], "deflate"),
    ],
)
def test_how_a_body_is_coded(fields: list[str], coding: str) -> None:
    assert coding_of({"content-encoding": fields} if fields else {}) == coding


@pytest.mark.parametrize("fields", [["br"], ["gzip, gzip"], ["gzip", "gzip"], ["x-gzip"], ["*"]])
def test_other_codings_are_refused(fields: list[str]) -> None:
    with pytest.raises(Refusal) as caught:
        coding_of({"content-encoding": fields})
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, ""),
        ("", ""),
        ("identity", ""),
        ("br", ""),
        ("*", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP, deflate, br, zstd", "gzip"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip; q=0.5 , deflate;q=0.4", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0.000", ""),
        ("identity;q=0.9, gzip;q=0.4", ""),
        ("identity;q=0.4, gzip;q=0.4", "gzip"),
        ("gzip;q=-1", ""),
        ("gzip;q=nan", ""),
        ("gzip;q=", ""),
        ("gzip;q=.", ""),
        ("gzip;level=1", ""),
    ],
)
def test_what_an_answer_is_wanted_in(accepted: str | None, coding: str) -> None:
    assert wanted_coding({} if accepted is None else {"accept-encoding": [accepted]}) == coding
