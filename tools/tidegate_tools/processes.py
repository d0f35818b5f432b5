"""Child processes that never outlive their parent, stopped in reverse order.

Each child leads a session of its own, so that Ctrl-C reaches only the parent, which then
stops them in order; a parent that is killed takes them along (see `tether`). Signals go
only to processes started here, and never to one that has been reaped.
"""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

from tidegate_tools.tether import tethered

GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.02

_Popen = subprocess.Popen[bytes]
_Start = Callable[[], _Popen]


@dataclass(frozen=True)
class Launch:
    """A command line and its whole environment (None: the parent's)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None


class ProcessFailed(Exception):  # noqa: N818 - it is named for what happened
    """A child ended, or was not ready in time; the message holds its log's last lines."""


class Process:
    """One child process, and whatever it started in its session."""

    def __init__(self, name: str, popen: _Popen, log: Path) -> None:
        self.name = name
        self.pid = popen.pid
        self.log = log
        self._popen = popen
        self._lock = threading.RLock()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.poll() is None

    def poll(self) -> int | None:
        """The exit status, None while it runs. What a dead leader left is killed."""
        with self._lock:
            if self._popen.returncode is None and self._is_zombie():
                # While the zombie is not reaped its id, and so its group's, is surely ours.
                self._kill_group()
            return self._popen.poll()

    def signal(self, number: int) -> None:
        """Sends a signal to the process itself, where it still runs."""
        with self._lock:
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the process and its group, at once."""
        with self._lock:
            if self.poll() is None:
                self._kill_group()
        # Only poll reaps it: else it may be gone when another thread looks for its zombie.
        while self.poll() is None:
            time.sleep(_POLL_SECONDS)

    def stop(self, grace: float = GRACE_SECONDS) -> int:
        """SIGTERM, then SIGKILL after the grace; the exit status."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        while (status := self.poll()) is None:
            if time.monotonic() >= deadline:
                self.kill()
            time.sleep(_POLL_SECONDS)
        return status

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Returns once `ready()` is true; raises when the process dies or time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            if (status := self.poll()) is not None:
                raise ProcessFailed(self._report(f"ended with status {status}"))
            if time.monotonic() >= deadline:
                raise ProcessFailed(self._report(f"was not ready after {timeout:g} s"))
            time.sleep(_POLL_SECONDS)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _report(self, what: str) -> str:
        return f"{self.name} {what}; the last lines of {self.log}:\n{self.tail()}"

    def _is_zombie(self) -> bool:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def _kill_group(self) -> None:
        # The group may be all gone, or not yet be there in the first instant of a start.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(self.pid, signal.SIGKILL)


class Supervisor:
    """Starts children and stops them all, the last one first.

    As a context manager in the main thread it also turns SIGTERM into an orderly stop, which a
    second Ctrl-C does not break off.
    """

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._previous: Any = None

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._previous = signal.signal(signal.SIGTERM, _exit_in_order)
        return self

    def __exit__(self, *_: object) -> None:
        with _undisturbed():
            self.stop()
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log: Path,
        cwd: Path | None = None,
    ) -> Process:
        """Starts a child; its output is added to the log file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            popen = _spawn(
                lambda: subprocess.Popen(
                    tethered(list(argv)),
                    env=env,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        process = Process(name, popen, log)
        self._processes = [one for one in self._processes if one.alive] + [process]
        return process

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Stops every child, the last one first."""
        while self._processes:
            self._processes.pop().stop(grace)


def _exit_in_order(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whoever presses Ctrl-C again waits for the orderly stop, whose time is bounded: breaking it
    off would leave what children have started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _Spawner:
    """The one thread that forks: children die with it, so it lives as long as the process."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[_Start, Future[_Popen]]] = queue.SimpleQueue()
        self._pid = os.getpid()
        threading.Thread(target=self._run, name="spawner", daemon=True).start()

    def of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def order(self, start: _Start) -> _Popen:
        future: Future[_Popen] = Future()
        self._orders.put((start, future))
        return future.result()

    def _run(self) -> None:
        while True:
            start, future = self._orders.get()
            try:
                future.set_result(start())
            except OSError as error:
                future.set_exception(error)


_spawners: list[_Spawner] = []
_spawners_lock = threading.Lock()


def _spawn(start: _Start) -> _Popen:
    with _spawners_lock:
        if not (_spawners and _spawners[-1].of_this_process()):
            _spawners.append(_Spawner())
        spawner = _spawners[-1]
    return spawner.order(start)
