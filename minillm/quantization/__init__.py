"""The weights of a trained model in a half, a quarter or an eighth of the bytes, really packed, one format a file."""
