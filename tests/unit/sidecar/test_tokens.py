"""Tokens come back as they were made, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_sidecar.core.tokens import ARMS, ForgedError, Subject, Token, read, tag, write

KEY = b"0123456789abcdef"
TOKEN = Token(Subject("treatment", 2, 17, -0.5), issuer=7, number=9, test=tag("uid"))


@given(
    arm=st.sampled_from(ARMS),
    version=st.integers(1, 10**18),
    bucket=st.none() | st.integers(0, 63),
    covariate=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    issuer=st.integers(0, 2**64 - 1),
    number=st.integers(0, 2**64 - 1),
    test=st.text(),
)
def test_what_was_written_is_read(
    arm: str,
    version: int,
    bucket: int | None,
    covariate: float | None,
    issuer: int,
    number: int,
    test: str,
) -> None:
    token = Token(Subject(arm, version, bucket, covariate), issuer, number, tag(test))
    written = write(token, KEY)
    assert written.isascii()
    assert read(written.decode(), KEY) == token


@given(place=st.integers(0, 79), other=st.sampled_from("ABCxyz059-_"))
def test_no_character_of_a_token_can_be_changed(place: int, other: str) -> None:
    text = write(TOKEN, KEY).decode()
    changed = text[:place] + other + text[place + 1 :]
    if changed != text:
        with pytest.raises(ForgedError):
            read(changed, KEY)


@given(st.text(max_size=100) | st.text("AZaz09-_", min_size=80, max_size=80))
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(ForgedError):
        read(text, KEY)


def test_another_key_signs_otherwise() -> None:
    with pytest.raises(ForgedError):
        read(write(TOKEN, b"another key of 16").decode(), KEY)
