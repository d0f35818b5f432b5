"""Finds the BatchPolicy that suits a model and its load: `tidegate tune`."""
