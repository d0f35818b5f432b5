"""A BatchPolicy that trials change is the model's, and is put back as it was."""

import json
from typing import Any

import pytest

from tidegate_cli.cluster import Cluster
from tidegate_cli.errors import ClusterError, CommandError
from tidegate_tune.live import Policy, before
from tidegate_tune.space import merged

SPEC = {"models": ["digits"], "maxWait": "3ms", "priorities": {"default": 2, "agingReserve": 0.1}}
CHANGES = {"maxBatchSize": 8, "maxWait": "9ms", "priorities": {"agingReserve": 0.02}}


class Server:
    """An API server with one policy, applied at once; it may refuse to change it."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] = dict(SPEC)
        self.refuses = False

    def get(self, *_: str) -> dict[str, Any]:
        status = {"observedGeneration": 1, "phase": "Applied"}
        return {"metadata": {"generation": 1}, "spec": self.spec, "status": status}

    def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (kind, namespace, name) == ("BatchPolicy", "models", "digits")
        if self.refuses:
            raise ClusterError("it refuses")
        changed = merged(self.spec, body["spec"])
        self.spec = {key: value for key, value in changed.items() if value is not None}
        return self.get()


def found(server: Server, model: str = "digits") -> Policy:
    cluster: Cluster = server  # type: ignore[assignment] - as much of one as is needed
    return Policy.found(cluster, "models", "digits", model)


def test_what_was_changed_is_put_back_and_what_others_changed_stays() -> None:
    server = Server()
    policy = found(server)
    policy.change(CHANGES)
    assert server.spec["maxBatchSize"] == 8
    assert server.spec["priorities"] == {"default": 2, "agingReserve": 0.02}
    server.spec["targetLatency"] = "1s"
    policy.restore(CHANGES)
    assert server.spec == {**SPEC, "targetLatency": "1s"}


def test_a_policy_of_other_models_is_not_touched() -> None:
    with pytest.raises(CommandError, match="is for digits, not for other"):
        found(Server(), "other")


def test_one_that_could_not_be_put_back_is_said_with_the_way_to_do_it() -> None:
    server = Server()
    policy = found(server)
    policy.change(CHANGES)
    server.refuses = True
    with pytest.raises(CommandError, match="it refuses") as caught:
        policy.restore(CHANGES)
    command = str(caught.value).splitlines()[-1]
    assert "kubectl patch batchpolicy digits -n models --type merge" in command
    assert json.loads(command.partition("-p ")[2].strip("'")) == {"spec": before(SPEC, CHANGES)}


def test_what_was_not_there_is_taken_away_again() -> None:
    assert before({}, CHANGES) == {
        "maxBatchSize": None,
        "maxWait": None,
        "priorities": {"agingReserve": None},
    }
