"""The nucleus: the fewest tokens that hold a given mass together (Holtzman et al. 2020, section 3.1), up to k of them.

Axes: N rows, K slots, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from logitstore.sparsify.topk import TopK


@dataclass(frozen=True, kw_only=True)
class TopP:
    """Keeps tokens by falling probability until they hold `top_p`; the other slots of a row stay empty.

    Attributes:
        k: slots, at most the vocabulary.
        top_p: mass after which a row is full.
        vocabulary: token ids below this are real.
    """

    draws: ClassVar[int] = 0

    k: int
    top_p: float
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """As `TopK`, but empty slots have id 0 and logprob -inf, and their mass belongs to the tail."""
        found = TopK(k=self.k, vocabulary=self.vocabulary)(logits_NV, gold_N)
        probs_NK = found["logprobs"].exp()
        before_NK = probs_NK.cumsum(-1) - probs_NK
        keep_NK = before_NK < self.top_p
        keep_NK[:, 0] = True
        dropped_N = torch.where(keep_NK, 0.0, probs_NK).sum(-1)
        gold_NK = found["ids"] == gold_N[:, None]
        return found | {
            "ids": torch.where(keep_NK, found["ids"], 0),
            "logprobs": torch.where(keep_NK, found["logprobs"], -torch.inf),
            "tail_logmass": (found["tail_logmass"].exp() + dropped_N).clamp(max=1.0).log(),
            "gold_listed": (gold_NK & keep_NK).any(1),
        }
