"""What a benchmark leaves behind: one line with its figures, and its samples on disk."""

import json
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path("bench-results")


def report(name: str, figures: dict[str, Any], samples: Any) -> None:
    """Print the line ``RESULT {...}`` and keep the samples, which must be JSON's own types."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(samples, indent=1))
    print("RESULT", json.dumps({"name": name, "figures": figures}), flush=True)
