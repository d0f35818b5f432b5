"""Runs the benchmarks, all of them or those named: each prints one line RESULT {...}.

The raw samples go to bench-results/. What integration tests have built (pods that carry no
traffic, proxies that fail) is there for benchmarks, too.
"""

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent / "integration")}
NOT_BENCHMARKS = {"run", "load", "canaries", "pictures", "result", "sidecars", "svg", "pod"}


def main() -> int:
    known = sorted(file.stem for file in HERE.glob("[a-z]*.py") if file.stem not in NOT_BENCHMARKS)
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(f"  {name:20} {question(name)}" for name in known),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of those below; all if none")
    chosen = parser.parse_args().names
    if unknown := set(chosen).difference(known):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    failed = []
    for name in chosen or known:
        print(f"-- {name}", flush=True)
        argv = [sys.executable, str(HERE / f"{name}.py")]
        if subprocess.run(argv, env=ENVIRONMENT, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def question(name: str) -> str:
    """What a benchmark answers: the first line of its file."""
    found = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    return found.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
