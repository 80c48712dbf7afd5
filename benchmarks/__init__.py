"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json] [--out]`. Each prints ratios measured within one run."""
