"""Runs the benchmarks, all of them or those named: each prints one line RESULT {...}.

Usage: run.py [NAME ...]; the raw samples go to bench-results/. What integration tests have built
(pods that carry no traffic, proxies that fail) is there for benchmarks, too.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent / "integration")}
NOT_BENCHMARKS = {"run", "load", "canaries", "pictures", "sidecars", "svg", "pod"}


def main(chosen: list[str]) -> int:
    known = sorted(file.stem for file in HERE.glob("[a-z]*.py") if file.stem not in NOT_BENCHMARKS)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in chosen or known:
        print(f"-- {name}", flush=True)
        argv = [sys.executable, str(HERE / f"{name}.py")]
        if subprocess.run(argv, env=ENVIRONMENT, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
