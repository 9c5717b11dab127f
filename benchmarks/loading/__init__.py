"""Trials of loading, beside `benchmarks.peers`."""
