"""A model in the middle of a rollout, and a clock that stands still."""

import pytest
from shelf import Clock, Shelf, rollout, routing_table, version


@pytest.fixture
def shelf() -> Shelf:
    """Two versions, a rollout in its second step that owns the model, and its table."""
    filled = Shelf()
    filled.put(version(1, lifecycle="Active", trafficPercent=100))
    filled.put(version(2))
    owner = rollout(phase="Progressing", currentStep=2, weight=20, message="At 20%: gathering")
    filled.put(owner)
    filled.put(routing_table(owner))
    return filled


@pytest.fixture
def clock() -> Clock:
    return Clock()
