"""Interchange with other projects: their formats, architectures, tokenizers and chat templates, read and written."""
