"""Encoders of texts: one vector for a text, pooled from the hidden states of its tokens."""
