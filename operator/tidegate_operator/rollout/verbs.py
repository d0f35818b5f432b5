"""What a person said by annotation, each word acted on once.

Acting and remembering the word (``status.lastVerb``) are one write; the annotation is removed after
it. So a kill between the two repeats nothing: a word that was acted on is only removed. Once it is
gone the same word can be said again.
"""

from dataclasses import dataclass
from typing import Final, Literal

from tidegate_contract.names import GROUP
from tidegate_operator.api.meta import Metadata

ABORT: Final = f"{GROUP}/abort"
RETRY: Final = f"{GROUP}/retry"
PROMOTE: Final = f"{GROUP}/promote"


@dataclass(frozen=True, slots=True)
class Abort:
    """Go back now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Begin a finished one anew."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Go on: to the next step, or to the end. ``at``: only from this step (counted from 1)."""

    to: Literal["step", "full"]
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A word that means nothing."""

    why: str


Verb = Abort | Retry | Promote | Unknown


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word as it stands on the object. ``text``: what ``lastVerb`` remembers it by."""

    annotation: str
    value: str
    verb: Verb

    @property
    def text(self) -> str:
        """Such as ``promote=step@2``."""
        return f"{self.annotation.partition('/')[2]}={self.value}"


@dataclass(frozen=True, slots=True)
class Removal:
    """An annotation to be removed, if it still has this value."""

    kind: str
    metadata: Metadata
    annotation: str
    value: str


def spoken(meta: Metadata, last: str | None = None) -> Spoken | None:
    """The word that counts; abort before retry before promote. ``last``: what ``lastVerb``
    remembers. Only abort comes before that: it must be gone before ``last`` forgets it, or it would
    be acted on again.
    """
    words = [
        Spoken(annotation, value, _verb(annotation, value))
        for annotation in (ABORT, RETRY, PROMOTE)
        if (value := meta.annotations.get(annotation)) is not None
    ]
    return min(words, key=lambda one: (one.annotation != ABORT, one.text != last), default=None)


def _verb(annotation: str, value: str) -> Verb:
    if annotation == ABORT:
        return Abort(value.strip() or "no reason given")
    if annotation == RETRY:
        return Retry()
    match value.strip().split("@"):
        case ["full"]:
            return Promote("full")
        case ["step"]:
            return Promote("step")
        case ["step", at] if at.isdecimal():
            return Promote("step", int(at))
    return Unknown(f"{PROMOTE} must be step, step@N or full, not {value!r}")
