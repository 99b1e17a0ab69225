"""The sparsifier that lists no tokens: a row is the teacher's final hidden state, or has scores only.

The head turns a stored hidden state into logits.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from logitstore.dump.sparsify.summary import Summary


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
