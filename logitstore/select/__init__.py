"""Choosing samples to train on by what a cache says about them. The methods stand in `methods.py`."""
