"""The textbook: one idea per file, in plain PyTorch without options.

`python -m minillm.lessons` lists the lessons in order.
"""
