"""Feedback tokens: which answer of which test an outcome speaks of, signed.

44 bytes and 16 of an HMAC-SHA256 over them (RFC 2104; cut short as its section 5 allows), in the
alphabet of URLs. All a pod needs to count the outcome is inside, so any pod can, and nobody
without the key can make one or move one to another arm.
"""

import hmac
import math
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final, NamedTuple

from tidegate_contract import names

ARMS: Final = (names.ARM_CONTROL, names.ARM_TREATMENT)

_FORMAT: Final = 1
_NO_BUCKET: Final = 0xFFFF
_PAYLOAD: Final = struct.Struct(">BBHQQQ8sd")
_SIGNATURE_BYTES: Final = 16
_TEXT_LENGTH: Final = (_PAYLOAD.size + _SIGNATURE_BYTES) * 4 // 3  # of 60 bytes: no padding


class ForgedError(ValueError):
    """No token, or not one that was signed with this key."""


class Subject(NamedTuple):
    """Whose answer an outcome speaks of. ``bucket``: None for a user without a key."""

    arm: str
    version: int
    bucket: int | None
    covariate: float | None


class Token(NamedTuple):
    """``issuer`` and ``number`` tell it from all others; ``test`` is the tag of its test."""

    subject: Subject
    issuer: int
    number: int
    test: bytes


def tag(test_uid: str) -> bytes:
    """What stands for a test in its tokens."""
    return sha256(test_uid.encode()).digest()[:8]


def write(token: Token, key: bytes) -> bytes:
    """Sign a token."""
    (arm, version, bucket, covariate), issuer, number, test = token
    payload = _PAYLOAD.pack(
        _FORMAT,
        ARMS.index(arm),
        _NO_BUCKET if bucket is None else bucket,
        version,
        issuer,
        number,
        test,
        math.nan if covariate is None else covariate,
    )
    return urlsafe_b64encode(payload + _signature(payload, key))


def read(text: str, key: bytes) -> Token:
    """Read a token.

    Raises:
        ForgedError: as its name says.
    """
    if len(text) != _TEXT_LENGTH:
        raise ForgedError
    try:
        whole = urlsafe_b64decode(text)
    except ValueError as error:
        raise ForgedError from error
    payload, signature = whole[: _PAYLOAD.size], whole[_PAYLOAD.size :]
    if not hmac.compare_digest(_signature(payload, key), signature):
        raise ForgedError
    form, arm, bucket, version, issuer, number, test, covariate = _PAYLOAD.unpack(payload)
    if form != _FORMAT:
        raise ForgedError
    subject = Subject(
        arm=ARMS[arm],
        version=version,
        bucket=None if bucket == _NO_BUCKET else bucket,
        covariate=None if math.isnan(covariate) else covariate,
    )
    return Token(subject, issuer, number, test)


def _signature(payload: bytes, key: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")[:_SIGNATURE_BYTES]
