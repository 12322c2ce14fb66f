"""Measurements, each one command: python -m benchmarks.NAME. Timings are taken here and nowhere else, never in tests."""
