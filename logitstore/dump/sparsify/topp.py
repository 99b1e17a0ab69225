"""The nucleus sparsifier: the smallest set of tokens with a given total mass, at most k (Holtzman et al. 2020, section 3.1).

Axes: N rows, K slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from logitstore.dump.sparsify.topk import TopK, listing_only


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keeps tokens by falling probability until their mass reaches `top_p`; the other slots of a row stay empty.

    Attributes:
        k: count of slots, at most the vocabulary.
        top_p: the mass at which no more tokens are added.
        vocabulary: token ids below this are real.
    """

    draws: ClassVar[int] = 0

    k: int
    top_p: float
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """As `TopK`, but empty slots have id 0 and logprob -inf, and their mass belongs to the tail."""
        kept = TopK(k=self.k, vocabulary=self.vocabulary)(logits_NV, gold_N)
        probs_NK = kept["logprobs"].exp()
        is_listed_NK = probs_NK.cumsum(-1) - probs_NK < self.top_p
        is_listed_NK[:, 0] = True
        return listing_only(kept, is_listed_NK, gold_N)
