"""From `[N, V]` logits to targets of fixed width; one sparsifier a file, each named in `logitstore.format.row_kinds`.

A sparsifier is made with `k`, `vocabulary` and its arguments. It is called with raw logits [N, V'], the gold tokens [N] and,
if its `draws` is not 0, uniform numbers [N, draws]. It returns the arrays of docs/format.md as tensors, not yet rounded, and
`top1` and `gold_listed` for the counts of a part.
"""
