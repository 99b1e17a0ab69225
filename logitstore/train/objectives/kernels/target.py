"""What a student is pulled towards, in the form that costs least: cross terms and gradients without a copy of the teacher.

Every target is a measure q_n over the vocabulary, and its loss is

    loss_n = constant_n - sum_v q_n(v) log s_n(v),        d loss_n / d z_n = Q_n s_n - q_n,    Q_n = sum_v q_n(v)

with the student s_n = softmax(z_n). Forward KL, cross-entropy on gold tokens and the estimate from random samples all have
this form; they differ in q alone.

Axes: N rows (n of a chunk), J entries, K listed, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs, dense_probs, row_dot, temper
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import AnyTargets, SampledTargets, Targets


class Target(Protocol):
    """q of a chunk of rows.

    Attributes:
        constant_N: sum_v q log q for a distribution, so that the loss is a divergence.
        mass_N: Q; None where it is 1.
    """

    @property
    def constant_N(self) -> Tensor: ...
    @property
    def mass_N(self) -> Tensor | None: ...

    def dot(self, logits_nV: Tensor) -> Tensor:
        """sum_v q(v) z(v) per row."""

    def subtract_from(self, probs_nV: Tensor, keep: float, factor: float) -> None:
        """probs_nV = keep * probs_nV - factor * q, in place."""


class TargetRows(Protocol):
    """q of all rows, a chunk at a time."""

    def __getitem__(self, some: slice) -> Target: ...


@dataclass(frozen=True)
class SparseTarget:
    """q_n(v) = sum_j [ids_nj = v] weights_nj + scale_n w(v): tokens by name, and one fixed vector for all rows.

    Attributes:
        ids_NJ: int64[N, J].
        weights_NJ: float[N, J]; 0 in empty slots.
        constant_N: float[N].
        mass_N: float[N], or None for 1.
        scale_N: float[N], not negative; None without a fixed vector.
        weight_V: float[V], w; None without one.
    """

    ids_NJ: Tensor
    weights_NJ: Tensor
    constant_N: Tensor
    mass_N: Tensor | None = None
    scale_N: Tensor | None = None
    weight_V: Tensor | None = None

    def __getitem__(self, some: slice) -> SparseTarget:
        return SparseTarget(
            self.ids_NJ[some],
            self.weights_NJ[some],
            self.constant_N[some],
            None if self.mass_N is None else self.mass_N[some],
            None if self.scale_N is None else self.scale_N[some],
            self.weight_V,
        )

    def dot(self, logits_nV: Tensor) -> Tensor:
        listed_nJ = logits_nV.gather(1, self.ids_NJ)
        # 0 times the logit -inf of a token that neither side gives any mass is 0
        dot_n = torch.where(self.weights_NJ != 0, self.weights_NJ * listed_nJ, 0.0).sum(-1)
        if self.scale_N is None or self.weight_V is None:
            return dot_n
        fixed_n = logits_nV[:, : len(self.weight_V)] @ self.weight_V
        return dot_n + torch.where(self.scale_N > 0, self.scale_N * fixed_n, 0.0)

    def subtract_from(self, probs_nV: Tensor, keep: float, factor: float) -> None:
        if self.scale_N is not None and self.weight_V is not None and len(self.weight_V) == probs_nV.shape[1]:
            probs_nV.addr_(self.scale_N, self.weight_V, beta=keep, alpha=-factor)
        else:
            if keep != 1:
                probs_nV.mul_(keep)
            if self.scale_N is not None and self.weight_V is not None:
                probs_nV[:, : len(self.weight_V)].addr_(self.scale_N, self.weight_V, alpha=-factor)
        probs_nV.scatter_add_(1, self.ids_NJ, self.weights_NJ * -factor)


@dataclass(frozen=True)
class DenseTarget:
    """q written out.

    Attributes:
        probs_NV: float[N, V'], V' at most the student's vocabulary.
        constant_N: float[N].
        mass_N: float[N], or None for 1.
    """

    probs_NV: Tensor
    constant_N: Tensor
    mass_N: Tensor | None = None

    def dot(self, logits_nV: Tensor) -> Tensor:
        wide_nV = logits_nV[:, : self.probs_NV.shape[1]]
        dot_n = row_dot(wide_nV, self.probs_NV)
        if dot_n.device.type == "cpu" and not dot_n.isnan().any():
            return dot_n
        # 0 times the logit -inf of a token that neither side gives any mass is 0
        return row_dot(torch.where(self.probs_NV > 0, wide_nV, 0.0), self.probs_NV)

    def subtract_from(self, probs_nV: Tensor, keep: float, factor: float) -> None:
        if keep != 1:
            probs_nV.mul_(keep)
        probs_nV[:, : self.probs_NV.shape[1]].sub_(self.probs_NV, alpha=factor)


@dataclass(frozen=True)
class LatentRows:
    """Targets whose tails are each row's own, written out a chunk at a time."""

    targets: Targets
    temperature: float
    dtype: torch.dtype

    def __getitem__(self, some: slice) -> DenseTarget:
        probs_nV, negative_entropy_n = dense_probs(self.targets[some], self.temperature)
        return DenseTarget(probs_nV.to(self.dtype), negative_entropy_n.to(self.dtype))


@dataclass(frozen=True, eq=False)
class TemperedRows:
    """Targets of which each row has a temperature of its own, written out a chunk at a time.

    Attributes:
        targets: of all rows.
        temperature_N: float[N], above 0.
        dtype: of the logits they are compared with.
    """

    targets: Targets
    temperature_N: Tensor
    dtype: torch.dtype

    def __getitem__(self, some: slice) -> DenseTarget:
        logprobs_nV = dense_logprobs(self.targets[some], self.temperature_N[some, None]).to(self.dtype)
        probs_nV = logprobs_nV.exp()
        return DenseTarget(probs_nV, torch.where(probs_nV > 0, probs_nV * logprobs_nV, 0.0).sum(-1))


@dataclass(frozen=True, eq=False)
class ScaledRows:
    """Targets whose rows count differently: q_n and the constant of a row are multiplied by scale_n, and so is its loss.

    Attributes:
        target: of all rows.
        scale_N: float[N], not negative.
    """

    target: TargetRows
    scale_N: Tensor

    def __getitem__(self, some: slice) -> Target:
        own, scale_n = self.target[some], self.scale_N[some]
        constant_n = own.constant_N * scale_n
        scale_n = scale_n.to(constant_n.dtype)
        mass_n = scale_n if own.mass_N is None else own.mass_N * scale_n
        if isinstance(own, DenseTarget):
            return DenseTarget(own.probs_NV * scale_n[:, None], constant_n, mass_n)
        if not isinstance(own, SparseTarget):
            raise TypeError(f"rows of {type(own).__name__} cannot be scaled")
        return replace(
            own,
            weights_NJ=own.weights_NJ * scale_n[:, None],
            constant_N=constant_n,
            mass_N=mass_n,
            scale_N=None if own.scale_N is None else own.scale_N * scale_n,
        )


def gold_target(gold_N: Tensor, dtype: torch.dtype = torch.float32, scale_N: Tensor | None = None) -> SparseTarget:
    """All mass on one token: the loss is the cross-entropy -log s(gold), times a factor of each row if `scale_N` is given.

    A row of scale 0 needs no gold token.
    """
    if scale_N is not None:
        scale_N = scale_N.to(dtype)
        return SparseTarget(gold_N.clamp(min=0)[:, None], scale_N[:, None], torch.zeros_like(scale_N), mass_N=scale_N)
    return SparseTarget(
        gold_N[:, None], torch.ones_like(gold_N[:, None], dtype=dtype), torch.zeros_like(gold_N, dtype=dtype)
    )


def teacher_target(targets: AnyTargets, temperature: float | Tensor, dtype: torch.dtype = torch.float32) -> TargetRows:
    """The stored distribution at a temperature: the loss is KL(p || s), or its unbiased estimate from samples.

    Args:
        targets: N rows.
        temperature: of all rows, or float[N].
        dtype: of the logits they are compared with.

    Raises:
        BadInput: random samples at another temperature than 1.
    """
    if isinstance(temperature, Tensor):
        if isinstance(targets, SampledTargets):
            raise BadInput("a temperature for each row: random samples are right at temperature 1 only. Train at 1.")
        return TemperedRows(targets, temperature, dtype)
    if isinstance(targets, SampledTargets):
        return _sampled(targets, temperature, dtype)
    if isinstance(targets.tail, FixedTail):
        return _fixed(targets, targets.tail, temperature, dtype)
    return LatentRows(targets, temperature, dtype)


def _fixed(targets: Targets, tail: FixedTail, temperature: float, dtype: torch.dtype) -> SparseTarget:
    """With S the listed ids and p(v) = c w(v) outside S, q = p is c w everywhere plus p - c w on S."""
    teacher = temper(targets, temperature)
    probs_NK = teacher.logprobs_NK.exp()
    listed_N = torch.where(probs_NK > 0, probs_NK * teacher.logprobs_NK, 0.0).sum(-1)
    scale_N = teacher.tail_scale_N.exp()
    return SparseTarget(
        ids_NJ=targets.ids_NK,
        weights_NJ=(probs_NK - scale_N[:, None] * teacher.log_weight_NK.exp()).to(dtype),
        constant_N=(listed_N + teacher.tail_entropy_term_N).to(dtype),
        scale_N=scale_N.to(dtype),
        weight_V=tail.at(temperature, targets.ids_NK.device).weight_V.to(dtype),
    )


def _sampled(targets: SampledTargets, temperature: float, dtype: torch.dtype) -> SparseTarget:
    """-H(p) - sum_j w_j log s(j): unbiased because the weights are (Anshumann et al. 2025, section 4)."""
    if temperature != 1:
        raise BadInput(
            f"temperature {temperature:g}: a cache of random samples is right at temperature 1 only. "
            "Train at 1, or dump with another preset."
        )
    weights_NJ = targets.weights_NK.to(dtype)
    return SparseTarget(targets.ids_NK, weights_NJ, -targets.entropy_N.to(dtype), mass_N=weights_NJ.sum(-1))
