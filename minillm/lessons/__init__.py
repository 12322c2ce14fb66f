"""The textbook: one idea a file, in plain PyTorch without options. `python -m minillm.lessons` lists the lessons in order."""
