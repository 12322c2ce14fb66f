"""Measurements, each one command, python -m benchmarks.NAME; `python -m benchmarks` takes them all. Timings are taken here, never in tests."""
