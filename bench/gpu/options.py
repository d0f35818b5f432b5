"""The command line, the same for `run.py` and the scenario that it becomes."""

import argparse

_WHAT = "One high and one low priority on one GPU, with and without Tidegate's sidecar."


def arguments() -> argparse.Namespace:
    """What was given."""
    parser = argparse.ArgumentParser(prog="run.py", description=_WHAT)
    parser.add_argument("--cpu", action="store_true", help="small models, short times, no GPU")
    parser.add_argument("--gpu", type=int, default=0, help="its number in nvidia-smi")
    parser.add_argument("--seconds", type=float, help="of each run (default: 30; 6 with --cpu)")
    parser.add_argument("--rows", type=int, help="of a low batch (default: 1024 where they fit)")
    return parser.parse_args()
