"""A cluster that is a dictionary: the commands' port with data behind it."""

import json
from collections.abc import Mapping
from typing import Any

from tidegate_cli.cluster import CONFIG_MAP, MODEL_VERSION, ROLLOUT, TEST, Cluster, Raw
from tidegate_cli.errors import ClusterError, NotFoundError
from tidegate_cli.verbs import Pause
from tidegate_contract import names, table
from tidegate_contract.table import Arm, LoadedVersion, Owner, RoutingTable, Share


class Shelf(Cluster):
    """Objects by kind, namespace and name. ``missing``: by kind, what listing it raises."""

    namespace = "default"

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.missing: dict[str, ClusterError | NotFoundError] = {}
        self.pages: dict[str, bytes | NotFoundError] = {}

    def put(self, raw: Raw) -> Raw:
        meta = raw["metadata"]
        self.objects[raw["kind"], meta["namespace"], meta["name"]] = raw
        return raw

    def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Raw]:
        if kind in self.missing:
            raise self.missing[kind]
        return [
            json.loads(json.dumps(raw))
            for (own, where, _), raw in self.objects.items()
            if own == kind and namespace in (None, where)
        ]

    def get(self, kind: str, namespace: str, name: str) -> Raw:
        if (kind, namespace, name) not in self.objects:
            raise NotFoundError(f"{kind} {name} not found")
        copied: Raw = json.loads(json.dumps(self.objects[kind, namespace, name]))
        return copied

    def patch(self, kind: str, namespace: str, name: str, body: Raw) -> Raw:
        raw = self.get(kind, namespace, name)
        raw["metadata"].setdefault("annotations", {}).update(
            body.get("metadata", {}).get("annotations", {})
        )
        if "spec" in body:
            raw["spec"] |= body["spec"]
            raw["metadata"]["generation"] = raw["metadata"].get("generation", 1) + 1
        return self.put(raw)

    def through_pod(
        self,
        namespace: str,
        pod: str,
        path: str,
        headers: Mapping[str, str],
        port: int = names.PORT_ADMIN,
    ) -> bytes:
        page = self.pages[pod]
        if isinstance(page, NotFoundError):
            raise page
        return page


class Clock(Pause):
    """Time that passes only where somebody sleeps; ``then`` happens at each sleep."""

    def __init__(self) -> None:
        super().__init__(lambda: self.at, self._sleep)
        self.at = 1_000.0
        self.then: list[Any] = []

    def _sleep(self, seconds: float) -> None:
        self.at += seconds
        if self.then:
            self.then.pop(0)()


def version(number: int, *, name: str = "", **spec: Any) -> Raw:
    return {
        "kind": MODEL_VERSION,
        "metadata": {"name": name or f"digits-{number}", "namespace": "default"},
        "spec": {"model": "digits", "version": number, **spec},
        "status": {"phase": "Ready", "pods": {"ready": 2, "total": 2}},
    }


def rollout(name: str = "digits-2", *, created: str = "2026-12-01", **status: Any) -> Raw:
    return {
        "kind": ROLLOUT,
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": f"{created}T09:00:00Z",
        },
        "spec": {"model": "digits", "canaryVersion": 2},
        "status": status,
    }


def abtest(name: str = "one-vs-two", spec: Raw | None = None, **status: Any) -> Raw:
    raw = {**rollout(name, **status), "kind": TEST}
    raw["spec"] = {"model": "digits", "controlVersion": 1, "treatmentVersion": 2, **(spec or {})}
    return raw


def routing_table(
    owner: Raw | None = None,
    split: Mapping[tuple[str, int], int] | None = None,
    baseline: Mapping[int, int] | None = None,
) -> Raw:
    arms = split or {("stable", 1): 80, ("canary", 2): 20}
    content = RoutingTable(
        namespace="default",
        model="digits",
        revision=14,
        split_revision=14,
        owner=Owner(
            kind=owner["kind"], name=owner["metadata"]["name"], uid=owner["metadata"]["uid"]
        )
        if owner
        else None,
        split=[Arm(name=name, version=v, weight=w * 100) for (name, v), w in arms.items()],
        versions=[LoadedVersion(version=v) for _, v in arms],
        baseline=[Share(version=v, weight=w * 100) for v, w in (baseline or {1: 100}).items()],
    )
    text, digest = table.encode(content)
    return {
        "kind": CONFIG_MAP,
        "metadata": {
            "name": "tidegate-routing-digits",
            "namespace": "default",
            "labels": {names.LABEL_MODEL: "digits"},
        },
        "data": {names.TABLE_KEY: text, names.DIGEST_KEY: digest},
    }
