"""From `[N, V]` logits to targets of fixed width; one sparsifier a file.

A sparsifier is called with raw logits [N, V'], the gold tokens [N] and, if its `draws` is not 0, uniform numbers [N, draws];
it gives the arrays of docs/format.md as tensors, not yet rounded, and `top1` and `gold_listed` for the counts of a part.
"""

from logitstore.registry import Table

SPARSIFIERS = Table(
    "sparsifier",
    {
        "topk": "logitstore.sparsify.topk:TopK",
        "topp": "logitstore.sparsify.topp:TopP",
        "sampled": "logitstore.sparsify.sampled:Sampled",
        "hybrid": "logitstore.sparsify.sampled:Sampled",
        "dense": "logitstore.sparsify.dense:Dense",
        "hidden": "logitstore.sparsify.hidden:Hidden",
        "none": "logitstore.sparsify.hidden:Hidden",
    },
)
