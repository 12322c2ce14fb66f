"""Objectives: the losses that training minimizes; each maps a model and a batch to a sum and a count."""
