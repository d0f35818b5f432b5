"""The operator: reads a model's objects and evidence together and decides its traffic."""
