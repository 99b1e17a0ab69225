"""Objectives on vectors of whole texts."""
