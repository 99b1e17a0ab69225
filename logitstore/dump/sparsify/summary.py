"""Summaries of logits: normaliser, entropy, and a coarse map of the vocabulary, computed in few passes over the logits.

The map holds the highest logit and the mass of every block of 64 tokens. So the search for the most probable tokens visits a
few blocks only, and the mass of all others is a sum over blocks. The logits [N, V] are processed a few rows at a time, so
that they stay in the processor's cache.

Axes: N rows (n at a time), K kept, B blocks, C candidates, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.errors import ModelError
from logitstore.models.head import overflow_advice
from logitstore.targets.chunks import SUMMARY_ELEMENTS, chunk_rows

BLOCK = 64
"""Count of tokens in a block. Block b holds the tokens b, b + B, b + 2 B, ...: memory neighbours are in different blocks."""


LOWEST, HIGHEST = -20.0, 50.0
"""If the highest logit of a row lies between these, its exponential and the row's sum are well inside the float32 range."""


SPARE = 4
"""Count of blocks searched beyond k, for tokens that tie with the last of the k most probable tokens."""


@dataclass(frozen=True, eq=False)
class Top:
    """The most probable tokens of N rows.

    Attributes:
        ids_NK: int64, by falling logit; equal logits by rising id.
        logprobs_NK: float32, nats.
        outside_N: float32, the mass of all other tokens, computed as a sum over them, not as a difference.
    """

    ids_NK: Tensor
    logprobs_NK: Tensor
    outside_N: Tensor


@dataclass(frozen=True, eq=False)
class Summary:
    """The summary of N rows of logits.

    Attributes:
        logits_NV: the teacher's raw logits, without padding columns.
        top_N: float32, the highest logit.
        rest_N: float32, log sum exp minus `top_N`. The two are kept apart because their sum has too few digits for a logprob.
        entropy_N: float32, nats.
        highest_NB: float32, the highest logit of every block.
        mass_NB: float32, the probability of every block.
    """

    logits_NV: Tensor
    top_N: Tensor
    rest_N: Tensor
    entropy_N: Tensor
    highest_NB: Tensor
    mass_NB: Tensor

    @classmethod
    def of(cls, logits_NV: Tensor, vocabulary: int) -> Summary:
        """Summarise raw logits of any float dtype; -inf marks impossible tokens.

        With x = z - m and S = sum exp x, the normaliser is m + log S and the entropy is log S - sum x exp x / S. m is the
        highest logit of the row, or 0 if that logit lies between LOWEST and HIGHEST.

        Raises:
            ModelError: a row holds NaN, or only -inf.
        """
        if logits_NV.device.type == "mps":
            logits_NV = logits_NV.cpu()  # this device does not sort 64-bit integers
        logits_NV = logits_NV[:, :vocabulary]
        blocks = -(-vocabulary // BLOCK)
        size = max(min(chunk_rows(vocabulary, logits_NV.device.type, SUMMARY_ELEMENTS), len(logits_NV)), 1)
        wide_nW = logits_NV.new_full((size, BLOCK * blocks), -torch.inf, dtype=torch.float32)
        powers_nW = torch.empty_like(wide_nW)
        highest_NB, mass_NB = (wide_nW.new_empty(len(logits_NV), blocks) for _ in range(2))
        offset_N, moment_N = (wide_nW.new_empty(len(logits_NV)) for _ in range(2))
        is_ready = logits_NV.dtype == torch.float32 and logits_NV.is_contiguous() and vocabulary == BLOCK * blocks
        for first in range(0, len(logits_NV), size):
            some = slice(first, min(first + size, len(logits_NV)))
            count = some.stop - first
            x_nW, power_nW, out_n = wide_nW[:count], powers_nW[:count], moment_N[some]
            if is_ready:
                x_nW = logits_NV[some]
            else:
                x_nW[:, :vocabulary] = logits_NV[some]
            torch.amax(x_nW.view(count, BLOCK, blocks), 1, out=highest_NB[some])
            top_n = highest_NB[some].amax(1)
            is_small_n = (top_n > LOWEST) & (top_n < HIGHEST)
            offset_N[some] = torch.where(is_small_n, 0.0, top_n)
            if x_nW.device.type != "cpu" or not is_small_n.all():
                x_nW = torch.sub(x_nW, offset_N[some, None], out=wide_nW[:count])
            torch.exp(x_nW, out=power_nW)
            torch.sum(power_nW.view(count, BLOCK, blocks), 1, out=mass_NB[some])
            moments_nV = power_nW.mul_(x_nW)[:, :vocabulary]
            is_cpu = moments_nV.device.type == "cpu"
            if is_cpu:
                torch.sum(moments_nV, 1, out=out_n)
            if not is_cpu or out_n.isnan().any():
                # a token without mass adds 0 * log 0 = 0 to the entropy, not NaN; another device would have to be waited for
                torch.nansum(moments_nV, 1, out=out_n)
            wide_nW[:count, vocabulary:] = -torch.inf
        total_N, top_N = mass_NB.sum(1), highest_NB.amax(1)
        if total_N.isnan().any():
            raise ModelError(f"the teacher gave logits that are no numbers. {overflow_advice(logits_NV.dtype)}")
        return cls(
            logits_NV=logits_NV,
            top_N=top_N,
            # neither is below 0 but by rounding, which a teacher that is certain of a token shows
            rest_N=((offset_N.double() - top_N) + total_N.double().log()).clamp(min=0.0).float(),
            entropy_N=(total_N.log() - moment_N / total_N).clamp(min=0.0),
            highest_NB=highest_NB,
            mass_NB=mass_NB.div_(total_N[:, None]),
        )

    def logprobs(self) -> Tensor:
        """Return the logprobs of all tokens, float32[N, V], nats."""
        return self._logprobs_of(self.logits_NV.float())

    def _logprobs_of(self, logits_NK: Tensor) -> Tensor:
        return logits_NK - self.top_N[:, None] - self.rest_N[:, None]

    def top(self, k: int) -> Top:
        """Return the k most probable tokens; k is from 1 to the size of the vocabulary.

        The k highest logits lie in the k blocks with the highest maxima. A few more blocks are searched for tokens that tie
        with the last one. Rows with still more ties are searched completely.
        """
        blocks = self.highest_NB.shape[1]
        searched = min(k + SPARE, blocks)
        chosen = self.highest_NB.topk(searched, sorted=False)
        starts_C = torch.arange(BLOCK, device=chosen.indices.device) * blocks
        ids_NC = (chosen.indices[:, :, None] + starts_C).flatten(1)
        best = self._best(self.logits_NV, ids_NC, k)
        rest_N = self.mass_NB.scatter(1, chosen.indices, 0.0).sum(1)
        top = Top(best.ids_NK, best.logprobs_NK, (best.outside_N + rest_N).clamp(max=1.0))
        if searched == blocks:
            return top
        last_N = self.logits_NV.gather(1, best.ids_NK[:, -1:]).squeeze(1).float()
        if len(unclear_M := (chosen.values.amin(1) >= last_N).nonzero().squeeze(1)):
            whole = Summary(*(getattr(self, name)[unclear_M] for name in self.__dataclass_fields__))
            everything_MV = torch.arange(self.logits_NV.shape[1], device=unclear_M.device).expand(len(unclear_M), -1)
            exact = whole._best(whole.logits_NV, everything_MV, k)
            for kept, better in zip(vars(top).values(), vars(exact).values(), strict=True):
                kept[unclear_M] = better
        return top

    def scores(self, gold_N: Tensor, top1_N: Tensor, listed_NK: Tensor | None) -> dict[str, Tensor]:
        """Return the scores of every row: `gold_logprob`, `entropy`, `top1`, `gold_listed` (the gold token is listed)."""
        gold_N1 = gold_N[:, None].to(self.logits_NV.device)
        return {
            "gold_logprob": self._logprobs_of(self.logits_NV.gather(1, gold_N1).float()).squeeze(1),
            "entropy": self.entropy_N,
            "top1": top1_N,
            "gold_listed": ((gold_N1 if listed_NK is None else listed_NK) == gold_N1).any(1),
        }

    def _best(self, logits_NV: Tensor, ids_NC: Tensor, k: int) -> Top:
        """Return the k best candidates, and the mass of the other candidates; ids beyond the vocabulary do not count."""
        vocabulary = logits_NV.shape[1]
        # adding 0 turns -0 into 0, since the two have different keys
        logits_NC = logits_NV.gather(1, ids_NC.clamp(max=vocabulary - 1)).float() + 0.0
        keys_NC = _sortable(logits_NC, ids_NC).masked_fill_(ids_NC >= vocabulary, torch.iinfo(torch.int64).min)
        places_NK = keys_NC.topk(k).indices
        logprobs_NC = self._logprobs_of(logits_NC)
        probs_NC = logprobs_NC.exp().masked_fill_(ids_NC >= vocabulary, 0.0).scatter_(1, places_NK, 0.0)
        return Top(ids_NC.gather(1, places_NK), logprobs_NC.gather(1, places_NK), probs_NC.sum(1))


def ordered(logprobs_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """Return the ids by falling logprob, equal logprobs by rising id: two stable sorts, the less important key first."""
    ids_NK = ids_NK.sort(-1).values
    order_NK = torch.sort(logprobs_NV.gather(1, ids_NK), dim=-1, descending=True, stable=True).indices
    return ids_NK.gather(1, order_NK)


def _sortable(values: Tensor, ids: Tensor) -> Tensor:
    """Return int64 keys with the order of the float32 values; of equal values, the smaller id has the larger key."""
    bits = values.view(torch.int32)
    # the bits of negative floats rise as the value falls
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) + (0x7FFFFFFF - ids)
