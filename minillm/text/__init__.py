"""Text in, text out: a trained model together with its tokenizer."""
