"""The search: trial after trial, each told to an optimiser that learns from them, all kept.

The optimiser is Optuna's tree-structured Parzen estimator (Bergstra et al.: Algorithms for
Hyper-Parameter Optimization, NIPS 2011). Every trial is appended to a journal file at once, so that
a search that was broken off goes on where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tidegate_tune.score import Outcome, Parts, Weights, parts
from tidegate_tune.space import Candidate, Space, baseline, draw

Evaluate = Callable[[Candidate], Outcome]


@dataclass(frozen=True, slots=True)
class Tried:
    """One finished trial."""

    number: int
    candidate: Candidate
    parts: Parts
    score: float


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, and where it is kept. ``load``: what trials are made under, as JSON."""

    model: str
    space: Space
    weights: Weights
    load: Mapping[str, object]
    journal: Path
    seed: int

    def kept(self) -> list[Tried]:
        """The trials that the journal has, in their order.

        Raises:
            ValueError: the journal is that of another search.
        """
        return [self._tried(one) for one in self._study().get_trials(states=_COMPLETE)]

    def run(self, evaluate: Evaluate, trials: int, told: Callable[[Tried], None]) -> list[Tried]:
        """Try until there are so many finished trials; ``told`` hears of each new one.

        The first trial is the default policy. Ctrl-C ends the search; what was finished stays.

        Raises:
            ValueError: the journal is that of another search.
        """
        study, done = self._study(), self.kept()
        # Begun anew from the seed alone, it would draw again what it has drawn.
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(done))
        if not done:
            study.enqueue_trial(baseline(self.space))
        while len(done) < trials:
            trial = study.ask()
            candidate = draw(trial, self.space)
            try:
                found = parts(evaluate(candidate))
            except BaseException:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            score = found.weigh(self.weights)
            trial.set_user_attr("parts", asdict(found))
            study.tell(trial, score)
            done.append(Tried(trial.number, candidate, found, score))
            told(done[-1])
        return done

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.journal))),
                study_name=self.model,
                direction="maximize",
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.journal} is no journal of a search: {error}") from error
        asked = {"space": self.space, "weights": self.weights, "load": self.load}
        what = msgspec.json.decode(msgspec.json.encode(asked))  # as a journal gives it back
        if study.user_attrs.get("what", what) != what:
            raise ValueError(
                f"{self.journal} holds a search under another load, or with other weights or batch "
                "sizes: name another --journal, or remove it"
            )
        study.set_user_attr("what", what)
        return study

    def _tried(self, one: optuna.trial.FrozenTrial) -> Tried:
        found = Parts(**one.user_attrs["parts"])
        candidate = draw(optuna.trial.FixedTrial(one.params), self.space)  # type: ignore[arg-type]
        return Tried(one.number, candidate, found, one.value or 0.0)


_COMPLETE = (optuna.trial.TrialState.COMPLETE,)


def best(done: Sequence[Tried]) -> Tried:
    """The trial with the highest score, the earliest of equals; there is one."""
    return max(done, key=lambda one: (one.score, -one.number))
