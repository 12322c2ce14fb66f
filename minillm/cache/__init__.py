"""What attention remembers of what it has read, one strategy a file, behind the contract in `kv_cache`."""
