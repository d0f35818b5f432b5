"""The sidecar beside each Triton: routes by the table, queues by priority, batches, sends."""
