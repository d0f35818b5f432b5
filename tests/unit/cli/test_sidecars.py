"""Sidecars are asked all at once; who does not answer is named."""

import http.server
import threading
from collections.abc import Iterator

import msgspec
import pytest
from shelf import Shelf

from tidegate_cli import sidecars
from tidegate_cli.errors import NoSidecarError, NotFoundError
from tidegate_cli.sidecars import Pod

PODS = [Pod("default", "a", "127.0.0.1"), Pod("default", "b", "127.0.0.1")]


def pod(name: str, phase: str = "Running") -> dict[str, object]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "status": {"phase": phase, "podIP": "127.0.0.1"},
    }


def test_only_running_pods_are_asked_in_the_order_of_their_names(shelf: Shelf) -> None:
    for one in (pod("b"), pod("a"), pod("c", "Pending"), pod("d", "Succeeded")):
        shelf.put(one)

    assert [one.name for one in sidecars.serving(shelf, "default", "digits", None)] == ["a", "b"]


def test_no_pod_names_the_labels_that_were_looked_for(shelf: Shelf) -> None:
    with pytest.raises(NoSidecarError, match=r"labels tidegate\.dev/model=digits"):
        sidecars.serving(shelf, "default", "digits", None)


def test_a_selector_as_the_api_server_takes_it() -> None:
    selector = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["x", "y"]},
            {"key": "tier", "operator": "NotIn", "values": ["z"]},
            {"key": "gpu", "operator": "Exists"},
            {"key": "old", "operator": "DoesNotExist"},
        ],
    }

    assert sidecars.label_selector(selector) == "a=1,b=2,zone in (x,y),tier notin (z),gpu,!old"


def test_answers_and_silences_are_told_by_pod(shelf: Shelf) -> None:
    shelf.pages = {"a": b"[1]", "b": NotFoundError("no such page")}
    ask = sidecars.through(shelf, "/routing", {})

    answers, silent = sidecars.ask_all(PODS, ask, msgspec.json.decode, may_proxy=True)

    assert (answers, silent) == ({"a": [1]}, {"b": "no such page"})


def test_nobody_answering_is_an_error_with_every_reason(shelf: Shelf) -> None:
    shelf.pages = {"a": b"<html>", "b": NotFoundError("no such page")}
    ask = sidecars.through(shelf, "/routing", {})

    with pytest.raises(
        NoSidecarError, match=r"a: speaks something else.*b: no such page.*--direct"
    ):
        sidecars.ask_all(PODS, ask, msgspec.json.decode, may_proxy=True)


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of an admin port that has no such page."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404, "no such page")

        def log_message(self, *_: object) -> None:
            pass

    address = "127.9.4.9"
    server = http.server.ThreadingHTTPServer((address, 9002), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield address
    server.shutdown()
    server.server_close()


def test_a_refusal_has_its_status_and_words(refusing: str) -> None:
    with pytest.raises(NoSidecarError, match=r"answered 404: .*no such page"):
        sidecars.direct("/pairs", {})(Pod("default", "a", refusing))


@pytest.mark.parametrize(
    ("address", "says"), [("", "no address yet"), ("127.9.4.10", "refused"), ("::1", r"::1")]
)
def test_an_address_that_does_not_answer(address: str, says: str) -> None:
    with pytest.raises(NoSidecarError, match=says):
        sidecars.direct("/pairs", {})(Pod("default", "a", address))
