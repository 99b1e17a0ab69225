"""A sparsifier in a package of its own, as any user may write one. The record needs no torch, so caches open without it."""

from __future__ import annotations

from logitstore.format.row_kinds import Lists, RowKind

KIND = RowKind(
    sparsifier="logitstore_minp.minp:MinP",
    lists=Lists.UP_TO,
    fields=("ids", "logprobs", "tail_logmass", "gold_logprob", "entropy"),
    tails=("prior", "none"),
    targets="logitstore.targets.decoder:listed",
    cut_to=("minp", "topk"),
)
