"""Adapters: small trained parts in a large frozen model."""
