"""Tokenizers: text to ids and back; one contract (`tokenizer`), one algorithm a file, from characters to Unigram."""
