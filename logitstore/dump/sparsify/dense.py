"""The dense sparsifier keeps every logprob, in the order of the ids. It is meant for small label sets.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from logitstore.dump.sparsify.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Keeps the whole distribution; `k` is the size of the vocabulary."""

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """Return logprobs float32[N, V] in nats, and the scores.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        teacher = Summary.of(logits_NV, self.vocabulary)
        return {"logprobs": teacher.logprobs(), **teacher.scores(gold_N, teacher.top(1).ids_NK[:, 0], None)}
