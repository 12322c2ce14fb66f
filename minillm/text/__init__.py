"""Text in, text out: a model and its tokenizer as something to talk to."""
