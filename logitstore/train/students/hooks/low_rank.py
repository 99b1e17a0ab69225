"""Train a student whose layers are products of two factors, W = U V; save the products in place of the factors.

Guo et al. 2024 (PELA): the factors begin as the singular value decomposition of W, cut to the largest r values. They are what
is trained. The student holds their product, a matrix of rank r: by the chain rule dL/dU = dL/dW V^T and dL/dV = U^T dL/dW, so
the steps are those of a student that has the factors, and every tool that reads the student finds a plain model.

PELA also adds to the loss a penalty on how far the product is from the matrix W0 that it began as, the mean over the
matrices of (max |U V - W0| - e)^2. It stands in the authors' code (guoyang9/PELA, `inf_norm`), with e = 0.001 and a weight that
is 0 if none is given; so here. Its gradient by U V, 2 (max |D| - e) sign(D) at the largest entries of D = U V - W0, is added
before the step.

Axes: O output channels, I inputs, R rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.lora import ALL_LINEAR
from logitstore.train.students.hooks.chosen import Chosen, chosen
from logitstore.train.students.hooks.hook import StudentHook

ROUNDING = 1e-4
"""What may be left of the singular values beyond the rank, over the largest one, where products are in float32."""

DISTANCE = 1e-3
"""The largest difference of a weight that PELA's penalty allows, in the authors' code."""


class LowRank(StudentHook):
    """Keep the matrices of layers at some rank.

    Args:
        rank: of each matrix. One that has no higher rank stays as it is.
        ratio: in place of a rank, as in the paper: how many times fewer weights the factors have than the matrix.
        penalty: weight of the penalty on how far a product is from the matrix that it began as; 0 for none.
        distance: the largest difference of a weight that this penalty allows, e.
        targets: see `chosen`.

    Raises:
        BadInput: neither or both of rank and ratio are given, the rank is below 1, the ratio is not above 1, the penalty or the
            distance is below 0, or the distance is given without a penalty.
    """

    def __init__(
        self,
        *,
        rank: int | None = None,
        ratio: float | None = None,
        penalty: float = 0.0,
        distance: float = DISTANCE,
        targets: tuple[str, ...] = (ALL_LINEAR,),
    ) -> None:
        if (rank is None) == (ratio is None):
            raise BadInput("give one of rank and ratio, such as low_rank:rank=64 or low_rank:ratio=3.")
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
            raise BadInput(f"rank is {rank!r}, but must be a whole number from 1.")
        if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, int | float) or ratio <= 1):
            raise BadInput(f"ratio is {ratio!r}, but must be a number above 1.")
        if penalty < 0 or distance < 0:
            name, value = ("penalty", penalty) if penalty < 0 else ("distance", distance)
            raise BadInput(f"{name} is {value}, but must not be below 0.")
        if distance != DISTANCE and not penalty:
            raise BadInput(f"distance is {distance}, which changes nothing without a penalty. Give penalty, such as 1.")
        self.rank, self.ratio, self.targets = rank, ratio, targets
        self.penalty, self.distance = penalty, distance
        self._all: list[Chosen] = []
        self._trained: list[Chosen] = []
        self._outer_OR, self._inner_RI = nn.ParameterList(), nn.ParameterList()
        self._first_OI: list[Tensor] = []

    @torch.no_grad()
    def prepare(self, student: PreTrainedModel) -> str:
        found = [each for each in chosen(student, self.targets) if each.of(student).dim() == 2]
        self._all = [each for each in found if min(each.of(student).shape) > self._rank_of(each.of(student))]
        if not self._all:
            most = max((min(each.of(student).shape) for each in found), default=0)
            raise BadInput(
                f"the matrices of these layers have rank {most} at most, so nothing would change. Give a lower rank."
            )
        self._trained = [each for each in self._all if each.of(student).requires_grad]
        cut = whole = worst = 0.0
        factors = 0
        for each in self._all:
            weight = each.of(student)
            outer_OR, inner_RI, lost, squares = _factors(weight, self._rank_of(weight))
            cut, whole, worst = cut + lost, whole + squares, max(worst, lost / max(squares, 1e-30))
            factors += outer_OR.numel() + inner_RI.numel()
            if each in self._trained and self.penalty:
                self._first_OI.append(weight.detach().clone())
            weight.copy_(outer_OR @ inner_RI)
            if each in self._trained:
                self._outer_OR.append(nn.Parameter(outer_OR))
                self._inner_RI.append(nn.Parameter(inner_RI))
        dense = sum(each.of(student).numel() for each in self._all)
        ranks = sorted({self._rank_of(each.of(student)) for each in self._all})
        said = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        return (
            f"{len(self._all)} matrices are cut to {said}, with an error of {math.sqrt(cut / max(whole, 1e-30)):.1%} "
            f"of their norm (the worst {math.sqrt(worst):.1%}); their factors have {factors:,} weights, they have {dense:,}"
        )

    @torch.no_grad()
    def before_step(self, student: nn.Module) -> None:
        if self.penalty:
            self._add_penalty(student)
        for each, outer_OR, inner_RI in zip(self._trained, self._outer_OR, self._inner_RI, strict=True):
            weight = each.of(student)
            if weight.grad is not None:
                outer_OR.grad, inner_RI.grad = weight.grad @ inner_RI.T, outer_OR.T @ weight.grad
                weight.grad = None  # the optimizer passes over it

    def _add_penalty(self, student: nn.Module) -> None:
        """Add the gradient of the penalty to those of the products."""
        for number, each in enumerate(self._trained):
            weight = each.of(student)
            if weight.grad is None:
                continue
            self._first_OI[number] = self._first_OI[number].to(weight.device)
            apart_OI = weight - self._first_OI[number]
            largest = apart_OI.abs().max()
            is_largest_OI = apart_OI.abs() == largest
            slope = 2 * self.penalty * (largest - self.distance) / (len(self._trained) * is_largest_OI.sum())
            weight.grad += torch.where(is_largest_OI, slope * apart_OI.sign(), 0.0)

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        for each, outer_OR, inner_RI in zip(self._trained, self._outer_OR, self._inner_RI, strict=True):
            each.of(student).copy_(outer_OR @ inner_RI)
            outer_OR.grad = inner_RI.grad = None

    def modules(self) -> nn.Module:
        return nn.ModuleDict({"outer": self._outer_OR, "inner": self._inner_RI})

    @torch.no_grad()
    def check(self, student: nn.Module) -> None:
        for each in self._all:
            weight = each.of(student)
            rank, values = self._rank_of(weight), torch.linalg.svdvals(weight.float())
            if values[rank] > ROUNDING * values[0]:
                raise ModelError(
                    f"hook low_rank: {each.name} has not the rank {rank} any more. Another part of the run writes "
                    "weights; leave it out."
                )

    def _rank_of(self, weight_OI: Tensor) -> int:
        """Return the rank that a matrix gets: O I / (ratio (O + I)) by ratio, at least 1."""
        if self.rank is not None:
            return self.rank
        return max(int(weight_OI.numel() / ((self.ratio or 1.0) * sum(weight_OI.shape))), 1)


def _factors(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """Return U sqrt(S) [O, R] and sqrt(S) V^T [R, I] of the largest singular values, the sum of the squares of the others, and
    that of all."""
    left, values, right = torch.linalg.svd(weight_OI.float(), full_matrices=False)
    roots, squares = values[:rank].sqrt(), values.double().square()
    lost, whole = float(squares[rank:].sum()), float(squares.sum())
    return (left[:, :rank] * roots).contiguous(), (roots[:, None] * right[:rank]).contiguous(), lost, whole
