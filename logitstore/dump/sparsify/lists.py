"""Rows of kind topk from a teacher that gives lists of its most probable tokens, and not its whole distribution.

Axes: N rows, K entries (of a list; of a row, once it is cut to k), V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from logitstore.errors import ModelError
from logitstore.targets.rows import TopLogprobs

SLACK = 1e-3
"""By how much a list may sum to more than 1, and the gold token's two logprobs may differ: a server rounds."""


@dataclass(frozen=True, kw_only=True)
class ListedTopK:
    """Keeps the first k entries of each list; of a shorter list all, and the other slots stay empty.

    The tail mass is 1 less the listed mass. The gold token's logprob is the teacher's own, listed or not. The entropy is that
    of what is stored, with the tail spread evenly over the tokens that are not listed: the teacher's own entropy is not known,
    and it is at most this one.

    Attributes:
        k: slots of a row, at most the vocabulary.
        vocabulary: token ids below this are real.
    """

    draws: ClassVar[int] = 0

    k: int
    vocabulary: int

    def __call__(self, top: TopLogprobs, gold_N: Tensor, uniform_ND: Tensor | None = None) -> dict[str, Tensor]:
        """Reduce lists.

        Args:
            top: what the teacher said; its lists may be longer or shorter than k.
            gold_N: int64, the token that really follows; -1 where there is none.
            uniform_ND: not needed.

        Returns:
            what `TopK` returns; an empty slot has id 0 and logprob -inf.

        Raises:
            ModelError: a list that cannot be one of the most probable tokens; with its row.
        """
        ids_NK, logprobs_NK = _checked(top, self.vocabulary)
        ids_NK, logprobs_NK = ids_NK[:, : self.k], logprobs_NK[:, : self.k]
        missing = self.k - ids_NK.shape[1]
        ids_NK = torch.nn.functional.pad(ids_NK, (0, missing))
        logprobs_NK = torch.nn.functional.pad(logprobs_NK, (0, missing), value=-math.inf)
        tail_N = (1.0 - logprobs_NK.exp().sum(1)).clamp(min=0.0)
        is_gold_NK = (ids_NK == gold_N[:, None]) & torch.isfinite(logprobs_NK)
        unlisted_N = self.vocabulary - torch.isfinite(logprobs_NK).sum(1)
        each_N = (tail_N.log() - unlisted_N.clamp(min=1).log()).nan_to_num(neginf=0.0)
        entropy_N = -torch.special.xlogy(logprobs_NK.exp(), logprobs_NK.exp()).sum(1) - tail_N * each_N
        return {
            "ids": ids_NK,
            "logprobs": logprobs_NK.float(),
            "tail_logmass": torch.where(unlisted_N > 0, tail_N, 0.0).log().float(),
            "gold_logprob": _gold(top.gold_logprob_n.double(), gold_N, is_gold_NK, logprobs_NK).float(),
            "entropy": entropy_N.clamp(0.0, math.log(self.vocabulary)).float(),
            "top1": ids_NK[:, 0],
            "gold_listed": is_gold_NK.any(1),
        }


def _checked(top: TopLogprobs, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return ids int64[N, K] and logprobs float64[N, K], equal logprobs by rising id, empty slots with id 0."""
    logprobs_NK = top.logprobs_nK.double()
    is_empty_NK = torch.isneginf(logprobs_NK)
    ids_NK = top.ids_nK.long().masked_fill(is_empty_NK, 0)
    # empty slots are told apart by giving each an id of its own, beyond the vocabulary
    beyond_K = vocabulary + torch.arange(ids_NK.shape[1], device=ids_NK.device)
    sorted_NK = torch.where(is_empty_NK, beyond_K, ids_NK).sort(1).values
    mass_N1 = logprobs_NK.exp().sum(1, keepdim=True)
    is_whole_N1 = (~is_empty_NK).sum(1, keepdim=True) == vocabulary
    rules = {
        "an id is not below the vocabulary": (ids_NK < 0) | (ids_NK >= vocabulary),
        "an id is listed twice": sorted_NK[:, 1:] == sorted_NK[:, :-1],
        "a logprob is NaN or positive": ~(logprobs_NK <= 0),
        "the logprobs do not fall": logprobs_NK[:, 1:] > logprobs_NK[:, :-1],
        "the probabilities sum to more than 1": mass_N1 > 1 + SLACK,
        "every token is listed, and the probabilities sum to less than 1": is_whole_N1 & (mass_N1 < 1 - SLACK),
        "nothing is listed": is_empty_NK.all(1, keepdim=True),
    }
    for problem, is_broken_NX in rules.items():
        if is_broken_NX.any():
            row = int(is_broken_NX.any(1).nonzero()[0])
            raise ModelError(
                f"the teacher's list of row {row} of {len(ids_NK)}: {problem}. It lists "
                f"{list(zip(top.ids_nK[row].tolist(), top.logprobs_nK[row].tolist(), strict=True))[:8]}."
            )
    order_NK = ids_NK.sort(dim=1, stable=True).indices
    falling_NK = logprobs_NK.gather(1, order_NK).sort(dim=1, descending=True, stable=True).indices
    order_NK = order_NK.gather(1, falling_NK)
    return ids_NK.gather(1, order_NK), logprobs_NK.gather(1, order_NK)


def _gold(gold_logprob_N: Tensor, gold_N: Tensor, is_gold_NK: Tensor, logprobs_NK: Tensor) -> Tensor:
    """Return the gold token's logprob; where it is listed, the listed one, from which the teacher's may differ by rounding."""
    listed_N = logprobs_NK.masked_fill(~is_gold_NK, -math.inf).amax(1)
    is_listed_N = is_gold_NK.any(1)
    is_apart_N = is_listed_N & ~((gold_logprob_N - listed_N).abs() <= SLACK)
    is_wrong_N = (is_apart_N | ~(gold_logprob_N <= 0)) & (gold_N >= 0)
    if is_wrong_N.any():
        row = int(is_wrong_N.nonzero()[0])
        raise ModelError(
            f"the teacher's gold logprob of row {row} of {len(listed_N)}: {float(gold_logprob_N[row])} is NaN, positive or "
            f"not the listed one ({float(listed_N[row])})."
        )
    return torch.where(is_listed_N, listed_N, gold_logprob_N)
