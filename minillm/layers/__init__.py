"""The parts that models are built from, each mechanism written once: tensors in, tensors out."""
