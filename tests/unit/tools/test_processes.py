"""Children never outlive their parent, however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tidegate_tools
from tidegate_tools.processes import ProcessFailed, Supervisor

SLEEP = ["sleep", "60"]
# Says who it is, and the id of a child of its own, which would survive an ordinary kill.
FAMILY = ["sh", "-c", "sleep 60 & echo $! ready; wait"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]
# A shell's job in the background, as the tests may be, would pass on that it ignores Ctrl-C.
PARENT = """
import signal, sys, time
from pathlib import Path
from tidegate_tools.processes import Supervisor
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
with Supervisor() as supervisor:
    for name in ("one", "two"):
        note = f"trap 'echo {name} >> {folder}/order; exit' TERM"
        script = f"{note}; echo up; while :; do sleep .02; done"
        child = supervisor.start(name, ["sh", "-c", script], log=folder / f"{name}.log")
        child.wait_until(lambda: "up" in child.tail(), 60.0)
        print(child.pid, flush=True)
    time.sleep(60)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def parent_with_two_children(
    folder: Path, code: str = PARENT
) -> tuple[subprocess.Popen[str], list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(tidegate_tools.__file__).parents[1])},
    )
    assert parent.stdout
    children = [int(parent.stdout.readline()) for _ in range(2)]
    parent.stdout.close()
    return parent, children


def test_children_of_a_killed_parent_die(tmp_path: Path) -> None:
    parent, children = parent_with_two_children(tmp_path)
    assert not any(gone(pid) for pid in children)
    parent.kill()
    parent.wait()
    assert eventually(lambda: all(gone(pid) for pid in children))
    assert not (tmp_path / "order").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_parent_told_to_stop_stops_its_children_the_last_first(
    tmp_path: Path, number: signal.Signals
) -> None:
    parent, children = parent_with_two_children(tmp_path)
    parent.send_signal(number)
    parent.wait(60)
    assert all(gone(pid) for pid in children)
    assert (tmp_path / "order").read_text().split() == ["two", "one"]


def test_a_second_interruption_does_not_break_off_the_stop(tmp_path: Path) -> None:
    # Each child, told to go, presses Ctrl-C once more.
    code = PARENT.replace("trap '", "trap 'kill -INT $PPID; ")
    parent, children = parent_with_two_children(tmp_path, code)
    parent.send_signal(signal.SIGINT)
    parent.wait(60)
    assert all(gone(pid) for pid in children)
    assert (tmp_path / "order").read_text().split() == ["two", "one"]


def test_a_child_that_will_not_go_is_killed_after_the_grace(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        child = supervisor.start("stubborn", STUBBORN, log=tmp_path / "log")
        child.wait_until(lambda: "ready" in child.tail(), 60.0)
        started = time.monotonic()
        assert child.stop(grace=0.3) == -signal.SIGKILL
        assert time.monotonic() - started >= 0.3


def test_what_a_dead_child_had_started_is_killed_too(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        child = supervisor.start("family", FAMILY, log=tmp_path / "log")
        child.wait_until(lambda: "ready" in child.tail(), 60.0)
        grandchild = int(child.tail().split()[0])
        os.kill(child.pid, signal.SIGKILL)
        assert eventually(lambda: not child.alive)
        assert eventually(lambda: gone(grandchild))


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path) -> None:
    script = ["sh", "-c", "echo no such key >&2; exit 3"]
    with Supervisor() as supervisor:
        child = supervisor.start("server", script, log=tmp_path / "log")
        with pytest.raises(ProcessFailed, match=r"(?s)server ended with status 3.*no such key"):
            child.wait_until(lambda: False, 60.0)
        late = supervisor.start("late", SLEEP, log=tmp_path / "late")
        with pytest.raises(ProcessFailed, match=r"not ready after 0\.1 s"):
            late.wait_until(lambda: False, 0.1)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        child = supervisor.start("none", ["/no/such/program"], log=tmp_path / "log")
        with pytest.raises(ProcessFailed, match="cannot start /no/such/program"):
            child.wait_until(lambda: False, 60.0)


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        thread = threading.Thread(
            target=supervisor.start, args=("s", SLEEP), kwargs={"log": tmp_path / "log"}
        )
        thread.start()
        thread.join()
        (child,) = supervisor._processes
        assert not eventually(lambda: not child.alive, 0.3)
    assert not child.alive


def test_a_supervisor_can_be_used_again_after_a_stop(tmp_path: Path) -> None:
    supervisor = Supervisor()
    first = supervisor.start("s", SLEEP, log=tmp_path / "log")
    supervisor.stop()
    supervisor.stop()
    second = supervisor.start("s", SLEEP, log=tmp_path / "log")
    assert (first.alive, second.alive) == (False, True)
    supervisor.stop()
    assert second.poll() == -signal.SIGTERM


def test_one_thread_may_kill_what_another_asks_after(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def ask_after(alive: Callable[[], bool]) -> None:
        try:
            while alive():
                pass
        except OSError as error:
            failures.append(error)

    with Supervisor() as supervisor:
        for number in range(30):
            child = supervisor.start(f"child-{number}", ["sleep", "60"], log=tmp_path / "log")
            asking = [
                threading.Thread(target=ask_after, args=(lambda child=child: child.alive,))
                for _ in range(4)
            ]
            for one in asking:
                one.start()
            child.kill()
            for one in asking:
                one.join()
    assert failures == []
