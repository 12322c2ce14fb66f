"""Runs: the config of a training, the folder that it writes, and the wiring from a config to a model."""
