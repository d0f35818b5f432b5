"""The program in examples/ runs and shows what its text promises."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[3] / "examples" / "batching.py"


def test_everybody_is_answered_and_the_urgent_first() -> None:
    run = subprocess.run([sys.executable, PROGRAM], check=True, capture_output=True, text=True)
    assert "refused: -1.0 has no root" in run.stdout
    medians = [float(one) for one in re.findall(r"median ([0-9.]+) s", run.stdout)]
    assert len(medians) == 3
    assert medians == sorted(medians)
