"""minillm: the LLM textbook that you can run. One idea a file; start with `models/decoder.py` or `lessons/gpt.py`."""
