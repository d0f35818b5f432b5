"""Users' own queries of one model's rollouts and tests: which are due, and what came back."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tidegate_operator.adapters.queries import Queries
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.evidence import experiment, promql
from tidegate_operator.evidence.experiment import Question
from tidegate_operator.evidence.queries import Answer, QueryError

Asked = tuple[str, str]
"""The uid of an object, and the name that its answer goes by."""
_PATIENCE: Final = 1.0
"""Seconds that a look waits for answers; those that come later are seen by the next one."""


def of_rollout(rollout: CanaryRollout, stable: int) -> dict[Asked, Question]:
    """A rollout's queries, one for each metric that has one."""
    meta, spec = rollout.metadata, rollout.spec
    values = {
        "model": spec.model,
        "stable": str(stable),
        "canary": str(spec.canary_version),
        "namespace": meta.namespace,
    }
    return {
        (meta.uid, one.name): Question(one.prometheus.query, values)
        for one in spec.metrics
        if one.prometheus is not None
    }


def of_test(test: ABTest) -> dict[Asked, Question]:
    """A test's queries."""
    found = experiment.questions(test)
    return {(test.metadata.uid, name): question for name, question in found.items()}


@dataclass(slots=True)
class Questions:
    """What one model's objects have asked and not heard yet."""

    namespace: str
    queries: Queries
    _open: dict[Asked, tuple[Question, asyncio.Task[Answer]]] = field(default_factory=dict)

    async def ask(self, wanted: Mapping[Asked, Question]) -> dict[Asked, Answer]:
        """Ask what is not asked already; gives what was answered since the last time, once. What
        was asked before an edit is not answered.
        """
        self._drop([key for key, (asked, _) in self._open.items() if wanted.get(key) != asked])
        for key, question in wanted.items():
            if key not in self._open:
                self._open[key] = question, asyncio.create_task(self._answer(question))
        if not self._open:
            return {}
        done, _ = await asyncio.wait([task for _, task in self._open.values()], timeout=_PATIENCE)
        found = {key: task.result() for key, (_, task) in self._open.items() if task in done}
        for key in found:
            del self._open[key]
        return found

    def close(self) -> None:
        """Nobody wants an answer any more."""
        self._drop(list(self._open))

    def _drop(self, keys: Iterable[Asked]) -> None:
        for key in keys:
            self._open.pop(key)[1].cancel()

    async def _answer(self, question: Question) -> Answer:
        try:
            query = promql.filled_in(question.query, question.values)
        except promql.UnknownPlaceholderError as error:
            return QueryError(0.0, str(error))
        return await self.queries.ask(self.namespace, query)
