"""Batching by priority, deadline and learned cost: what the sidecar and any Python process use.

``tidegate_batcher.library`` has the ``Batcher`` for programs of one's own; all else here is pure.
"""
