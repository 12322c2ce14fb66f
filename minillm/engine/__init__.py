"""Many requests at once: who they are, whose turn it is, and the loop that serves them."""
