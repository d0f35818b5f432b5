"""Keeps hypothesis to a budget of examples, and never to one of time: machines differ."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=60)
settings.load_profile("unit")
