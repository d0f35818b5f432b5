"""A batching strategy of one's own: batches of 1, 2, 4, 8 ... rows and of nothing between.

Engines that are compiled for a few batch sizes pad what lies between: a batch of 5 takes as long as
one of 8. This strategy sends the largest size that is there to send, and waits for the next one
only while the first request has time. Install it where the sidecar runs, and name it:

    pip install ./examples/strategy
    kubectl patch batchpolicy digits --type merge -p '{"spec": {"strategy": "PowersOfTwo"}}'
"""

from tidegate_batcher.strategy import Decision, View


class PowersOfTwo:
    """Sends powers of two."""

    def decide(self, view: View) -> Decision:
        """Send the largest power of two that waits, once waiting is not worth it any more."""
        rows = min(view.rows, view.most)
        size = 1 << (rows.bit_length() - 1)
        if 2 * size > view.most:
            return Decision(size, "no larger size fits")
        # Batches of the next size must be answered before anybody's deadline.
        leave = min(view.oldest + view.max_wait, view.answer_by - view.cost.at_most(2 * size))
        if view.now >= leave:
            return Decision(size, "the first request has waited long enough")
        return Decision(0, "waiting for the next size", leave, at_rows=2 * size)
