"""Measurements, each one command, python -m benchmarks.NAME, or all: python -m benchmarks. Timings are taken here, never in tests."""
