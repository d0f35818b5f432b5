"""How many distinct users an assigned split has seen, by arm: a sample that pods can unite.

A user is in the sample if its mark, a hash of its key, is below a limit that is the same for all
arms. The limit begins at all there is and is halved whenever the sample grows too large, so that
the users kept are a fair sample of those seen whatever their arms (``UserSample`` has the source).
"""

import struct
from base64 import b64encode
from typing import Final

from tidegate_contract.acknowledgement import UserSample
from tidegate_contract.table import Assignment

MOST: Final = 4096
"""Marks kept over all arms: numbers of users are right to 2% or so, and exact up to here."""
_ALL: Final = 2**64


class Users:
    """The distinct users of one assignment in one pod; another salt is another assignment."""

    def __init__(self) -> None:
        self._salt: str | None = None
        self._begin()

    def _begin(self) -> None:
        self._limit = _ALL
        self._arms: dict[str, set[int]] = {}
        self._kept = 0

    def follow(self, assignment: Assignment | None) -> None:
        """Count the users of an assignment from now on."""
        salt = assignment.salt if assignment else None
        if salt != self._salt:
            self._salt = salt
            self._begin()

    def see(self, arm: str, mark: int) -> None:
        """Count a user that an arm was asked to serve, once."""
        if mark >= self._limit:
            return
        marks = self._arms.get(arm)
        if marks is None:
            marks = self._arms[arm] = set()
        if mark in marks:
            return
        marks.add(mark)
        self._kept += 1
        while self._kept > MOST:
            self._halve()

    def sample(self) -> UserSample | None:
        """The sample; None where nothing is assigned."""
        if self._salt is None:
            return None
        arms = {
            arm: b64encode(struct.pack(f"<{len(marks)}Q", *sorted(marks))).decode()
            for arm, marks in self._arms.items()
        }
        return UserSample(salt=self._salt, limit=self._limit, arms=arms)

    def _halve(self) -> None:
        self._limit //= 2
        for arm, marks in self._arms.items():
            self._arms[arm] = {mark for mark in marks if mark < self._limit}
        self._kept = sum(map(len, self._arms.values()))
