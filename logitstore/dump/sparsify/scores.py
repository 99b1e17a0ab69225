"""The sparsifiers that list no tokens: a row is the teacher's final hidden state, has scores only, or is the one output of a
teacher that gives no distribution.

The head turns a stored hidden state into logits.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from logitstore.dump.sparsify.summary import Summary
from logitstore.errors import ModelError
from logitstore.models.head import overflow_advice

NO_TOKEN = -2
"""What stands for the most probable token of a row that has none; -1 stands for no gold token."""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Keeps the scores. The hidden state itself does not pass through the sparsifier; it comes from the teacher."""

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """Return the scores.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        teacher = Summary.of(logits_NV, self.vocabulary)
        return teacher.scores(gold_N, teacher.top(1).ids_NK[:, 0], None)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Keeps the one output of the teacher; `k` is 0 and the vocabulary 1."""

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """Return `score` float32[N], as the teacher gives it, and what is counted of every row.

        Raises:
            ModelError: a score is not finite.
        """
        score_N = logits_NV[:, 0].float()
        if not bool(score_N.isfinite().all()):
            raise ModelError(f"the teacher gave scores that are no numbers. {overflow_advice(logits_NV.dtype)}")
        return {
            "score": score_N,
            "gold_logprob": torch.full_like(score_N, torch.nan),
            "entropy": torch.zeros_like(score_N),
            "top1": torch.full_like(score_N, NO_TOKEN, dtype=torch.int64),
            "gold_listed": torch.zeros_like(score_N, dtype=torch.bool),
        }
