"""Prepare the texts of a dump once: tokens in shards, windows, and what a process needs to open them at once."""
