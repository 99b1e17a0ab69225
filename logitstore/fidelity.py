"""How far what is stored is from what the teacher said: measured on a random sample of rows while they pass by.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from logitstore.chance import FIDELITY, uniform
from logitstore.decode import Decoder
from logitstore.manifest import FIDELITY_NAMES as NAMES
from logitstore.manifest import Fidelity
from logitstore.score import RowChunk, TeacherBatch
from logitstore.targets import SampledTargets, Targets, dense_logprobs
from logitstore.types import Array

TEMPERATURES = (1.0, 2.0, 4.0)
RARE = 1e-5
"""Tokens that the teacher gives less than this are rare."""

REFERENCE_TEMPERATURE = 2.0
"""The reference student is the teacher at this temperature: right in its order, and too flat."""


class FidelityCheck:
    """Compares stored rows with the distributions they came from, and adds up how they differ.

    Args:
        decoder: of the cache that is being written; its codec is what the rows go through.
        share: of the rows to compare, from 0 to 1.
        against: whose distributions are given to `add`.
    """

    def __init__(self, decoder: Decoder, share: float, against: str = "teacher") -> None:
        self._decoder, self._share, self._against = decoder, share, against
        self._found: list[Tensor] = []

    def chosen(self, batch: TeacherBatch) -> Array:
        """bool[N]: the rows of a batch to compare, the same whoever asks."""
        if self._share <= 0:
            return np.zeros(len(batch.rows_N), np.bool_)
        return np.concatenate([self.chosen_of(key, rows) for key, rows in zip(batch.keys, batch.counts, strict=True)])

    def chosen_of(self, key: str, rows: int) -> Array:
        """bool[N]: the same of one sample."""
        return np.asarray(uniform(key, rows, 1, FIDELITY)[:, 0] < self._share)

    def look(self, chunk: RowChunk, kept: Mapping[str, Tensor], chosen_N: Array) -> None:
        """Compare the chosen rows of a chunk, given what was kept of all its rows."""
        places = np.flatnonzero(chosen_N[chunk.span])
        if len(places):
            rows = torch.from_numpy(places).to(chunk.logits_nV.device)
            self.add(chunk.logits_nV[rows], {name: value[rows] for name, value in kept.items()})

    def add(self, logits_NV: Tensor, kept: Mapping[str, Tensor]) -> None:
        """Compare rows with raw logits, whose targets are `kept`, not yet encoded."""
        self.add_encoded(
            logits_NV, self._decoder.codec.encode({name: value.cpu().numpy() for name, value in kept.items()})
        )

    def add_encoded(self, logits_NV: Tensor, stored: Mapping[str, Array]) -> None:
        """Compare rows with raw logits, whose fields are `stored`."""
        if logits_NV.device.type == "mps":
            logits_NV = logits_NV.cpu()  # tails are found in float64, which this device does not have
        true_NV = torch.log_softmax(logits_NV[:, : self._decoder.row.vocabulary].float(), -1)
        decoded = self._decoder({name: torch.from_numpy(value).to(true_NV.device) for name, value in stored.items()})
        if isinstance(decoded, SampledTargets):
            stored_NV = torch.zeros_like(true_NV).scatter_add_(1, decoded.ids_NK, decoded.weights_NK).log()
        else:
            stored_NV = dense_logprobs(decoded)
        # the listed order is the rank order, also where coarse levels tie
        is_ranked = isinstance(decoded, Targets) and decoded.is_ranked
        first_N = decoded.ids_NK[:, 0] if is_ranked else stored_NV.argmax(-1)
        self._found.append(compare(true_NV, stored_NV, first_N).cpu().double())

    def take(self) -> Fidelity:
        """What was added up since the last time."""
        found_MN = torch.cat(self._found, 1) if self._found else torch.zeros(len(NAMES), 0, dtype=torch.float64)
        self._found = []
        bounded_N = torch.isfinite(found_MN[:3]).all(0)
        sums = {}
        for name, values_N in zip(NAMES, found_MN, strict=True):
            counted_N = values_N[bounded_N] if name.startswith("kl_") else values_N
            sums[name] = (_short(float(counted_N.sum())), _short(float((counted_N**2).sum())))
        rows = found_MN.shape[1]
        return Fidelity(
            against="source" if self._against == "source" else "teacher",
            rows=rows,
            unbounded=rows - int(bounded_N.sum()),
            sums=sums if rows else {},
        )


def compare(true_NV: Tensor, stored_NV: Tensor, first_N: Tensor) -> Tensor:
    """float32[8, N]: one line per name in NAMES.

    Args:
        true_NV, stored_NV: logprobs at temperature 1, nats.
        first_N: int64, the most probable token as stored.
    """
    lines = []
    for temperature in TEMPERATURES:
        p_NV = torch.log_softmax(true_NV / temperature, -1)
        q_NV = torch.log_softmax(stored_NV / temperature, -1)
        probs_NV = p_NV.exp()
        lines.append(torch.where(probs_NV > 0, probs_NV * (p_NV - q_NV), 0.0).sum(-1).clamp(min=0.0))
    true_probs_NV, stored_probs_NV = true_NV.exp(), stored_NV.exp()
    rare_NV = true_probs_NV < RARE
    # the gradients of KL(. || s) by the student's logits are s - p and s - q
    student_NV = torch.softmax(true_NV / REFERENCE_TEMPERATURE, -1)
    gradient_NV = student_NV - true_probs_NV
    error_N = ((true_probs_NV - stored_probs_NV) * gradient_NV).sum(-1)
    return torch.stack(
        [
            *lines,
            (true_NV.gather(1, first_N[:, None]).squeeze(1) == true_NV.max(-1).values).float(),
            torch.where(rare_NV, true_probs_NV, 0.0).sum(-1),
            torch.where(rare_NV, stored_probs_NV, 0.0).sum(-1),
            error_N,
            (gradient_NV**2).sum(-1),
        ]
    )


def _short(value: float) -> float:
    """Ten digits: more than the sums deserve, and the same wherever they are added in another order of rows."""
    return float(f"{value:.10g}")
