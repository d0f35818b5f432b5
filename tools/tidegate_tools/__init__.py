"""Pinned tools for tests and for the demo: a real control plane, Prometheus and Triton.

No container runtime is needed. `binaries` and `triton` find or build what is to be run,
`controlplane`, `prometheus` and `pods` run it, `processes` sees that nothing survives.
"""
