"""How many bytes of requests a pod holds at once: those that come, wait, or are with Triton.

Without a bound a burst of large requests ends the process for want of memory, and with it all that
was under way. A body may take a quarter of what is still free, so that large ones are turned away
before small ones are (a dynamic threshold: Choudhury and Hahne 1998, "Dynamic queue length
thresholds for shared-memory packet switches", sec. III, with one class for each body).
"""

from typing import Final

from tidegate_sidecar.core.refusal import Refusal, too_large

_PART: Final = 4


class Room:
    """Bytes that are still free, of ``most``."""

    def __init__(self, most: int) -> None:
        self.free = most
        self.largest = most // _PART
        """Bytes that a body may have while nothing else is held."""

    def take(self, size: int, begun: int = 0) -> None:
        """Hold ``size`` bytes more of a body; ``begun``: how many of it are held already.

        Raises:
            Refusal: 413: there is never room for such a body; 503: there is none now.
        """
        whole = begun + size
        if whole > self.largest:
            raise too_large(
                f"a body of more than {self.largest} bytes, which is what this pod's memory is"
                " enough for"
            )
        if whole * _PART > self.free + begun:
            raise Refusal(503, "this pod holds as many bytes of requests as its memory allows")
        self.free -= size

    def give(self, size: int) -> None:
        """Hold so much less; below 0: so much more, of what is there anyhow."""
        self.free += size
