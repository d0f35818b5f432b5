"""Pairs that disagreed: which, for whom, and how they are shown."""

import base64

import msgspec
import pytest
from rich.console import Console
from shelf import Shelf

from tidegate_cli import pairs
from tidegate_cli.errors import NoSidecarError
from tidegate_cli.pairs import Pair


def test_an_answer_may_have_more_than_is_known_here() -> None:
    body = b'{"pairs": [{"at": 1.5, "difference": "x", "bucket": 3}], "dropped": 7}'

    assert pairs.decode(body) == [Pair(at=1.5, difference="x")]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"pairs": [{}]}', b"no pairs"])
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        pairs.decode(body)


def test_the_newest_of_all_pods_come_first() -> None:
    answers = {"a": [Pair(at=1.0), Pair(at=3.0)], "b": [Pair(at=2.0), Pair(at=3.0)]}

    newest = pairs.newest(answers, 3)

    assert [(one.at, one.pod) for one in newest] == [(3.0, "a"), (3.0, "b"), (2.0, "b")]


def test_the_token_goes_where_it_arrives() -> None:
    assert pairs.headers("t", direct=True) == {"Authorization": "Bearer t"}
    assert pairs.headers("t", direct=False) == {"tidegate-token": "t"}


def test_the_token_is_in_the_models_secret(shelf: Shelf) -> None:
    encoded = base64.b64encode(b"opens\n").decode()
    meta = {"name": "tidegate-pairs-resnet50-59a8f79c", "namespace": "default"}
    shelf.put({"kind": "Secret", "metadata": meta, "data": {"token": encoded}})

    assert pairs.token(shelf, "default", "Resnet50") == "opens"


def test_without_a_secret_or_its_key_it_is_said_how_to_get_pairs(shelf: Shelf) -> None:
    with pytest.raises(NoSidecarError, match="Secret tidegate-pairs-digits with a key token"):
        pairs.token(shelf, "default", "digits")
    meta = {"name": "tidegate-pairs-digits", "namespace": "default"}
    shelf.put({"kind": "Secret", "metadata": meta})
    with pytest.raises(NoSidecarError, match="has no key token"):
        pairs.token(shelf, "default", "digits")


def shown(*pairs_: Pair) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(pairs.side_by_side(pairs_, "stable, version 1", "canary, version 2"))
    return [line.strip() for line in captured.get().splitlines()]


def test_a_tensor_is_shown_by_its_first_values() -> None:
    body = msgspec.json.encode(
        {
            "pairs": [
                {
                    "at": 0.0,
                    "request": {
                        "INPUT": {"datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64},
                        "TEXT": {
                            "datatype": "BYTES",
                            "shape": [1],
                            "data": ["é"],
                            "truncated": True,
                        },
                    },
                    "parameters": {"beam": 4},
                    "stable": {"LABEL": {"datatype": "INT64", "shape": [1], "data": [7]}},
                    "canary": {"error": "503 queue is full"},
                    "difference": "the canary failed",
                }
            ]
        }
    )

    text = " ".join(shown(*pairs.decode(body)))

    assert f"INPUT: FP32 [1, 64]: {', '.join(['0.5'] * 16)}, …" in text
    assert 'TEXT: BYTES [1]: "é", …' in text
    assert 'parameters: {"beam": 4}' in text
    assert "LABEL: INT64 [1]: 7" in text
    assert "error: 503 queue is full" in text


def test_long_answers_wrap_in_their_own_half() -> None:
    pair = Pair(
        at=0.0,
        request={"INPUT": list(range(60))},
        stable={"OUT": "s" * 120},
        canary={"OUT": "c" * 120},
        difference="OUT differs",
    )
    lines = shown(pair)

    assert "OUT differs" in lines[0]
    assert max(len(line) for line in lines) <= 100
    assert sum(line.count("s" * 10) > 0 and line.count("c" * 10) > 0 for line in lines) >= 3
