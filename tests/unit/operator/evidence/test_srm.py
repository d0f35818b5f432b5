"""The split of users: reference cases, false alarms, mismatches that must be seen."""

import numpy as np
import pytest

from tidegate_operator.evidence import srm


def test_reference_case_1() -> None:
    looks = np.array([[20, 17, 9], [18, 21, 8], [4, 6, 4], [18, 19, 11]], dtype=float)
    shares = np.array([0.4, 0.4, 0.2])
    prior, mixture, null = np.ones(3), 0.0, 0.0
    found = []
    for look in looks:
        mixture += srm.log_mixture(look, prior)
        null += srm.log_null(look, shares)
        prior = prior + look
        found.append((round(mixture, 4), round(null, 4)))
    assert found == [
        (-7.0282, -4.0776),
        (-11.9478, -8.2659),
        (-15.4714, -11.6107),
        (-19.9648, -15.7810),
    ]


def test_reference_case_7() -> None:
    assert f"{srm.chi_squared_p([821588, 815482], [0.5, 0.5]):.1e}" == "1.8e-06"


def test_looks_add_up_to_totals() -> None:
    """So that nothing but the counts needs to be remembered."""
    first, second = np.array([30.0, 20.0]), np.array([25.0, 35.0])
    prior = srm.CONCENTRATION * np.array([0.5, 0.5])
    by_look = srm.log_mixture(first, prior) + srm.log_mixture(second, prior + first)
    by_look -= srm.log_null(first, np.array([0.5, 0.5])) + srm.log_null(
        second, np.array([0.5, 0.5])
    )
    assert np.log(srm.mismatch([55, 55], [1, 1])) == pytest.approx(by_look)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_perfect_split_is_not_flagged_though_one_looks_often(share: float) -> None:
    random = np.random.default_rng(1)
    looks = np.arange(50, 20_001, 50)
    flagged = chi = 0
    for _ in range(60):
        treated = random.binomial(50, share, len(looks)).cumsum()
        arms = [[float(n - x), float(x)] for n, x in zip(looks, treated, strict=True)]
        flagged += any(srm.mismatch(arm, [1 - share, share]) >= srm.MISMATCH for arm in arms)
        chi += any(srm.chi_squared_p(arm, [1 - share, share]) < 0.01 for arm in arms)
    assert flagged == 0
    assert chi >= 3


def test_a_split_that_loses_users_is_flagged() -> None:
    assert srm.mismatch([10_000, 9_000], [0.5, 0.5]) >= srm.MISMATCH
    assert srm.mismatch([821588, 815482], [0.5, 0.5]) > 100.0
    assert srm.mismatch([9_000, 1_000], [0.5, 0.5]) >= srm.MISMATCH


def test_counts_that_are_estimates_prove_less() -> None:
    """Of two million users counted to 0.8%, arms that differ by 0.7% prove nothing."""
    exact = srm.mismatch([821588, 815482], [0.5, 0.5])
    assert srm.mismatch([821588, 815482], [0.5, 0.5], count_error=0.008) < 1.0 < exact
    assert srm.mismatch([900_000, 800_000], [0.5, 0.5], count_error=0.008) > 20.0


def test_estimated_counts_of_perfect_splits_are_not_flagged() -> None:
    """Each arm's users are counted with an error that stays as users come."""
    random = np.random.default_rng(2)
    error, flagged, unmindful = 0.008, 0, 0
    for _ in range(300):
        off = 1 + error * random.normal(size=2)
        arms = [np.array([n / 2, n / 2]) * off for n in np.geomspace(1e3, 1e7, 60)]
        flagged += any(srm.mismatch(arm, [1, 1], error) >= srm.MISMATCH for arm in arms)
        unmindful += any(srm.mismatch(arm, [1, 1]) >= srm.MISMATCH for arm in arms)
    assert flagged <= 3
    assert unmindful > 200


def test_nobody_came() -> None:
    assert srm.mismatch([0, 0], [0.5, 0.5]) == 1.0
    assert srm.chi_squared_p([0, 0], [0.5, 0.5]) == 1.0
