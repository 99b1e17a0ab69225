"""Models that answer: what they are, and their logits."""
