"""Several questions at one level."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.evidence.multiplicity import holm


def test_reference_case_6() -> None:
    found = holm([0.01, 0.04, 0.03, 0.005, 0.55, 0.6])
    assert sorted(found) == pytest.approx([0.03, 0.05, 0.12, 0.12, 1.0, 1.0])
    assert found == pytest.approx([0.05, 0.12, 0.12, 0.03, 1.0, 1.0])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_it_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    found = holm(p_values)
    for plain, corrected in zip(p_values, found, strict=True):
        assert plain <= corrected <= 1.0
        assert corrected <= len(p_values) * plain + 1e-12
    ranked = [corrected for _, corrected in sorted(zip(p_values, found, strict=True))]
    assert ranked == sorted(ranked)
