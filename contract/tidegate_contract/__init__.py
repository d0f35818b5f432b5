"""The words that the operator and the sidecar share: names, the routing table, acknowledgements.

Nothing here does I/O. Whatever both planes must agree on to the letter stands here once.
"""
