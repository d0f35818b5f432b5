"""What a person sees while something long goes on: what, why, how long, how far.

On a terminal, one line for each task, ticking. In a log, a line at the start, one every
15 seconds, and one at the end. Never silence.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

LOG_EVERY_SECONDS = 15.0


class Task:
    """One piece of work in progress; `note` says how far it has come."""

    def __init__(self, what: str, expected: str) -> None:
        self.what = what
        self.expected = expected
        self.note = ""
        self.started = time.monotonic()

    def line(self) -> str:
        """What, elapsed, expected and the latest note, in one line."""
        note = f": {self.note}" if self.note else ""
        return f"{self.what}, {clock(self.elapsed())} of about {self.expected}{note}"

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


class Board:
    """Where tasks are shown; tasks may come from several threads."""

    def __init__(self, stream: TextIO | None = None, every: float = LOG_EVERY_SECONDS) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._every = every
        self._tasks: list[Task] = []
        self._lock = threading.Lock()
        self._spinner = Spinner("dots")
        self._ended = threading.Event()
        self._live: Live | None = None
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._ended.clear()
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, transient=True)
            self._live.start()
        else:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._live:
            self._live.stop()
        if self._ticker:
            self._ticker.join()

    def say(self, text: str) -> None:
        """One line above the tasks."""
        self._console.print(text, markup=False)

    @contextlib.contextmanager
    def task(self, what: str, why: str, expected: str) -> Iterator[Task]:
        """Shows a task for as long as the block runs."""
        task = Task(what, expected)
        self.say(f"{what}: {why}; about {expected}")
        with self._lock:
            self._tasks.append(task)
        try:
            yield task
        except BaseException:
            self.say(f"{what}: FAILED after {clock(task.elapsed())}")
            raise
        else:
            self.say(f"{what}: done in {clock(task.elapsed())}")
        finally:
            with self._lock:
                self._tasks.remove(task)

    def _lines(self) -> list[str]:
        with self._lock:
            return [task.line() for task in self._tasks]

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for line in self._lines():
            table.add_row(self._spinner, line)
        return table

    def _tick(self) -> None:
        while not self._ended.wait(self._every):
            for line in self._lines():
                self.say(line)


def clock(seconds: float) -> str:
    """Seconds as people say them: 8s, 4m05s."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
