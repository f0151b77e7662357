"""Benchmarks: `beliefzoo bench NAME` measures this library beside the installed peers."""
