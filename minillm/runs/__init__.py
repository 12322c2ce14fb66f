"""Runs: the config of a training, the folder it writes, and the wiring from one to a model."""
