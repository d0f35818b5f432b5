"""Which versions a pod's Triton loads and unloads next, so that it has what the table wants.

One action at a time, in this order, so that traffic that holds whatever happens comes first:

1. load the baseline's versions, all in one call;
2. unload a version that the table does not name, once nothing here waits for it;
3. load each other version in a call of its own: Triton drops all new versions of a call in
   which one fails.

A version that failed is tried again by itself after 2, 4, 8 .. 120 seconds, and at once when its
row in the table changes. One that took Triton down with it twice is not tried again until
its row changes, unless it is in the baseline.

While memory is short, nothing is loaded beside a version that serves: it might take that down.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from tidegate_contract.acknowledgement import VersionState
from tidegate_contract.table import LoadedVersion, RoutingTable
from tidegate_sidecar.core.version import VersionInfo

FIRST_RETRY: Final = 2.0
LAST_RETRY: Final = 120.0
CRASHES: Final = 2


@dataclass(frozen=True, slots=True)
class Load:
    """Load these versions in one call."""

    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unload:
    """Stop routing to the version, then unload it."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    row: LoadedVersion
    error: str
    attempts: int
    crashes: int
    retry_at: float


class Loading:
    """One model's versions in one pod. Times are seconds of one monotonic clock."""

    def __init__(self, pod_uid: str) -> None:
        self._pod_uid = pod_uid
        self._failures: dict[int, _Failure] = {}

    def next(
        self,
        table: RoutingTable,
        *,
        serving: Collection[int],
        present: Collection[int],
        in_use: Callable[[int], bool],
        memory_short: str | None = None,
        now: float,
    ) -> Load | Unload | None:
        """What to do now; None when nothing is to be done, or not yet.

        ``serving``: versions that requests are routed to. ``present``: versions that Triton has
        ready, which may not have been warmed yet. ``in_use``: requests wait for the version,
        or more of a sequence may come.
        ``memory_short``: why there is no room for one more, if so.
        """
        rows = {row.version: row for row in table.versions}
        self._forget(rows)
        due = [
            version
            for version, row in rows.items()
            if version not in serving
            and (version in present or (self._may_load(row) and not (memory_short and serving)))
            and self._retry_at(version) <= now
        ]
        first = [version for version in due if version in _baseline(table)]
        if fresh := tuple(version for version in first if version not in self._failures):
            return Load(fresh)
        if first:
            return Load((first[0],))
        for version in sorted({*serving, *present} - rows.keys()):
            if not in_use(version):
                return Unload(version)
        return Load((due[0],)) if due else None

    def succeeded(self, version: int) -> None:
        """The version is loaded and warmed."""
        self._failures.pop(version, None)

    def failed(
        self, table: RoutingTable, version: int, error: str, now: float, *, crashed: bool = False
    ) -> None:
        """The version could not be loaded; ``crashed``: Triton went away meanwhile."""
        row = next((row for row in table.versions if row.version == version), None)
        if row is None:
            return
        known = self._failures.get(version)
        attempts = 1 + (known.attempts if known else 0)
        crashes = crashed + (known.crashes if known else 0)
        wait = min(FIRST_RETRY * 2 ** (attempts - 1), LAST_RETRY)
        if crashes >= CRASHES and version not in _baseline(table):
            wait = float("inf")
        self._failures[version] = _Failure(
            row=row, error=error, attempts=attempts, crashes=crashes, retry_at=now + wait
        )

    def states(
        self,
        table: RoutingTable,
        *,
        serving: Mapping[int, VersionInfo],
        present: Collection[int],
        memory_short: str | None = None,
    ) -> dict[int, VersionState]:
        """What the pod says of each version that is wanted here or still served."""
        waits = f"it waits for memory: {memory_short}" if memory_short and serving else None
        states = {
            version: VersionState(
                state="Ready", inputs=list(info.inputs), outputs=list(info.outputs)
            )
            for version, info in serving.items()
        }
        for row in table.versions:
            if row.version in states:
                continue
            if failure := self._failures.get(row.version):
                states[row.version] = VersionState(state="Failed", error=failure.error)
            elif row.version in present:
                states[row.version] = VersionState(state="Loading")
            elif self._may_load(row):
                states[row.version] = VersionState(state="Loading", error=waits)
        return states

    def _may_load(self, row: LoadedVersion) -> bool:
        return row.pods is None or self._pod_uid in row.pods

    def _retry_at(self, version: int) -> float:
        failure = self._failures.get(version)
        return failure.retry_at if failure else 0.0

    def _forget(self, rows: Mapping[int, LoadedVersion]) -> None:
        """Drop what is known of rows that changed: the operator said to try again."""
        self._failures = {
            version: failure
            for version, failure in self._failures.items()
            if rows.get(version) == failure.row
        }


def _baseline(table: RoutingTable) -> set[int]:
    return {share.version for share in table.baseline if share.weight}
