"""The top-k sparsifier: the most probable tokens of the true vocabulary, and the exact mass of the rest.

Axes: N rows, K kept, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from logitstore.dump.sparsify.summary import Summary


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keeps the k most probable tokens of each row.

    Attributes:
        k: count of entries kept, at most the vocabulary.
        vocabulary: token ids below this are real; further columns are padding of the embedding and do not count.
    """

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """Reduce raw logits.

        Args:
            logits_NV: any float dtype; reduced in float32. -inf marks impossible tokens.
            gold_N: int64, the token that really follows.
            uniform_ND: not used.

        Returns:
            ids int64[N, K] by falling probability (equal ones by rising id), logprobs float32[N, K] in nats,
            tail_logmass float32[N], the log of the mass outside the ids (a sum over the tail itself; -inf without a
            tail), and the scores.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        teacher = Summary.of(logits_NV, self.vocabulary)
        top = teacher.top(self.k)
        return {
            "ids": top.ids_NK,
            "logprobs": top.logprobs_NK,
            "tail_logmass": top.outside_N.log(),
            **teacher.scores(gold_N, top.ids_NK[:, 0], top.ids_NK),
        }


def listing_only(kept: dict[str, Tensor], is_listed_NK: Tensor, gold_N: Tensor) -> dict[str, Tensor]:
    """Empty some slots of what `TopK` keeps: they get id 0 and logprob -inf, and their mass goes to the tail.

    Args:
        kept: what `TopK` returned.
        is_listed_NK: bool, True where the token stays.
        gold_N: int64, the token that really follows.
    """
    dropped_N = torch.where(is_listed_NK, 0.0, kept["logprobs"].exp()).sum(-1)
    return kept | {
        "ids": torch.where(is_listed_NK, kept["ids"], 0),
        "logprobs": torch.where(is_listed_NK, kept["logprobs"], -torch.inf),
        "tail_logmass": (kept["tail_logmass"].exp() + dropped_N).clamp(max=1.0).log(),
        "gold_listed": ((kept["ids"] == gold_N[:, None]) & is_listed_NK).any(1),
    }
