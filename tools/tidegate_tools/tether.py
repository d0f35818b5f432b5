"""A program's start on a tether: it is killed when the process that started it is gone.

Run as a script: `tether.py PARENT_PID PROGRAM ARGUMENT...` asks the kernel for SIGKILL at
the parent's death, then becomes PROGRAM. A function run between fork and exec would be
unsafe in a parent with threads; this is not.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def tethered(argv: list[str]) -> list[str]:
    """The same command, to be started by this process on a tether.

    The kernel counts the starting thread as the parent: it must live as long as the child.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *argv]


def main() -> None:
    """Tethers this process to its parent, then becomes the program."""
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("the kernel refused PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        sys.exit("the parent was gone before the start")
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - to become the program is the purpose
    except OSError as error:
        sys.exit(f"cannot start {argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
