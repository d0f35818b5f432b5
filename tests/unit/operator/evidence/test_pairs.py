"""Which of two versions is right more often."""

import pytest

from tidegate_operator.evidence.pairs import mcnemar


def test_reference_case_8() -> None:
    assert round(mcnemar(20, 5), 2) == 24.29


def test_worked_by_hand() -> None:
    assert mcnemar(0, 0) == pytest.approx(1.0)
    assert mcnemar(1, 0) == pytest.approx(1.0), "2 * B(2, 1)"
    assert mcnemar(2, 0) == pytest.approx(4 / 3), "4 * B(3, 1)"
    assert mcnemar(3, 7) == mcnemar(7, 3)


def test_the_largest() -> None:
    assert mcnemar(10**6, 0) == pytest.approx(1e300)
