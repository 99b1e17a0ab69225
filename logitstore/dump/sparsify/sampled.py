"""Random sampling of the distribution: unbiased at temperature 1 for every student (Anshumann et al. 2025, RS-KD).

The k most probable tokens are listed (k may be 0). Then D tokens are drawn from the others, in proportion to p**tau. Each
drawn token keeps its exact logprob and its count of draws. A sum over the vocabulary weighted with p, such as the
cross-entropy of a student, is estimated without bias by

    sum over listed p(v) f(v)  +  sum over drawn w(v) f(v),    w = count / D * p / q,    q = p**tau / Z.

The tokens are drawn from q; Z is the sum of p**tau over the tokens that can be drawn.

Axes: N rows, K listed, D draws, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.dump.sparsify.summary import Summary, ordered


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Lists the k most probable tokens (k may be 0) and draws others at random.

    Attributes:
        k: count of tokens listed before the draws; these are not drawn again.
        draws: count of draws, with replacement.
        exponent: tau; with 1, tokens are drawn in proportion to p.
        vocabulary: token ids below this are real.
    """

    k: int
    draws: int
    exponent: float
    vocabulary: int

    def __call__(self, logits_NV: Tensor, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """Reduce raw logits.

        Args:
            logits_NV: any float dtype.
            gold_N: int64, the token that really follows.
            uniform_ND: float64[N, draws], uniform in [0, 1); for given logits, they alone decide the drawn tokens.

        Returns:
            ids int64[N, K + D] and logprobs float32[N, K + D]: first the listed tokens, then the drawn ones by falling logprob;
            empty slots have id 0 and logprob -inf. Also counts int64[N, D]; log_normaliser float32[N], log Z; and the scores.

        Raises:
            ModelError: a row holds NaN, or nothing but -inf.
        """
        if uniform_ND is None:
            raise ValueError("sampling needs uniform numbers")
        if logits_NV.device.type == "mps":
            logits_NV, gold_N = logits_NV.cpu(), gold_N.cpu()  # this device has no float64
        teacher = Summary.of(logits_NV, self.vocabulary)
        logprobs_NV = teacher.logprobs()
        listed_NK = teacher.top(self.k).ids_NK if self.k else torch.zeros_like(gold_N[:, None])[:, :0]
        weights_NV = logprobs_NV.exp().double().pow(self.exponent).scatter(1, listed_NK, 0.0)
        reach_NV = weights_NV.cumsum(-1)
        total_N = reach_NV[:, -1]
        drawn_ND = torch.searchsorted(
            reach_NV, uniform_ND.to(reach_NV, non_blocking=True) * total_N[:, None], right=True
        )
        # rounding may give a place after the last token with a weight
        drawn_ND = drawn_ND.minimum((weights_NV > 0).long().cumsum(-1).argmax(-1)[:, None])
        ids_ND, counts_ND = _counted(ordered(logprobs_NV, drawn_ND))
        has_draws_N = total_N > 0
        is_full_ND = (counts_ND > 0) & has_draws_N[:, None]
        ids_ND = torch.where(is_full_ND, ids_ND, 0)
        logprobs_ND = torch.where(is_full_ND, logprobs_NV.gather(1, ids_ND), -torch.inf)
        top1_N = teacher.top(1).ids_NK[:, 0]
        ids_NK = torch.cat([listed_NK, ids_ND], 1)
        ids_or_empty_NK = torch.cat([listed_NK, torch.where(is_full_ND, ids_ND, -1)], 1)
        return {
            "ids": ids_NK,
            "logprobs": torch.cat([logprobs_NV.gather(1, listed_NK), logprobs_ND], 1),
            "counts": torch.where(is_full_ND, counts_ND, 0),
            "log_normaliser": total_N.log().float(),
            **teacher.scores(gold_N, top1_N, ids_or_empty_NK),
        }


def _counted(ids_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each run of equal ids by one id and its count; the remaining slots have count 0. Return ids and counts."""
    starts_ND = torch.ones_like(ids_ND, dtype=torch.bool)
    starts_ND[:, 1:] = ids_ND[:, 1:] != ids_ND[:, :-1]
    slot_ND = starts_ND.long().cumsum(-1) - 1
    counts_ND = torch.zeros_like(ids_ND).scatter_add_(1, slot_ND, torch.ones_like(ids_ND))
    return torch.zeros_like(ids_ND).scatter_(1, slot_ND, ids_ND), counts_ND
