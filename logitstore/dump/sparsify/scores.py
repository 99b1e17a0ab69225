"""Nothing listed: the row is the teacher's final hidden state, and the head turns it into logits; or nothing at all is kept.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from logitstore.dump.sparsify.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Keeps the scores; a hidden state itself is read off the teacher."""

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """The scores.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        teacher = Summary.of(logits_NV, self.vocabulary)
        return teacher.scores(gold_N, teacher.top(1).ids_NK[:, 0], None)
