"""Names derived from models' names."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tidegate_contract import names

MODELS = st.from_regex(names.MODEL_PATTERN, fullmatch=True).filter(
    lambda model: len(model) <= names.MODEL_MAX_LENGTH
)


def test_a_name_that_fits_is_kept() -> None:
    assert names.routing_table_name("digits") == "tidegate-routing-digits"


def test_a_name_that_does_not_fit_gets_its_hash() -> None:
    assert names.routing_table_name("Resnet50") == "tidegate-routing-resnet50-59a8f79c"


@given(MODELS)
def test_every_model_has_a_valid_object_name(model: str) -> None:
    name = names.routing_table_name(model)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= 253


@given(MODELS, MODELS)
def test_two_models_never_share_a_name(one: str, other: str) -> None:
    same = names.routing_table_name(one) == names.routing_table_name(other)
    assert same == (one == other)


def test_names_that_differ_only_in_what_is_replaced_are_kept_apart() -> None:
    derived = {names.routing_table_name(model) for model in ("a.b", "A.b", "a_b", "a-b", "A-B")}
    assert len(derived) == 5
