"""The cache: whatever the order in which lists, events and writes arrive, the newest counts."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.adapters.cluster import CONFIG_MAP, POD, Raw
from tidegate_operator.cache import Cache, identity

KIND = "ModelVersion"
KEY = ("default", "digits")


def version(revision: int, number: int = 1, uid: str = "u", **spec: Any) -> Raw:
    return {
        "metadata": {
            "name": f"digits-{number}",
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(revision),
        },
        "spec": {"model": "digits", "version": number, **spec},
    }


def shown(cache: Cache) -> dict[int, str]:
    return {one.spec.version: one.metadata.resource_version for one in cache.versions(KEY)}


def replace(cache: Cache, kind: str, listed: list[Raw], revision: int) -> None:
    for raw in listed:
        cache.put(kind, raw)
    cache.retain(kind, {identity(raw) for raw in listed}, revision)


def test_an_older_object_loses() -> None:
    cache = Cache()
    assert cache.put(KIND, version(9))
    assert not cache.put(KIND, version(8))
    assert not cache.put(KIND, version(9))
    assert cache.put(KIND, version(10))
    assert shown(cache) == {1: "10"}


def test_resource_versions_are_numbers() -> None:
    cache = Cache()
    cache.put(KIND, version(9))
    assert cache.put(KIND, version(10))


def test_a_deletion_is_of_one_uid() -> None:
    cache = Cache()
    cache.put(KIND, version(9, uid="new"))
    cache.remove(KIND, version(8, uid="old"))
    assert shown(cache) == {1: "9"}


def test_an_answer_that_comes_after_the_deletion_does_not_bring_it_back() -> None:
    cache = Cache()
    cache.put(KIND, version(5))
    cache.remove(KIND, version(7))
    assert not cache.put(KIND, version(6))
    assert shown(cache) == {}
    assert cache.put(KIND, version(8, uid="new"))


def test_a_list_notices_what_no_watch_told() -> None:
    cache = Cache()
    cache.put(KIND, version(5, 1))
    cache.put(KIND, version(6, 2))
    replace(cache, KIND, [version(6, 2)], 7)
    assert shown(cache) == {2: "6"}


def test_a_list_does_not_undo_what_watches_told_since() -> None:
    cache = Cache()
    cache.put(KIND, version(5, 1))
    cache.put(KIND, version(8, 2))
    cache.remove(KIND, version(9, 1))
    replace(cache, KIND, [version(5, 1)], 7)
    assert shown(cache) == {2: "8"}


HISTORY = [("put", 1, 1), ("put", 2, 2), ("put", 1, 3), ("delete", 1, 4), ("put", 1, 5)]


@given(st.permutations(HISTORY), st.integers(0, 5), st.integers(0, 5))
def test_any_order_of_arrival_ends_the_same(
    events: list[tuple[str, int, int]], listed_at: int, when: int
) -> None:
    cache = Cache()
    for index, (what, number, revision) in enumerate([*events, ("end", 0, 0)]):
        if index == when:
            replace(cache, KIND, _world(listed_at), listed_at)
        if what == "put":
            cache.put(KIND, version(revision, number, uid=f"{number}-{revision > 4}"))
        elif what == "delete":
            cache.remove(KIND, version(revision, number, uid="1-False"))
    replace(cache, KIND, _world(5), 5)
    assert shown(cache) == {1: "5", 2: "2"}


def _world(revision: int) -> list[Raw]:
    now: dict[int, int | None] = {}
    for what, number, at in HISTORY:
        if at <= revision:
            now[number] = at if what == "put" else None
    return [
        version(at, number, uid=f"{number}-{at > 4}")
        for number, at in now.items()
        if at is not None
    ]


def test_what_does_not_fit_is_left_out_with_its_reason_until_it_is_mended_or_gone() -> None:
    cache = Cache()
    cache.put(KIND, version(1, lifecycle="Asleep"))
    assert cache.versions(KEY) == ()
    (misfit,) = cache.unfit(KEY)
    assert (misfit.kind, misfit.metadata["name"]) == (KIND, "digits-1")
    assert "lifecycle" in misfit.problem
    cache.put(KIND, version(2))
    assert not cache.unfit(KEY)
    cache.put(KIND, version(3, lifecycle="Asleep"))
    cache.remove(KIND, version(4))
    assert not cache.unfit(KEY)


def table(revision: int, data: dict[str, str]) -> Raw:
    return {
        "metadata": {
            "name": "tidegate-routing-digits",
            "namespace": "default",
            "uid": "t",
            "resourceVersion": str(revision),
            "labels": {"tidegate.dev/model": "digits"},
        },
        "data": data,
    }


def test_a_table_that_is_none() -> None:
    cache = Cache()
    cache.put(CONFIG_MAP, table(1, {}))
    stored = cache.table(KEY)
    assert stored is not None
    assert (stored.table, stored.problem is not None) == (None, True)
    assert cache.models() == {KEY}


def pod(name: str, labels: dict[str, str], phase: str = "Running") -> Raw:
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "resourceVersion": "1",
            "labels": labels,
        },
        "status": {"phase": phase, "podIP": "10.0.0.1"},
    }


def test_pods_are_those_that_the_selector_matches_and_that_have_not_ended() -> None:
    cache = Cache()
    selector = {
        "matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "zone", "operator": "NotIn", "values": ["x"]},
            {"key": "app", "operator": "Exists"},
        ]
    }
    cache.put(KIND, version(1, podSelector=selector))
    cache.put(POD, pod("fits", {"app": "a"}))
    cache.put(POD, pod("old", {"app": "a", "old": "1"}))
    cache.put(POD, pod("elsewhere", {"app": "b", "zone": "x"}))
    cache.put(POD, pod("ended", {"app": "b"}, phase="Succeeded"))
    cache.put(POD, pod("other", {"tidegate.dev/model": "digits"}))
    assert [one.name for one in cache.pods(KEY)] == ["fits"]


def test_where_selectors_differ_the_traffics_counts() -> None:
    cache = Cache()
    cache.put(KIND, version(1, 2, podSelector={"matchLabels": {"app": "new"}}))
    cache.put(KIND, version(2, 1, podSelector={"matchLabels": {"app": "old"}}))
    cache.put(POD, pod("new", {"app": "new"}))
    cache.put(POD, pod("old", {"app": "old"}))
    assert len(cache.pods(KEY)) == 1


def changed(raw: Raw, revision: int, **status: Any) -> Raw:
    meta = {**raw["metadata"], "resourceVersion": str(revision)}
    return {**raw, "metadata": meta, "status": {**raw["status"], **status}}


def test_a_pod_concerns_the_models_that_select_it_and_only_when_it_changed() -> None:
    cache = Cache()
    cache.put(KIND, version(1))
    cache.put(KIND, version(2, 2, model="other", podSelector={"matchLabels": {"app": "a"}}))
    cache.put(KIND, version(3, 3, model="zone", podSelector={"matchExpressions": [IN_ZONE]}))
    one = pod("one", {"app": "a", "tidegate.dev/model": "digits", "zone": "x"})
    assert cache.put(POD, one) == {KEY, ("default", "other"), ("default", "zone")}
    assert cache.put(POD, changed(one, 2)) == set()
    assert cache.put(POD, changed(one, 3, podIP="10.0.0.2")) == cache.sharing(cache.pods(KEY))
    moved = changed(pod("one", {"app": "b"}), 4)
    assert KEY in cache.put(POD, moved), "a model that it does not serve any more"
    assert cache.sharing(cache.pods(("default", "other"))) == set()
    assert cache.remove(POD, moved) == set()


IN_ZONE = {"key": "zone", "operator": "Exists"}


def test_a_policy_concerns_the_models_that_it_names_and_named() -> None:
    cache = Cache()
    policy = {"metadata": version(1)["metadata"], "spec": {"models": ["a", "b"]}}
    assert cache.put("BatchPolicy", policy) == {("default", "a"), ("default", "b")}
    edited = {"metadata": version(2)["metadata"], "spec": {"models": ["b", "c"]}}
    assert cache.put("BatchPolicy", edited) == {("default", m) for m in "abc"}
    assert cache.policies(("default", "a")) == ()
    assert [one.spec.models for one in cache.policies(("default", "c"))] == [["b", "c"]]


def test_what_is_gone_leaves_nothing_behind() -> None:
    cache = Cache()
    cache.put(KIND, version(1))
    cache.put(POD, pod("one", {"tidegate.dev/model": "digits"}))
    cache.put(CONFIG_MAP, table(1, {}))
    for kind in (KIND, POD, CONFIG_MAP):
        replace(cache, kind, [], 9)
    assert (cache.models(), cache.pods(KEY), cache.table(KEY)) == (set(), (), None)
