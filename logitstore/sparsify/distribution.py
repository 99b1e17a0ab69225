"""The teacher's whole distribution of some rows, and what is kept about every row whatever the sparsifier.

Axes: N rows, K kept, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.errors import ModelError


@dataclass(frozen=True, eq=False)
class Distribution:
    """float32[N, V] logprobs and probabilities, and float32[N] entropies, nats."""

    logprobs_NV: Tensor
    probs_NV: Tensor
    entropy_N: Tensor

    @classmethod
    def of(cls, logits_NV: Tensor, vocabulary: int) -> Distribution:
        """The softmax of raw logits of any float dtype over the true vocabulary; -inf marks tokens that cannot come.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        logprobs_NV = torch.log_softmax(logits_NV[:, :vocabulary].float(), -1)
        probs_NV = logprobs_NV.exp()
        # p log p is 0 where p is 0 and log p is -inf; the clamp keeps the product from being NaN there
        entropy_N = -(probs_NV * logprobs_NV.clamp(min=-1e4)).sum(-1)
        if entropy_N.isnan().any():
            raise ModelError("the teacher gave NaN logits. Try --dtype float32, or check the model.")
        return cls(logprobs_NV, probs_NV, entropy_N)

    def top(self, k: int) -> Tensor:
        """int64[N, K]: the most probable ids by falling logprob, equal ones by rising id."""
        found = torch.topk(self.logprobs_NV, k, sorted=False)
        ids_NK = found.indices
        if k:
            # of tokens that tie at rank k, topk keeps any; here the lowest ids
            last_N1 = found.values.min(-1, keepdim=True).values
            tied_M = ((self.logprobs_NV >= last_N1).sum(-1) > k).nonzero().squeeze(1)
            if len(tied_M):
                ids_NK[tied_M] = _lowest_of_ties(self.logprobs_NV[tied_M], last_N1[tied_M], k)
        return ordered(self.logprobs_NV, ids_NK)

    def mass_outside(self, ids_NK: Tensor) -> Tensor:
        """float32[N]: the mass of all other tokens, summed over them and not found as a difference."""
        return self.probs_NV.scatter(1, ids_NK, 0.0).sum(-1).clamp(max=1.0)

    def scores(self, gold_N: Tensor, top1_N: Tensor, listed_NK: Tensor | None) -> dict[str, Tensor]:
        """What is kept about every row: `gold_logprob`, `entropy`, `top1`, and whether the gold token is listed."""
        everything_N1 = gold_N[:, None]
        is_listed_N = ((everything_N1 if listed_NK is None else listed_NK) == gold_N[:, None]).any(1)
        return {
            "gold_logprob": self.logprobs_NV.gather(1, gold_N[:, None]).squeeze(1),
            "entropy": self.entropy_N,
            "top1": top1_N,
            "gold_listed": is_listed_N,
        }


def _lowest_of_ties(logprobs_MV: Tensor, last_M1: Tensor, k: int) -> Tensor:
    """int64[M, K]: everything above `last_M1`, filled up with the lowest ids that equal it."""
    above_MV, equal_MV = logprobs_MV > last_M1, logprobs_MV == last_M1
    wanted_M1 = k - above_MV.sum(-1, keepdim=True)
    chosen_MV = above_MV | (equal_MV & (equal_MV.cumsum(-1) <= wanted_M1))
    return chosen_MV.nonzero()[:, 1].view(len(logprobs_MV), k)


def ordered(logprobs_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """The ids by falling logprob, equal ones by rising id: two stable sorts, the less important key first."""
    ids_NK = ids_NK.sort(-1).values
    order_NK = torch.sort(logprobs_NV.gather(1, ids_NK), dim=-1, descending=True, stable=True).indices
    return ids_NK.gather(1, order_NK)
