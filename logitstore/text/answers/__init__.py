"""Prompts that a server answers, and the folder of its answers."""
