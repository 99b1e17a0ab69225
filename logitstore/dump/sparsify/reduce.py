"""Reduce rows to what is kept: the sparsifier's choice, and what the tail needs of the hidden state or the logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.core.random import DRAWS, uniform
from logitstore.core.registry import resolve
from logitstore.dump.sparsify.fidelity import FidelityCheck
from logitstore.dump.sparsify.rounding.codes import Rounding, rounding_of
from logitstore.errors import BadInput
from logitstore.format.needs import HIDDEN, ITS_LOGITS, LOGITS, OF_A_MODEL, Gives, Wants, called, wants_of
from logitstore.format.row import RowInfo
from logitstore.targets.rows import RowBatch, RowChunk
from logitstore.targets.shared import latents_of, takes_logits


@dataclass(frozen=True, eq=False)
class RowReducer:
    """Reduces a chunk of the rows of a batch to what is stored of them, not yet encoded.

    Attributes:
        sparsifier: of the cache; it takes raw logits, or what a teacher of lists gives.
        wants: what the teacher is asked for.
        vocabulary: count of the teacher's tokens.
        latents: makes coefficients, or what is stored of hidden states, of hidden states where `wants` has them, else of
            logits; None where nothing is.
        check: compares some of the rows with the teacher's; None for none.
        watch: times the stages.
        rounding: chooses the levels of a sketch's coefficients for each row; None for other tails.
    """

    sparsifier: Any
    wants: Wants
    vocabulary: int
    latents: Callable[[Tensor], Tensor] | None
    check: FidelityCheck | None
    watch: Stopwatch = NO_STOPWATCH
    rounding: Rounding | None = None

    @classmethod
    def of(
        cls,
        row: RowInfo,
        shared: Mapping[str, Tensor],
        check: FidelityCheck | None,
        watch: Stopwatch = NO_STOPWATCH,
        gives: Gives = OF_A_MODEL,
    ) -> RowReducer:
        """Return the reducer to rows of this kind, from what the teacher gives. Raises BadInput where that is not enough."""
        wants = ITS_LOGITS if takes_logits(shared) else wants_of(row, gives)
        if row.tail.needs_hidden and not takes_logits(shared) and HIDDEN not in wants:
            raise BadInput(
                "the tail of this cache was fitted on the teacher's hidden states, and the teacher gives "
                f"{called(gives)} now. Give the teacher that began the cache, or choose a new folder."
            )
        sparsifier = sparsifier_of(row) if LOGITS in wants else sparsifier_of_lists(row)
        return cls(sparsifier, wants, row.vocabulary, latents_of(row, shared), check, watch, rounding_of(row, shared))

    def __call__(self, batch: RowBatch, chunk: RowChunk) -> dict[str, Tensor]:
        with self.watch("select"):
            kept = self._selected(batch, chunk)
        if self.latents is not None:
            said_nD = chunk.hidden_nD if HIDDEN in self.wants else chunk.logits()
            if said_nD is None:
                raise ValueError("this tail needs the teacher's hidden states")
            with self.watch("sketch"):
                kept["latent"] = self.latents(said_nD)
                if self.rounding is not None:
                    kept["latent"] = self.rounding(chunk.logits(), kept, kept["latent"])
        if self.check is not None:
            with self.watch("fidelity"):
                self.check.look(chunk, kept, self.check.chosen(batch))
        return kept

    def _selected(self, batch: RowBatch, chunk: RowChunk) -> dict[str, Tensor]:
        """Return the sparsifier's choice; the gold logprob of a row without a gold token is NaN."""
        uniform_nD, said = self._uniform(batch, chunk), chunk.top or chunk.logits()
        if not bool((batch.gold_N[chunk.span] < 0).any()):
            kept: dict[str, Tensor] = self.sparsifier(said, chunk.gold_n, uniform_nD)
            return kept
        kept = self.sparsifier(said, chunk.gold_n if chunk.top else chunk.gold_n.clamp(min=0), uniform_nD)
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
    """Return the sparsifier that makes these rows."""
    info = row.sparsifier
    arguments = {name: getattr(info, name) for name in info.kind.arguments}
    return resolve(info.kind.sparsifier)(k=info.k, vocabulary=row.vocabulary, **arguments)


def sparsifier_of_lists(row: RowInfo) -> Any:
    """Return what makes these rows of lists of the most probable tokens."""
    info = row.sparsifier
    if info.kind.of_lists is None:
        raise ValueError(f"rows of kind {info.name} cannot be made from lists")
    return resolve(info.kind.of_lists)(k=info.k, vocabulary=row.vocabulary)
