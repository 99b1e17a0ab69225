"""What is kept of a few rows: the sparsifier's choice, what the tail needs of the hidden state, and a look at the fidelity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.chance import DRAWS, uniform
from logitstore.decode import latents_of
from logitstore.fidelity import FidelityCheck
from logitstore.fields import RowInfo
from logitstore.score import RowBatch, RowChunk
from logitstore.sparsify import SPARSIFIERS
from logitstore.stopwatch import OFF, Stopwatch


@dataclass(frozen=True, eq=False)
class Keep:
    """Called with a batch and a chunk of its rows; gives what is stored of them, not yet encoded."""

    sparsifier: Any
    latents: Callable[[Tensor], Tensor] | None
    check: FidelityCheck | None
    watch: Stopwatch = OFF

    @classmethod
    def of(
        cls, row: RowInfo, shared: Mapping[str, Tensor], check: FidelityCheck | None, watch: Stopwatch = OFF
    ) -> Keep:
        """What the rows of a cache keep."""
        return cls(sparsifier_of(row), latents_of(row, shared), check, watch)

    def __call__(self, batch: RowBatch, chunk: RowChunk) -> dict[str, Tensor]:
        with self.watch("select"):
            kept = self._selected(batch, chunk)
        if self.latents is not None:
            if chunk.hidden_nD is None:
                raise ValueError("this tail needs the teacher's hidden states")
            with self.watch("sketch"):
                kept["latent"] = self.latents(chunk.hidden_nD)
        if self.check is not None:
            with self.watch("fidelity"):
                self.check.look(chunk, kept, self.check.chosen(batch))
        return kept

    def _selected(self, batch: RowBatch, chunk: RowChunk) -> dict[str, Tensor]:
        """The sparsifier's choice; NaN is the gold logprob of a row without a gold token."""
        drawn = self._uniform(batch, chunk)
        if not bool((batch.gold_N[chunk.span] < 0).any()):
            kept: dict[str, Tensor] = self.sparsifier(chunk.logits_nV, chunk.gold_n, drawn)
            return kept
        kept = self.sparsifier(chunk.logits_nV, chunk.gold_n.clamp(min=0), drawn)
        is_gold_n = chunk.gold_n >= 0
        kept["gold_logprob"] = kept["gold_logprob"].masked_fill(~is_gold_n, torch.nan)
        kept["gold_listed"] = kept["gold_listed"] & is_gold_n
        return kept

    def _uniform(self, batch: RowBatch, chunk: RowChunk) -> Tensor | None:
        draws: int = self.sparsifier.draws
        if not draws:
            return None
        numbers = [uniform(key, rows, draws, DRAWS) for key, rows in zip(batch.keys, batch.counts, strict=True)]
        return torch.from_numpy(np.concatenate(numbers)[chunk.span])


def sparsifier_of(row: RowInfo) -> Any:
    """The sparsifier of a cache."""
    info = row.sparsifier
    arguments: dict[str, Any] = {"k": info.k, "vocabulary": row.vocabulary}
    for name in ("top_p", "draws", "exponent"):
        if getattr(info, name) is not None:
            arguments[name] = getattr(info, name)
    return SPARSIFIERS[info.name](**arguments)
