"""Lets the operator's tests import `simulation`, and keeps hypothesis to a budget."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("operator", deadline=None, max_examples=60)
settings.load_profile("operator")
