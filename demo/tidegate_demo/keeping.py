"""``KEEP=1``: the demo's world goes on after its story, in a process that no terminal holds.

The whole demo then runs in a session of its own from the start: it writes to the terminal until
the story is over, reports the exit status through a pipe to the command that a person started,
and stays to keep the pods' status true and to start again what dies.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tidegate_demo.view import Screen
from tidegate_demo.world import World
from tidegate_tools import binaries


@contextlib.contextmanager
def claimed(pid_file: Path) -> Iterator[None]:
    """Be the one demo of this checkout; the lock goes with the process, however that ends.

    Raises:
        BlockingIOError: another one runs.
    """
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    with pid_file.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def detached(arguments: Sequence[str]) -> int:
    """Run the demo in a session of its own; returns its story's exit status, and lets it run on."""
    reads, writes = os.pipe()
    demo = subprocess.Popen(
        [sys.executable, "-m", "tidegate_demo", *arguments, f"--report-to={writes}"],
        pass_fds=[writes],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(writes)
    signal.signal(signal.SIGTERM, lambda *_: demo.terminate())
    while True:
        try:
            report = os.read(reads, 8)
            return int(report) if report else demo.wait()
        except KeyboardInterrupt:
            demo.send_signal(signal.SIGINT)


def keep(world: World, screen: Screen, status: int, report_to: int) -> None:
    """Say how to look around, report the status, and stay until somebody says stop."""
    screen.say("Everything goes on running, and the clients go on sending. To look around:")
    if world.cluster.kubeconfig:
        screen.say(f"export KUBECONFIG={world.cluster.kubeconfig}", "bold")
    programs = [binaries.ensure("kubectl"), Path(sys.executable).with_name("kubectl-tidegate")]
    missing = [one for one in programs if shutil.which(one.name) != str(one)]
    if missing:
        folders = ":".join(str(one.parent) for one in missing)
        screen.say(f"export PATH={folders}:$PATH", "bold")
    screen.say("To stop it: make demo-stop")
    world.traffic.start()
    os.write(report_to, str(status).encode())
    os.close(report_to)
    log = os.open(world.directory / "demo.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    while True:
        signal.pause()


def stop(pid_file: Path) -> int:
    """End the demo that runs, in order; returns when it is gone."""
    with contextlib.suppress(FileNotFoundError), pid_file.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Stopping the demo ...")
            os.kill(int(file.read()), signal.SIGTERM)
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel gives it when the demo has ended
            print("Everything was stopped.")
            return 0
    print("No demo is running.")
    return 0
