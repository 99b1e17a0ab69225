"""Objectives on logits: pure functions from student logits and targets to a loss per row."""
