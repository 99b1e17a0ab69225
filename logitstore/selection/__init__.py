"""Choose samples to train on by the scores of a cache; one idea a file, no torch. The methods are listed in `table.py`."""
