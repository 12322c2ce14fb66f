"""Decoding, from logits to text: transforms, sampling, beam search, speculative decoding, and stop conditions."""
