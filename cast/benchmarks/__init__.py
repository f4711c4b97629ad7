"""Benchmarks that users can run: ratios from one run, written into docs/measurements.md."""
