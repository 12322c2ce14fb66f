"""Whole models, each with its entire forward in one file: tokens (and a state) in, logits (and a state) out."""
