"""From a text to batches of tokens: where documents come from, how they are cleaned, split, stored and cut into windows."""
