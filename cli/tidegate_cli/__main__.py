"""``kubectl tidegate``, or ``kubectl-tidegate`` and ``tidegate`` by themselves."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tidegate_cli import cluster, terminal
from tidegate_cli.arguments import parser
from tidegate_cli.commands import World
from tidegate_cli.errors import CommandError
from tidegate_cli.verbs import Pause

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    program = "tidegate" if Path(sys.argv[0]).name == "tidegate" else "kubectl tidegate"
    options = parser(program).parse_args(arguments)
    try:
        code: int = options.run(options) if options.apart else options.run(_world(options), options)
        sys.stdout.flush()
    except CommandError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _world(options: argparse.Namespace) -> World:
    connected = cluster.connect(options.kubeconfig, options.context)
    return World(connected, terminal.console(), Pause(time.time, time.sleep))


if __name__ == "__main__":
    sys.exit(main())
