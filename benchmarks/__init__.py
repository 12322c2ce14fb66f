"""Measurements: python -m benchmarks.NAME for one, python -m benchmarks for all. Tests never measure time."""
