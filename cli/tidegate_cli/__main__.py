"""``kubectl tidegate``, or ``kubectl-tidegate`` by itself."""

import os
import sys
import time
from collections.abc import Sequence

from tidegate_cli import cluster, terminal
from tidegate_cli.arguments import parser
from tidegate_cli.commands import World
from tidegate_cli.errors import CommandError
from tidegate_cli.verbs import Pause

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = parser().parse_args(arguments)
    try:
        world = World(
            cluster.connect(options.kubeconfig, options.context),
            terminal.console(),
            Pause(time.time, time.sleep),
        )
        code: int = options.run(world, options)
        sys.stdout.flush()
    except CommandError as error:
        sys.stderr.write(f"kubectl tidegate: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
