"""Choosing samples to train on by what a cache says of them; one idea a file, no torch. The methods stand in `table.py`."""
