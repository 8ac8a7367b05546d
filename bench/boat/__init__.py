"""BOAT's own comparison: structured models against generic tuners (run gc.py and balance.py)."""
