"""Throughput, latency, recycling and idle cost of poolrt, next to its peers in one run."""
