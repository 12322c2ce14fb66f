"""Worlds to tune on: generated exercises with known answers, held-out parts, and an exact score."""
