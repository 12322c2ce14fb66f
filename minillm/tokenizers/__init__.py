"""Text to ids and back: one protocol (`tokenizer`), one file an idea, from single characters to byte-level BPE and Unigram."""
