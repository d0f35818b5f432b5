"""Addresses and ports of the loopback network that runs side by side do not share.

Ports come from below the range that the kernel gives to outgoing connections: a client
that retries a stopped server there could otherwise connect to itself, or take its port.
"""

import functools
import itertools
import random
import socket
import threading
from collections.abc import Iterator
from typing import Self

_FIRST_PORT, _END_PORT = 20_000, 32_000
_BLOCK = 100
_TRIES = 200
_draw = random.SystemRandom()
_lock = threading.Lock()


class NoneFree(Exception):  # noqa: N818 - it is named for what happened
    """No free port or network was found."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port of the host that nothing listens on, from a block that no other process draws from.

    The one drawn longest ago comes first: who draws it has time to listen there.
    """
    with _lock:
        ports, _ = _own_ports()
        for port in itertools.islice(ports, _BLOCK):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError:
                    continue
                return port
    raise NoneFree(f"no free port on {host}")


@functools.cache
def _own_ports() -> tuple[Iterator[int], socket.socket]:
    """This process's ports, round and round, and its claim to them."""
    for _ in range(_TRIES):
        first = _draw.randrange(_FIRST_PORT, _END_PORT, _BLOCK)
        if claim := _claimed(f"ports-{first}"):
            return itertools.cycle(range(first, first + _BLOCK)), claim
    raise NoneFree(f"no unclaimed ports from {_FIRST_PORT} to {_END_PORT}")


def _claimed(name: str) -> socket.socket | None:
    """A socket with an abstract name, which the kernel lets one process have; None: it is taken."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0tidegate-{name}")
    except OSError:
        claim.close()
        return None
    return claim


class Subnet:
    """A /24 of 127.0.0.0/8 that is this process's own until it is closed or the process ends."""

    def __init__(self, prefix: str, claim: socket.socket) -> None:
        self.prefix = prefix
        self._claim = claim

    @classmethod
    def claimed(cls) -> Self:
        """A network that no other process has claimed; never 127.0.0.0/24."""
        for _ in range(_TRIES):
            prefix = f"127.{_draw.randint(1, 254)}.{_draw.randint(0, 255)}"
            if claim := _claimed(prefix):
                return cls(prefix, claim)
        raise NoneFree("no free network in 127.0.0.0/8")

    def ip(self, number: int) -> str:
        """The network's address of a number from 1 to 254."""
        return f"{self.prefix}.{number}"

    def close(self) -> None:
        """Gives the network back."""
        self._claim.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
