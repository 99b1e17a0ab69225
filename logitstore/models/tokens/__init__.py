"""Tokenizers of students and of caches."""
