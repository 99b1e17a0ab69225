"""Measure a student sample by sample, while it is judged on a cache.

Axes: R positions of a batch, N rows, M samples, V the student's vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.store.index.figures import FIGURES
from logitstore.targets.dense import dense
from logitstore.targets.targets import AnyTargets, SampledTargets
from logitstore.train.loader.batch import Batch
from logitstore.train.objectives import cross_entropy, forward_kl
from logitstore.train.objectives.kernels.rowwise import rowwise

_OF_GOLD = ("cross_entropy", "accuracy")
"""Figures that need a gold token or label."""


class SampleFigures:
    """Collects the figures of every sample that a student is shown; each is a mean over the rows of the sample.

    The figures are those of `logitstore.store.index.figures.FIGURES`. It is a `watch` of
    `logitstore.train.metrics.evaluate_batches`.
    """

    def __init__(self) -> None:
        self._samples: list[Array] = []
        self._means: list[Array] = []

    def __call__(self, logits_RV: Tensor, batch: Batch, targets: AnyTargets) -> None:
        """Take the figures of a batch.

        Args:
            logits_RV: of the student, at all positions.
            batch: what it was shown; of its samples with the number -1 nothing is taken.
            targets: the teacher's answers about the rows.
        """
        gold_N = batch.gold.clamp(min=0)
        pieces: list[Tensor] = []

        def measure(logits_nV: Tensor, some: slice) -> Tensor:
            pieces.append(_rows(logits_nV, targets[some], gold_N[some]))
            return pieces[-1][0]

        rowwise(measure, logits_RV, batch.rows)
        rows_FN = torch.cat(pieces, 1).double()
        has_gold_N = batch.row_mask & (batch.gold >= 0)
        sample_N = torch.repeat_interleave(torch.arange(len(batch.samples), device=rows_FN.device), batch.counts)
        means = []
        for name, row_N in zip(FIGURES, rows_FN, strict=True):
            counts_N = has_gold_N if name in _OF_GOLD else batch.row_mask
            sums_M = rows_FN.new_zeros(2, len(batch.samples))
            sums_M.index_add_(1, sample_N, torch.stack([torch.where(counts_N, row_N, 0.0), counts_N.double()]))
            means.append(sums_M[0] / sums_M[1])  # NaN where nothing counts
        is_real_M = (batch.samples >= 0).cpu()
        self._samples.append(batch.samples.cpu()[is_real_M].numpy())
        self._means.append(torch.stack(means).cpu()[:, is_real_M].numpy())

    def found(self) -> tuple[Array, dict[str, Array]]:
        """Return int64[M], the samples in rising order, and of each figure float64[M]; NaN where it is not known."""
        samples_M = np.concatenate(self._samples) if self._samples else np.zeros(0, np.int64)
        order_M = np.argsort(samples_M, kind="stable")
        means_FM = np.concatenate(self._means, 1) if self._means else np.zeros((len(FIGURES), 0))
        return samples_M[order_M], dict(zip(FIGURES, means_FM[:, order_M], strict=True))


def _rows(logits_NV: Tensor, targets: AnyTargets, gold_N: Tensor) -> Tensor:
    """Return float32[F, N]: of each row the figures, in the order of FIGURES."""
    logprobs_NV = torch.log_softmax(logits_NV.float(), -1)
    probs_NV = logprobs_NV.exp()
    best_N2, ids_N2 = probs_NV.topk(2)
    agrees_N = torch.full_like(best_N2[:, 0], torch.nan)
    if not isinstance(targets, SampledTargets):
        # listed ids stand in the order of their ranks
        first_N = targets.ids_NK[:, 0] if targets.is_ranked else dense(targets).argmax(-1)
        agrees_N = (first_N == ids_N2[:, 0]).float()
    figures = {
        "cross_entropy": cross_entropy(logits_NV, gold_N),
        "accuracy": (ids_N2[:, 0] == gold_N).float(),
        "kl": forward_kl(logits_NV, targets),
        "agreement": agrees_N,
        "entropy": -torch.xlogy(probs_NV, probs_NV).sum(-1),
        "confidence": best_N2[:, 0],
        "margin": best_N2[:, 0] - best_N2[:, 1],
    }
    return torch.stack([figures[name] for name in FIGURES])
