"""The programs in examples/ and in the library's document run, and show what they promise."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "examples" / "batching.py"
DOCUMENT = (ROOT / "docs" / "library.md").read_text()
USE, STRATEGY, SIMULATION = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


def test_everybody_is_answered_and_the_urgent_first() -> None:
    run = subprocess.run([sys.executable, PROGRAM], check=True, capture_output=True, text=True)
    assert "refused: -1.0 has no root" in run.stdout
    medians = [float(one) for one in re.findall(r"median ([0-9.]+) s", run.stdout)]
    assert len(medians) == 3
    assert medians == sorted(medians)


def run(program: str) -> str:
    """What a program prints."""
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_the_document_shows_how_to_use_it() -> None:
    assert run(USE.replace("deadline=0.1", "deadline=60")) == "42\n42\n"


def test_the_document_shows_a_strategy() -> None:
    use = USE.replace("policy) as", "strategy=AsTheyCome()) as").replace("=0.1", "=60")
    assert run(STRATEGY + use) == "42\n42\n"


def test_the_document_shows_what_a_simulation_tells() -> None:
    small, large = run(
        SIMULATION.replace("(60, 3000), (70,", "(1, 3000), (3,").replace("run(120)", "run(10)")
    ).splitlines()
    assert re.fullmatch(r"8 rows: p99 0\.\d{3} s, rejected \d+", small)
    assert re.fullmatch(r"64 rows: p99 0\.\d{3} s, rejected 0", large)
