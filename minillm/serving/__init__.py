"""Serving: a run behind the HTTP interface that clients of OpenAI-compatible servers speak."""
