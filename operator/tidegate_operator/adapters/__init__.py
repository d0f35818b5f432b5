"""What the operator reaches: the API server, Prometheus, the pods. One small Protocol each."""
