"""Min-p: the tokens that are at least some share as probable as the most probable one (Nguyen et al. 2024), up to k of them.

Axes: N rows, K slots, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from logitstore.dump.sparsify.topk import TopK, listing_only

SHARE = 0.05
"""A cache says `minp` and no share, so this never changes: another share is another name."""


@dataclass(frozen=True, kw_only=True)
class MinP:
    """Keeps the tokens with p >= SHARE * max p; the other slots of a row stay empty.

    Attributes:
        k: slots, at most the vocabulary.
        vocabulary: token ids below this are real.
    """

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """As `TopK`, but empty slots have id 0 and logprob -inf, and their mass belongs to the tail."""
        kept = TopK(k=self.k, vocabulary=self.vocabulary)(logits_NV, gold_N)
        logprobs_NK = kept["logprobs"]
        return listing_only(kept, logprobs_NK >= logprobs_NK[:, :1] + math.log(SHARE), gold_N)
