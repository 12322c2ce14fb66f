"""Models, each with its whole forward pass in one file: tokens (and a state) in, logits (and a state) out."""
