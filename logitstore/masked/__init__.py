"""The task of masked words: one row at each masked token of a text."""
