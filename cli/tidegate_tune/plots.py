"""Pictures of a search: how the score grew, what each parameter did, what the best one gains."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tidegate_tune.study import Tried, best

_PARTS: Final = ("throughput", "latency", "utilisation", "fairness")


def draw(done: Sequence[Tried], file: Path) -> None:
    """Write one picture; its form follows the file's suffix (png, svg, pdf).

    Raises:
        ValueError: a suffix that is no picture's.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _history(axes[0, 0], done)
    _parts(axes[0, 1], done)
    _parameter(axes[1, 0], done, "maxBatchSize", [one.candidate.max_batch_size for one in done])
    axes[1, 0].set_xscale("log", base=2)
    axes[1, 0].xaxis.set_major_formatter("{x:g}")
    waits = [one.candidate.max_wait * 1000 for one in done]
    _parameter(axes[1, 1], done, "maxWait (ms)", waits)
    figure.savefig(file, dpi=120)


def _history(axes: Any, done: Sequence[Tried]) -> None:
    scores = [one.score for one in done]
    trials = range(1, len(scores) + 1)
    axes.plot(trials, scores, "o", markersize=4, label="each trial")
    best_so_far = list(accumulate(scores, max))
    axes.plot(trials, best_so_far, drawstyle="steps-post", label="best so far")
    axes.axhline(scores[0], linestyle=":", color="grey", label="default policy")
    axes.set(title="Score by trial", xlabel="trial", ylabel="score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _parts(axes: Any, done: Sequence[Tried]) -> None:
    chosen = {"default policy": done[0], "best": best(done)}
    for i, (label, one) in enumerate(chosen.items()):
        places = [place + 0.4 * i for place in range(len(_PARTS))]
        axes.bar(places, [getattr(one.parts, part) for part in _PARTS], 0.38, label=label)
    axes.set_xticks([place + 0.2 for place in range(len(_PARTS))], _PARTS)
    axes.set(title="Parts of the score", ylim=(0, 1.2))
    axes.legend(loc="upper center", ncols=2)


def _parameter(axes: Any, done: Sequence[Tried], name: str, values: Sequence[float]) -> None:
    adaptive = [one.candidate.strategy == "Adaptive" for one in done]
    for strategy, marker in (("Adaptive", "o"), ("Fixed", "x")):
        mine = [kind == (strategy == "Adaptive") for kind in adaptive]
        xs = [value for value, there in zip(values, mine, strict=True) if there]
        ys = [one.score for one, there in zip(done, mine, strict=True) if there]
        axes.plot(xs, ys, marker, label=strategy)
    axes.set(title=f"Score by {name}", xlabel=name, ylabel="score")
    axes.legend()
