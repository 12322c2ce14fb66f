"""The serving engine: requests, the scheduler, and the loop that decodes many requests at once."""
