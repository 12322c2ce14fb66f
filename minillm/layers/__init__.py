"""Layers: the parts that models are built from. Each mechanism is written once and maps tensors to tensors."""
