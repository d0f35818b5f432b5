"""Several questions at one level."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values, in the same order, corrected so that any of them may be held against the level.

    Step-down: the chance of even one false claim stays below the level whatever the dependence
    (Holm 1979, "A simple sequentially rejective multiple test procedure").
    """
    ascending = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(ascending):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
