"""The operating system: files written whole, folders for data, and errors of files and memory as sentences."""
