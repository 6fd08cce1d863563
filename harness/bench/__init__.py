"""Benchmarks: one workload a file. Run with `pytest --benchmark --backend NAME`; a backend that fails the gate gets VOID, not a number."""
