"""Rounding that looks at the row: the codes of a sketch."""
