"""Caches that other software made of texts, read into ours; `logitstore.settings.foreign.formats` has their table."""
