"""KV caches: the keys and values that attention keeps of past tokens; one contract, `kv_cache`, one cache a file."""
