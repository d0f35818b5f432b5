"""The kinds of tidegate.dev as typed objects: spec in, status out. Pure."""
