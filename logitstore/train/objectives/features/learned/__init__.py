"""Objectives on features with a vocabulary of their own that is learnt: finer classes, prototypes."""
