"""Caches in object stores: whole parts as one object each, read through a folder on the node."""
