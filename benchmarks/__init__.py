"""Benchmarks: one file per question. `python -m benchmarks.engine --quick`; the answers are in RESULTS.md."""
