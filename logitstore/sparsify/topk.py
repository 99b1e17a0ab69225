"""Top-k of the true vocabulary, with the exact mass of the rest, the gold token's logprob and the row's entropy.

Axes: N rows, K kept, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Keeps the k most probable tokens of each row.

    Attributes:
        k: entries kept, at most the vocabulary.
        vocabulary: token ids below this are real; the columns beyond are padding of the embedding and do not count.
    """

    k: int
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor) -> dict[str, Tensor]:
        """Reduce raw logits.

        Args:
            logits_NV: any float dtype; reduced in float32. -inf marks tokens that cannot come.
            gold_N: int64, the token that really follows.

        Returns:
            ids int64[N, K] by falling probability (equal ones by rising id), logprobs float32[N, K] in nats,
            tail_logmass float32[N], the log of the mass outside the ids, summed over the tail itself and -inf when
            there is none, gold_logprob float32[N], entropy float32[N] in nats.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        logprobs_NV = torch.log_softmax(logits_NV[:, : self.vocabulary].float(), -1)
        probs_NV = logprobs_NV.exp()
        # p log p is 0 where p is 0 and log p is -inf; the clamp keeps the product from being NaN there
        entropy_N = -(probs_NV * logprobs_NV.clamp(min=-1e4)).sum(-1)
        if entropy_N.isnan().any():
            raise ModelError("the teacher gave NaN logits. Try --dtype float32, or check the model.")
        ids_NK = _ordered(logprobs_NV, torch.topk(logprobs_NV, self.k, sorted=False).indices)
        tail_N = probs_NV.scatter_(1, ids_NK, 0.0).sum(-1)
        return {
            "ids": ids_NK,
            "logprobs": logprobs_NV.gather(1, ids_NK),
            "tail_logmass": tail_N.clamp(max=1.0).log(),
            "gold_logprob": logprobs_NV.gather(1, gold_N[:, None]).squeeze(1),
            "entropy": entropy_N,
        }


def _ordered(logprobs_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """The ids by falling logprob, equal ones by rising id: two stable sorts, the less important key first."""
    ids_NK = ids_NK.sort(-1).values
    order_NK = torch.sort(logprobs_NV.gather(1, ids_NK), dim=-1, descending=True, stable=True).indices
    return ids_NK.gather(1, order_NK)
