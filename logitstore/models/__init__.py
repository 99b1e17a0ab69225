"""Models as transformers loads them: their weights, their shape, their linear head, and hooks on their layers."""
