"""Benchmarks: how fast and how large, each beside a peer in the same run; ``python -m bench.run`` and others."""
