"""Worlds for the end-to-end tests: the demo's own, at addresses that nobody else uses."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tidegate_demo.story import Story, Told
from tidegate_demo.view import Screen
from tidegate_demo.world import World
from tidegate_tools.addresses import Subnet

Trouble = Callable[[World, int, Any], None]
Telling = tuple[World, Told]
Tell = Callable[..., contextlib.AbstractContextManager[Telling]]


@contextlib.contextmanager
def told_story(directory: Path, trouble: Trouble | None = None) -> Iterator[Telling]:
    """A world in which the whole story has been told, still running."""
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        output = stack.enter_context((directory / "screen.txt").open("w"))
        screen = Screen(Console(file=output, width=100, highlight=False))
        subnet = stack.enter_context(Subnet.claimed())
        addresses = (subnet.ip(2), subnet.ip(3))
        world = stack.enter_context(World(directory / "world", screen, addresses=addresses))
        make = trouble or (lambda _world, _act, _status: None)
        story = Story(world, screen, lambda act, status: make(world, act, status))
        yield world, story.tell()


@pytest.fixture(scope="session")
def tell(tmp_path_factory: pytest.TempPathFactory) -> Tell:
    """Tells the story in a world of its own."""

    def telling(trouble: Trouble | None = None) -> contextlib.AbstractContextManager[Telling]:
        return told_story(tmp_path_factory.mktemp("story") / "run", trouble)

    return telling
