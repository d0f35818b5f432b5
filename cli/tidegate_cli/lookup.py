"""Finds models, rollouts and tests on the API server, and says what is near where there is none."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

import msgspec

from tidegate_cli.cluster import CONFIG_MAP, MODEL_VERSION, ROLLOUT, TEST, Cluster, Raw
from tidegate_cli.errors import ClusterError, ForbiddenError, NotFoundError
from tidegate_cli.models import Model, Objects, gather
from tidegate_cli.objects import Trial, read
from tidegate_contract import names

_KINDS: Final = {
    "cro": ROLLOUT,
    "crollout": ROLLOUT,
    "canaryrollout": ROLLOUT,
    "abt": TEST,
    "abtest": TEST,
}


def observe(cluster: Cluster, namespace: str | None) -> list[Model]:
    """All models of a namespace, or of all of them (None).

    Raises:
        ClusterError: the API server cannot be reached, or refuses to list the objects. A routing
            table that may not be read is a problem of the model's instead.
    """
    trials = _trials(cluster, namespace)
    tables, problem = _tables(cluster, namespace)
    return gather(Objects(cluster.list(MODEL_VERSION, namespace), trials, tables, problem))


def observe_one(cluster: Cluster, namespace: str, name: str) -> Model:
    """One model.

    Raises:
        NotFoundError: no object names it.
        ClusterError: as for ``observe``.
    """
    found = observe(cluster, namespace)
    for one in found:
        if one.name == name:
            return one
    raise _no_such("model", name, namespace, [one.name for one in found])


def _tables(cluster: Cluster, namespace: str | None) -> tuple[list[Raw], str]:
    try:
        return cluster.list(CONFIG_MAP, namespace, names.LABEL_MODEL), ""
    except ForbiddenError as error:
        return [], f"the live split is not shown, as its ConfigMap may not be read: {error}"


def find_trial(cluster: Cluster, namespace: str, name: str) -> Trial:
    """A rollout or test by its name, as in ``digits-2``, ``cro/digits-2`` or ``abt/one-vs-two``.

    Raises:
        NotFoundError: there is none; the message has names that are near.
        ClusterError: the API server cannot be reached, or refuses.
    """
    kind, _, bare = name.rpartition("/")
    if kind and kind.lower() not in _KINDS:
        raise NotFoundError(f"{kind} is no kind that traffic moves by; it is cro or abt")
    wanted = (_KINDS[kind.lower()],) if kind else (ROLLOUT, TEST)
    found = [raw for raw in _trials(cluster, namespace) if raw["kind"] in wanted]
    fitting = [raw for raw in found if raw["metadata"]["name"] == bare]
    if len(fitting) > 1:
        raise NotFoundError(f"{bare} is a rollout and a test: say cro/{bare} or abt/{bare}")
    if not fitting:
        what = "rollout or test" if len(wanted) > 1 else wanted[0]
        raise _no_such(what, bare, namespace, [raw["metadata"]["name"] for raw in found])
    return _understood(fitting[0])


def refreshed(cluster: Cluster, trial: Trial) -> Trial:
    """The same rollout or test as it is now.

    Raises:
        NotFoundError: it was deleted.
        ClusterError: the API server cannot be reached, or refuses.
    """
    meta = trial.metadata
    raw = cluster.get(trial.kind, meta.namespace, meta.name)
    now = _understood({**raw, "kind": trial.kind})
    if now.metadata.uid != meta.uid:
        raise NotFoundError(f"{trial.short} was deleted, and another one of that name created")
    return now


def _trials(cluster: Cluster, namespace: str | None) -> list[Raw]:
    try:
        rollouts = cluster.list(ROLLOUT, namespace)
    except NotFoundError as error:
        raise ClusterError(
            "this cluster does not know Tidegate's kinds: install the chart, or apply crds/"
        ) from error
    try:
        return [*rollouts, *cluster.list(TEST, namespace)]
    except NotFoundError:  # the CRDs are older than this command
        return rollouts


def _understood(raw: Raw) -> Trial:
    try:
        return read(raw, Trial)
    except msgspec.ValidationError as error:
        name = f"{raw['kind']} {raw['metadata']['name']}"
        raise ClusterError(
            f"{name} is not understood: {error}. Is this command older than the operator?"
        ) from error


def _no_such(what: str, name: str, namespace: str, others: Iterable[str]) -> NotFoundError:
    near = get_close_matches(name, list(others), n=3)
    listed = sorted(set(others))[:5]
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif listed:
        hint = f"there is {', '.join(listed)}"
    else:
        hint = "there is none at all; -n chooses another namespace, status -A shows all"
    return NotFoundError(f"no {what} {name} in namespace {namespace}: {hint}")
