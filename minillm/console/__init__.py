"""Terminal output of train.py and sample.py."""
