"""Export: a run as files that other libraries open, in the layout of Hugging Face transformers, or as GGUF."""
