"""From texts to batches of tokens: corpora, cleaning, splitting, token streams, windows."""
