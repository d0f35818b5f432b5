"""Cases that mostly wait, several at once.

Each is a test that reads like any other, but for its ``@abreast``: when the first of a module is
due, all those that were chosen begin, a few at a time, each in a thread and a world of its own. The
tests then only say how they ended.
"""

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import pytest

AT_ONCE = 3

Case = Callable[..., None]
Begun = dict[str, Future[None]]
_GIVEN = {"world", "proxy", "model"}
"""What a module gives its cases; whatever else they take are their parameters."""


def abreast(case: Case) -> Case:
    """The test of a case."""

    def test(begun: Begun, request: pytest.FixtureRequest, **_: object) -> None:
        begun[request.node.name].result()

    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, one in inspect.signature(case).parameters.items()
        if name not in _GIVEN
    ]
    fixtures = list(inspect.signature(test).parameters.values())[:2]
    test.__signature__ = inspect.Signature([*fixtures, *own])  # type: ignore[attr-defined]
    test.__name__, test.__doc__ = case.__name__, case.__doc__
    test.case = case  # type: ignore[attr-defined]
    return test


@contextmanager
def under_way(
    request: pytest.FixtureRequest, carry_out: Callable[[Case, dict[str, Any]], None]
) -> Iterator[Begun]:
    """All chosen cases of a module, begun; at the end none goes on. ``carry_out``: lets go a case,
    with its parameters.
    """
    pool = ThreadPoolExecutor(AT_ONCE)
    begun = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            case = getattr(item.function, "case", None)
            if case is not None:
                parameters = item.callspec.params if hasattr(item, "callspec") else {}
                begun[item.name] = pool.submit(carry_out, case, parameters)
    try:
        yield begun
    finally:
        pool.shutdown(cancel_futures=True)


def let_go(case: Case, parameters: dict[str, Any], **given: Any) -> None:
    """Carry a case out with what it takes of what is given."""
    taken = inspect.signature(case).parameters
    case(**{name: one for name, one in given.items() if name in taken}, **parameters)


def ended(begun: Begun) -> None:
    """Returns when nothing goes on any more that would be disturbed."""
    wait(begun.values())
