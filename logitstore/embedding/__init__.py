"""The task of turning texts into vectors: one row a text, its pooled vector."""
