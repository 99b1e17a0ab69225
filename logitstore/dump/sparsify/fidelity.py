"""Fidelity: the difference between the stored rows and the teacher's answers, measured on random rows during the dump.

Axes: N rows, H temperatures, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from logitstore.core.random import FIDELITY, uniform
from logitstore.core.types import Array
from logitstore.format.part_record import FIDELITY_NAMES, Fidelity
from logitstore.targets.decoder import Decoder
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.rows import RowBatch, RowChunk
from logitstore.targets.targets import SampledTargets, Targets

TEMPERATURES = (1.0, 2.0, 4.0)
"""Each temperature is twice the one before it; `compare` depends on that."""


NO_MASS = 1e30
"""Replaces -log(0) where two infinities would be subtracted."""


TOGETHER = 64
"""Rows that are compared together: products with the sketch's weights are slow for a few rows."""


RARE = 1e-5
"""A token is rare if the teacher gives it less than this probability."""


REFERENCE_TEMPERATURE = 2.0
"""The reference student is the teacher at this temperature: its order of tokens is right, its distribution too flat."""


class FidelityCheck:
    """Compares stored rows with the distributions that they came from, and adds up the differences.

    Args:
        decoder: the decoder of the cache that is being written; its codec encodes the compared rows.
        share: the share of the rows to compare, from 0 to 1.
        against: "teacher" or "source": the owner of the distributions that `add` receives.
    """

    def __init__(self, decoder: Decoder, share: float, against: str = "teacher") -> None:
        self._decoder, self._share, self._against = decoder, share, against
        self._figures: list[Tensor] = []
        self._waiting: list[tuple[Tensor, dict[str, Tensor]]] = []

    def chosen(self, batch: RowBatch) -> Array:
        """Return bool[N]: the rows of a batch to compare. The choice depends on the keys of the samples only."""
        if self._share <= 0:
            return np.zeros(len(batch.gold_N), np.bool_)
        return np.concatenate([self.chosen_of(key, rows) for key, rows in zip(batch.keys, batch.counts, strict=True)])

    def chosen_of(self, key: str, rows: int) -> Array:
        """Return bool[N]: the rows of one sample to compare."""
        return np.asarray(uniform(key, rows, 1, FIDELITY)[:, 0] < self._share)

    def look(self, chunk: RowChunk, kept: Mapping[str, Tensor], chosen_N: Array) -> None:
        """Compare the chosen rows of a chunk.

        Args:
            chunk: rows with the teacher's logits.
            kept: the reduced targets of all rows of the chunk.
            chosen_N: bool, the chosen rows of the whole batch.
        """
        places = np.flatnonzero(chosen_N[chunk.span])
        if len(places):
            logits_nV = chunk.logits()
            rows = torch.from_numpy(places).to(logits_nV.device)
            self._waiting.append(
                (logits_nV[rows], {name: value[rows.to(value.device)] for name, value in kept.items()})
            )
            if sum(len(logits_NV) for logits_NV, _ in self._waiting) >= TOGETHER:
                self._compare_waiting()

    def _compare_waiting(self, *, all_of_them: bool = False) -> None:
        """Compare the rows that wait, always as many together, so that the figures do not depend on the size of the chunks."""
        if not self._waiting:
            return
        logits, kept = zip(*self._waiting, strict=True)
        logits_NV = torch.cat(logits)
        together = {name: torch.cat([each[name] for each in kept]) for name in kept[0]}
        end = len(logits_NV) if all_of_them else len(logits_NV) // TOGETHER * TOGETHER
        self._waiting = []
        if end < len(logits_NV):
            # copies, or a few rows would hold the memory of all
            self._waiting.append(
                (logits_NV[end:].clone(), {name: value[end:].clone() for name, value in together.items()})
            )
        for first in range(0, end, TOGETHER):
            some = slice(first, min(first + TOGETHER, end))
            truth = Truth.of(logits_NV[some], self._decoder.row.vocabulary)
            self.add(truth, {name: value[some] for name, value in together.items()})

    def add(self, truth: Truth, kept: Mapping[str, Tensor]) -> None:
        """Compare the rows of `truth` with their targets `kept`, which are not encoded yet."""
        self.add_encoded(truth, self._decoder.codec.encode({name: value.cpu().numpy() for name, value in kept.items()}))

    def add_encoded(self, truth: Truth, stored: Mapping[str, Array]) -> None:
        """Compare the rows of `truth` with their encoded fields `stored`."""
        device = truth.logprobs_NV.device
        decoded = self._decoder({name: torch.from_numpy(value).to(device) for name, value in stored.items()})
        if isinstance(decoded, SampledTargets):
            none_NV = torch.zeros_like(truth.logprobs_NV)
            stored_NV = none_NV.scatter_add_(1, decoded.ids_NK, decoded.weights_NK).log()
        else:
            stored_NV = dense_logprobs(decoded)
        # the listed order is the rank order, also where coarse levels tie
        is_ranked = isinstance(decoded, Targets) and decoded.is_ranked
        first_N = decoded.ids_NK[:, 0] if is_ranked else stored_NV.argmax(-1)
        self._figures.append(compare(truth, stored_NV, first_N).cpu().double())

    def take(self) -> Fidelity:
        """Return the sums since the last call, and begin new ones."""
        self._compare_waiting(all_of_them=True)
        figures_MN = (
            torch.cat(self._figures, 1) if self._figures else torch.zeros(len(FIDELITY_NAMES), 0, dtype=torch.float64)
        )
        self._figures = []
        bounded_N = torch.isfinite(figures_MN[:3]).all(0)
        sums = {}
        for name, values_N in zip(FIDELITY_NAMES, figures_MN, strict=True):
            counted_N = values_N[bounded_N] if name.startswith("kl_") else values_N
            sums[name] = (_short(float(counted_N.sum())), _short(float((counted_N**2).sum())))
        rows = figures_MN.shape[1]
        return Fidelity(
            against="source" if self._against == "source" else "teacher",
            rows=rows,
            unbounded=rows - int(bounded_N.sum()),
            sums=sums if rows else {},
        )


@dataclass(frozen=True, eq=False)
class Truth:
    """The true distributions of some rows, computed once for all ways to store the rows.

    Attributes:
        logprobs_NV: float32[N, V], logprobs at temperature 1, nats.
        probs_NHV: float32[N, H, V], probabilities at each of the temperatures.
        normaliser_HN: float32[H, N], log of the sum of p**(1/T).
        directions_N2V: float32[N, 2, V], the gradient of the reference student, and 1 for each rare token.
    """

    logprobs_NV: Tensor
    probs_NHV: Tensor
    normaliser_HN: Tensor
    directions_N2V: Tensor

    @classmethod
    def of(cls, logits_NV: Tensor, vocabulary: int) -> Truth:
        """Return the truth for the teacher's raw logits, with or without padding columns; -inf marks impossible tokens."""
        if logits_NV.device.type == "mps":
            logits_NV = logits_NV.cpu()  # tails are computed in float64, which this device does not have
        wide_NV = logits_NV[:, :vocabulary]
        logprobs_NV = torch.log_softmax(wide_NV if wide_NV.dtype == torch.float64 else wide_NV.float(), -1)
        tempered_NHV = logprobs_NV[:, None] / torch.tensor(TEMPERATURES, device=logprobs_NV.device)[:, None]
        normaliser_NH = tempered_NHV.logsumexp(-1)
        probs_NHV = tempered_NHV.sub_(normaliser_NH[:, :, None]).exp_()
        # the gradients of KL(. || s) by the student's logits are s - p and s - q
        gradient_NV = torch.softmax(logprobs_NV / REFERENCE_TEMPERATURE, -1) - probs_NHV[:, 0]
        is_rare_NV = (probs_NHV[:, 0] < RARE).to(logprobs_NV.dtype)
        return cls(logprobs_NV, probs_NHV, normaliser_NH.T, torch.stack([gradient_NV, is_rare_NV], 1))


def compare(truth: Truth, stored_NV: Tensor, first_N: Tensor) -> Tensor:
    """Return float32[8, N], one line for each name in FIDELITY_NAMES.

    With t and q the logprobs at temperature 1, true and stored, and p_T the true probabilities at T,

        KL_T = sum_v p_T(v) (t(v) - q(v)) / T  +  log sum_v e^(q(v) / T)  -  log sum_v e^(t(v) / T)

    so one exponential, e^(q / 4), serves all temperatures: its square and its fourth power are the other two.

    Args:
        truth: the true distributions of the N rows.
        stored_NV: stored logprobs at temperature 1, nats.
        first_N: int64, the most probable token of each stored row.
    """
    # a token without mass on both sides has difference 0; one without mass on the stored side only has a huge difference
    difference_NV = truth.logprobs_NV.clamp(min=-NO_MASS) - stored_NV.clamp(min=-NO_MASS)
    is_unbounded_N = difference_NV.amax(-1) > NO_MASS / 2
    crossed_HN = (truth.probs_NHV @ difference_NV[:, :, None]).squeeze(-1).T
    highest_N = stored_NV.amax(-1)
    power_NV = ((stored_NV - highest_N[:, None]) / TEMPERATURES[-1]).exp_()
    sums = [power_NV.sum(-1)]
    for _ in TEMPERATURES[1:]:
        sums.append(power_NV.square_().sum(-1))
    temperature_H1 = torch.tensor(TEMPERATURES, device=stored_NV.device)[:, None]
    stored_normaliser_HN = highest_N / temperature_H1 + torch.stack(sums[::-1]).log()
    divergence_HN = (crossed_HN / temperature_H1 + stored_normaliser_HN - truth.normaliser_HN).clamp(min=0.0)
    true_N2 = (truth.directions_N2V @ truth.probs_NHV[:, 0, :, None]).squeeze(-1)
    stored_N2 = (truth.directions_N2V @ power_NV[:, :, None]).squeeze(-1) * highest_N.exp()[:, None]
    first_logprob_N = truth.logprobs_NV.gather(1, first_N[:, None]).squeeze(1)
    return torch.stack(
        [
            *divergence_HN.masked_fill(is_unbounded_N, torch.inf),
            (first_logprob_N == truth.logprobs_NV.amax(-1)).to(stored_NV.dtype),
            true_N2[:, 1],
            stored_N2[:, 1],
            true_N2[:, 0] - stored_N2[:, 0],
            truth.directions_N2V[:, 0].square().sum(-1),
        ]
    )


def _short(value: float) -> float:
    """Return the value rounded to ten digits, so that another order of rows gives the same sum."""
    return float(f"{value:.10g}")
