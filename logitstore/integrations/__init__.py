"""Caches in the loops that people have: the Trainers of transformers and TRL, Lightning, plain loops, and readers for JAX.

Each module imports its own package when it is imported; docs/integrations.md shows all of them.
"""
