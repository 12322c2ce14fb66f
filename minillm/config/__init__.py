"""Configuration: TOML files and command-line flags become frozen dataclasses, strictly checked."""
