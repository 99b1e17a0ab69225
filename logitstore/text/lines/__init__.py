"""Texts laid several to a line: where each lies, for a teacher and for a student."""
