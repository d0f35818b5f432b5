"""Acts for the core: sockets, Triton, the API server, metrics, signals."""
