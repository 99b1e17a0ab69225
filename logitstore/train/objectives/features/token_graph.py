"""TRG: compare graphs of tokens or patches, of one sample and across the batch.

Axes: N rows, M samples, T rows of the longest sample, G rows that stand in the graph, K neighbours, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import hidden_pairs
from logitstore.train.objectives.features.padding import Padding
from logitstore.train.objectives.features.projection import Projections
from logitstore.train.objectives.features.relations import relation


class TokenGraph(FeatureObjective):
    """Compute three terms of the graph of tokens (TRG, Zhang et al. 2023), added up, the mean over pairs of layers.

        local       KL(softmax A_t, softmax A_s) over the K rows j that are nearest to row i by the teacher's states, of
                    A_ij = exp(-|x_i - x_j|^2), x of length 1
        contrast    -log softmax_j(<P s_i, t_j> / tau) at j = i, of states of length 1, with a learned linear map P
        context     mean_j (softmax_j(s_i s_j / sqrt(D)) - softmax_j(t_i t_j / sqrt(D)))^2 over the rows j of the sample

    The first two are about `tokens` rows that lie evenly over the batch, one number for the batch that is given to every row.
    A batch with less than two rows has neither.

    Args:
        shapes: shapes of both models.
        layers: as in `layer_pairs`.
        tokens: G, the most rows in the graph of the batch.
        neighbours: K.
        local, contrast, context: weights of the terms.
        tau: temperature of the contrast.

    Raises:
        BadInput: a number is not above 0, there are less than two tokens, or a layer is not there.
    """

    def __init__(
        self,
        shapes: Shapes,
        *,
        layers: str = "last-1",
        tokens: int = 512,
        neighbours: int = 8,
        local: float = 1.0,
        contrast: float = 1.0,
        context: float = 1.0,
        tau: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("neighbours", neighbours), ("tau", tau)):
            if value <= 0:
                raise BadInput(f"{name} {value:g}: give a number above 0.")
        if tokens < 2:
            raise BadInput(f"tokens {tokens}: a graph is between rows. Give 2 or more.")
        self.tokens, self.neighbours, self.tau = tokens, neighbours, tau
        self.local, self.contrast, self.context = local, contrast, context
        self.projections = Projections(shapes, self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers))

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "last-1", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        padding, terms = Padding.of(sides.counts_M), []
        count = len(sides.mask_N)
        chosen_G = _evenly(count, self.tokens, sides.mask_N.device)
        for (name, _), (mapped_ND, teacher_ND) in zip(self.projections.names, self.projections(sides), strict=True):
            student_ND = sides.student[name]
            loss_N = self.context * _context(student_ND, teacher_ND, sides.counts_M, padding)
            if count > 1:
                near_GK = _nearest(teacher_ND[chosen_G], self.neighbours)
                local = _local(student_ND[chosen_G], teacher_ND[chosen_G], near_GK)
                loss_N = loss_N + self.local * local + self.contrast * self._contrast(mapped_ND, teacher_ND, chosen_G)
            else:
                loss_N = loss_N + 0 * mapped_ND.sum()  # other processes may wait for the gradient of the map
            terms.append(loss_N)
        return torch.stack(terms).mean(0)

    def _contrast(self, mapped_ND: Tensor, teacher_ND: Tensor, chosen_G: Tensor) -> Tensor:
        scores_GG = normalize(mapped_ND[chosen_G], dim=-1) @ normalize(teacher_ND[chosen_G], dim=-1).T / self.tau
        return -scores_GG.log_softmax(-1).diagonal().mean()


def _evenly(count: int, most: int, device: torch.device) -> Tensor:
    """Return int64[G]: at most so many of `count` numbers, as evenly as can be."""
    few = min(count, most)
    return torch.arange(few, device=device) * count // max(few, 1)


def _nearest(teacher_GD: Tensor, neighbours: int) -> Tensor:
    """Return int64[G, K]: the other rows with the largest cosines; less where there are less."""
    cosines_GG = normalize(teacher_GD, dim=-1) @ normalize(teacher_GD, dim=-1).T
    return cosines_GG.fill_diagonal_(-torch.inf).topk(min(neighbours, len(teacher_GD) - 1)).indices


def _local(student_GD: Tensor, teacher_GD: Tensor, near_GK: Tensor) -> Tensor:
    said = []
    for rows_GD in (student_GD, teacher_GD):
        unit_GD = normalize(rows_GD, dim=-1)
        apart_GK = (unit_GD[:, None] - unit_GD[near_GK]).square().sum(-1)
        said.append((-apart_GK).exp().log_softmax(-1))
    return (said[1].exp() * (said[1] - said[0])).sum(-1).mean()


def _context(student_ND: Tensor, teacher_ND: Tensor, counts_M: Tensor, padding: Padding) -> Tensor:
    both = []
    for rows_ND in (student_ND, teacher_ND):
        rows_MT1D = padding.pad(rows_ND)[:, :, None]
        both.append(relation(rows_MT1D, rows_MT1D, padding.seen(causal=False))[:, 0].exp())
    apart_MT = (both[0] - both[1]).square().sum(-1) / counts_M.clamp(min=1)[:, None]
    return padding.rows(apart_MT)
