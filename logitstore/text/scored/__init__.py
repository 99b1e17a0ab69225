"""Scores and groups of texts: what the data say of each, and how it is kept beside its tokens."""
