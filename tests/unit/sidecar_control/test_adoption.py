"""Which table is applied of those that are shown."""

import dataclasses
from collections.abc import Callable

import pytest

from tidegate_contract import table as contract
from tidegate_contract.table import BatchSettings, RoutingTable, TableError
from tidegate_sidecar.core.adoption import Adoption, Shown

Tables = Callable[..., RoutingTable]


def _shown(table: RoutingTable, uid: str | None = "uid-1") -> Shown:
    text, digest = contract.encode(table)
    return Shown(text=text, digest=digest, uid=uid)


@pytest.fixture
def adoption() -> Adoption:
    return Adoption("default", "m")


def test_a_higher_revision_is_applied(adoption: Adoption, table: Tables) -> None:
    assert adoption.offer(_shown(table(1))) == table(1)
    assert adoption.offer(_shown(table(5))) == table(5)
    assert adoption.table == table(5)
    assert adoption.refused is None


def test_a_table_is_applied_once(adoption: Adoption, table: Tables) -> None:
    adoption.offer(_shown(table(1)))
    assert adoption.offer(_shown(table(1))) is None


def test_the_same_table_in_a_new_object_is_acknowledged_under_its_uid(
    adoption: Adoption, table: Tables
) -> None:
    adoption.recall(_shown(table(1), uid=None))
    assert adoption.offer(_shown(table(1), uid="uid-2")) is None
    assert adoption.applied == _shown(table(1), uid="uid-2")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda t: dataclasses.replace(_shown(t(6)), text=_shown(t(6)).text + " "), "by hand"),
        (lambda _: Shown(text="", digest="", uid="u"), "by hand"),
        (lambda t: _shown(t(6, model="other")), "model other"),
        (lambda t: _shown(t(6, namespace="kube-system")), "namespace kube-system"),
        (lambda t: _shown(t(4)), "revision 4 is lower than 5"),
        (lambda t: _shown(t(5, baseline={2: 10_000})), "another text"),
        (lambda t: _shown(t(6, baseline={1: 9_000})), "must add up"),
    ],
)
def test_a_bad_table_is_refused_and_the_last_good_one_stays(
    adoption: Adoption, table: Tables, bad: Callable[[Tables], Shown], message: str
) -> None:
    adoption.offer(_shown(table(5)))
    assert adoption.offer(bad(table)) is None
    assert message in str(adoption.refused)
    assert adoption.table == table(5)
    assert adoption.applied == _shown(table(5))


def test_a_refusal_ends_with_the_next_good_table(adoption: Adoption, table: Tables) -> None:
    adoption.offer(_shown(table(5)))
    adoption.offer(_shown(table(4)))
    adoption.offer(_shown(table(5)))
    assert adoption.refused is None


def test_a_recalled_table_may_be_old(adoption: Adoption, table: Tables) -> None:
    assert adoption.recall(_shown(table(3))) == table(3)
    assert adoption.recall(_shown(table(2))) is None
    assert adoption.recall(_shown(table(3, baseline={2: 10_000}))) is None
    assert adoption.recall(_shown(table(4))) == table(4)
    assert adoption.refused is None


def test_a_recalled_table_is_held_to_the_same_rules(adoption: Adoption, table: Tables) -> None:
    with pytest.raises(TableError, match="by hand"):
        adoption.recall(Shown(text="{}", digest="0"))
    with pytest.raises(TableError, match="model other"):
        adoption.recall(_shown(table(1, model="other")))
    assert adoption.table is None


def test_an_edit_of_the_batch_settings_is_a_table_like_any_other(
    adoption: Adoption, table: Tables
) -> None:
    adoption.offer(_shown(table(1)))
    edited = contract.RoutingTable(
        **{name: getattr(table(1), name) for name in table(1).__struct_fields__}
        | {"revision": 2, "batch": BatchSettings(max_batch_size=4)}
    )
    assert adoption.offer(_shown(edited)) == edited
