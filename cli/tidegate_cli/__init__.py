"""``kubectl tidegate``: what a person sees of rollouts and tests, and the words they answer with.

It reads objects, routing tables and sidecars, and writes annotations and ``spec.suspend``: every
decision stays the operator's. It shares the contract with the operator and nothing else, and reads
a status leniently, so that either may be the newer one.
"""
