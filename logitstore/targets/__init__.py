"""Stored rows as tensors: what an objective compares a student with."""
