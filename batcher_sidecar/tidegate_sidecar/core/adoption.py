"""Which routing table a pod applies for a model: the highest good revision that it was shown.

A table is shown by the API server, by the pod's own copy of the last one applied and by a
mounted file. Only the first can be wrong in a way that the operator must hear of: the others
are allowed to be old.

===========================================  ===============================================
a table that                                 is
===========================================  ===============================================
breaks a rule of the contract                refused
names another model or namespace             refused
is lower than the one applied                refused: a re-created table starts higher
has the revision applied but another text    refused: nobody could say which one is meant
has the revision and the text applied        the one applied, perhaps under a new uid
is higher                                    applied
===========================================  ===============================================
"""

from dataclasses import dataclass

from tidegate_contract import table as contract
from tidegate_contract.table import RoutingTable, TableError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A table as it was found. ``uid`` is its ConfigMap's, None where that is not known."""

    text: str
    digest: str
    uid: str | None = None


class Adoption:
    """One model's table in one pod.

    ``refused`` says why the table that the API server shows now is not the one applied.
    """

    def __init__(self, namespace: str, model: str) -> None:
        self._namespace = namespace
        self._model = model
        self.table: RoutingTable | None = None
        self.applied: Shown | None = None
        self.refused: str | None = None

    def offer(self, shown: Shown) -> RoutingTable | None:
        """Judge the table that is in force; returns it where it is to be applied now."""
        try:
            new = self._adopt(shown)
        except TableError as error:
            self.refused = str(error)
            return None
        self.refused = None
        return new

    def recall(self, shown: Shown) -> RoutingTable | None:
        """Judge a table that may be old: applied where it is good and higher.

        Raises:
            TableError: it is none at all, or another model's.
        """
        if self._read(shown).revision <= self._revision:
            return None
        return self._adopt(shown)

    @property
    def _revision(self) -> int:
        return self.table.revision if self.table else 0

    def _adopt(self, shown: Shown) -> RoutingTable | None:
        table = self._read(shown)
        if table.revision < self._revision:
            raise TableError(f"revision {table.revision} is lower than {self._revision}, applied")
        if self.applied and table.revision == self._revision:
            if shown.digest != self.applied.digest:
                raise TableError(f"revision {table.revision} was applied with another text")
            self.applied = shown
            return None
        self.table, self.applied = table, shown
        return table

    def _read(self, shown: Shown) -> RoutingTable:
        table = contract.decode(shown.text, shown.digest)
        if (table.namespace, table.model) != (self._namespace, self._model):
            raise TableError(
                f"it is the table of model {table.model} in namespace {table.namespace},"
                f" not of {self._model} in {self._namespace}"
            )
        return table
