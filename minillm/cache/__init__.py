"""KV caches store the keys and values of past tokens; `kv_cache` defines their contract, and each cache has a file."""
