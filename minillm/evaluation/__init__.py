"""Evaluation: what a trained model has learned, measured on held-out text."""
