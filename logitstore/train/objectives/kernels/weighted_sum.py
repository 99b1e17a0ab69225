"""The loss of a student with its gradient, in closed form and one softmax: any number of targets at any temperatures.

Axes: N rows (n of a chunk), L targets, V the student's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from logitstore.targets.dense import SMALLEST
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.target import TargetRows, gold_target, teacher_target

Weights = Tensor | float
"""Of rows in a sum: float[N], or one for all."""


class RowLoss(Protocol):
    """A loss of rows together with its gradient.

    Attributes:
        together: rows of a chunk, exactly, because a row's loss depends on the logits of the others as well; None where each
            depends on its own alone, and any chunk will do.
    """

    @property
    def together(self) -> int | None: ...

    def __call__(self, logits_nV: Tensor, some: slice, scale: Weights) -> Tensor:
        """Write d (sum_n scale_n loss_n) / d logits over the logits.

        Args:
            logits_nV: of a chunk of rows, contiguous, float32 or float64; overwritten.
            some: which of all rows those are.
            scale: of the chunk's rows, in the sum that the gradient is of.

        Returns:
            [1 + L, n]: the loss, then what it is made of.
        """


@dataclass(frozen=True)
class Pull:
    """One term of a loss: weight * T**2 * (constant - sum_v q(v) log s_T(v)), where s_T = softmax(z / T).

    T is one number, or float[N], of each row its own.
    """

    name: str
    weight: float
    temperature: float | Tensor
    target: TargetRows


@dataclass(frozen=True)
class WeightedSum:
    """sum_l weight_l T_l**2 (constant_l - <q_l, log softmax(z / T_l)>) per row.

    Since log s_T(v) = z(v) / T - lse(z / T), and with Q = sum_v q(v),

        term = T**2 (constant + Q lse(z / T) - <q, z> / T),        d term / d z = T (Q s_T - q)

    so all terms at one temperature share one softmax, which the gradient grows out of in place.
    """

    pulls: Sequence[Pull]

    @property
    def together(self) -> None:
        """Each row stands alone."""
        return None

    @property
    def names(self) -> list[str]:
        """Of the lines after the first."""
        return [pull.name for pull in self.pulls]

    def __call__(self, logits_nV: Tensor, some: slice, scale: Weights = 1.0) -> Tensor:
        factor = 1.0 if isinstance(scale, Tensor) else scale
        own = {id(pull.temperature): pull.temperature for pull in self.pulls if isinstance(pull.temperature, Tensor)}
        shared = {pull.temperature for pull in self.pulls if not isinstance(pull.temperature, Tensor)}
        temperatures: list[float | Tensor] = [*own.values(), *sorted(shared)]
        terms: dict[int, Tensor] = {}
        gradient_nV = None
        for temperature in temperatures:
            own_nV = logits_nV if temperature is temperatures[-1] else logits_nV.clone()
            terms |= self._at(temperature, own_nV, some, factor)
            gradient_nV = own_nV if gradient_nV is None else own_nV.add_(gradient_nV)
        if isinstance(scale, Tensor):
            logits_nV.mul_(scale[:, None])
        lines = [terms[place] for place in range(len(self.pulls))]
        total_n = torch.stack([pull.weight * term for pull, term in zip(self.pulls, lines, strict=True)]).sum(0)
        return torch.stack([total_n, *lines])

    def _at(self, temperature: float | Tensor, logits_nV: Tensor, some: slice, scale: float) -> dict[int, Tensor]:
        """The terms at one temperature, by their places; their gradient in place of the logits."""
        own = [
            (place, pull, pull.target[some])
            for place, pull in enumerate(self.pulls)
            if is_same(pull.temperature, temperature)
        ]
        if isinstance(temperature, Tensor):
            own_n = temperature[some].to(logits_nV.dtype)
            logits_nV.div_(own_n[:, None])
            square: Tensor | float = own_n**2
            slope = 1.0
        else:
            square, slope = temperature**2, temperature
            if temperature != 1:
                logits_nV.mul_(1 / temperature)
        dots = [target.dot(logits_nV) for _, _, target in own]
        normaliser_n = softmax_(logits_nV)
        terms, keep, masses = {}, 0.0, []
        for (place, pull, target), dot_n in zip(own, dots, strict=True):
            mass_n = target.mass_N
            expected_n = normaliser_n if mass_n is None else mass_n * normaliser_n
            terms[place] = square * (target.constant_N + expected_n - dot_n)
            if mass_n is None:
                keep += pull.weight
            else:
                masses.append(pull.weight * mass_n)
        if masses:
            logits_nV.mul_((torch.stack(masses).sum(0) + keep)[:, None])
            keep = 1.0
        keep *= scale * slope
        for _, pull, target in own:
            target.subtract_from(logits_nV, keep, pull.weight * scale * slope)
            keep = 1.0
        if isinstance(temperature, Tensor):
            logits_nV.mul_(own_n[:, None])
        return terms


def is_same(one: float | Tensor, other: float | Tensor) -> bool:
    """Whether two temperatures are one number, or the same numbers of rows."""
    return one is other if isinstance(one, Tensor) or isinstance(other, Tensor) else one == other


def softmax_(logits_nV: Tensor) -> Tensor:
    """The softmax in place; returns log sum exp per row, known as in `normaliser`, whose logits are gone here."""
    highest_n, any_n = logits_nV.amax(-1), logits_nV[:, 0].clone()
    torch.softmax(logits_nV, -1, out=logits_nV)
    if logits_nV.device.type == "cpu" and bool((logits_nV[:, 0] > SMALLEST).all()):
        return any_n - logits_nV[:, 0].log()
    return highest_n - logits_nV.amax(-1).log()


def distillation_loss(
    targets: AnyTargets | None, gold_N: Tensor, *, alpha: float, temperature: float, dtype: torch.dtype = torch.float32
) -> WeightedSum:
    """alpha * T**2 KL(p_T || s_T) + (1 - alpha) * cross-entropy on the gold tokens (Hinton et al. 2015, section 2).

    Its lines are the loss, then the KL (with its T**2) where alpha > 0, then the cross-entropy where alpha < 1.

    Args:
        targets: N rows; may be None where alpha is 0.
        gold_N: int64, the tokens that follow.
        alpha: weight of the KL, from 0 to 1.
        temperature: of both sides of the KL.
        dtype: of the logits it will be given.

    Raises:
        BadInput: random samples at another temperature than 1.
        ValueError: no targets, and alpha above 0.
    """
    pulls = []
    if alpha > 0:
        if targets is None:
            raise ValueError(f"alpha={alpha}: there is no KL without targets")
        pulls.append(Pull("kl", alpha, temperature, teacher_target(targets, temperature, dtype)))
    if alpha < 1:
        pulls.append(Pull("cross_entropy", 1 - alpha, 1.0, gold_target(gold_N, dtype)))
    return WeightedSum(pulls)
