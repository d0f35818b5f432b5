"""The strategy that today's servers have: a batch is full, or its oldest has waited long enough."""

from tidegate_batcher.strategy import Decision, View

FULL = "full"
WAITED = "the oldest has waited long enough"
GATHERING = "gathering"


class Fixed:
    """Sends what waits once it fills a batch, or once its oldest has waited for ``max_wait``."""

    def decide(self, view: View) -> Decision:
        """Say what to do now."""
        if view.rows >= view.most:
            return Decision(view.most, FULL)
        until = view.oldest + view.max_wait
        if view.now >= until:
            return Decision(view.most, WAITED)
        return Decision(0, GATHERING, until, view.most)
