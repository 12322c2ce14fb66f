"""The operating system: atomic writes, folders for data, and messages for file and memory errors."""
