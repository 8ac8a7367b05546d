"""Does poolwright find the best level of a real server, from a bad one? Run `run.py`."""
