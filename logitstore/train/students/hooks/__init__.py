"""Hooks of a student: what changes its weights before it is trained and after every optimizer step, by name."""
