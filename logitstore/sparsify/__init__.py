"""From `[N, V]` logits to targets of fixed width; one sparsifier a file."""

from logitstore.registry import Table

SPARSIFIERS = Table("sparsifier", {"topk": "logitstore.sparsify.topk:TopK"})
