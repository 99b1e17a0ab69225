"""How the shares of a geometry change the loss on held-out rows: the slope by which its network learns.

With student weights x, shares w and a step of rate r on the loss of a batch, x' = x - r d/dx sum_n a_n sum_c w_cn cost_cn,
the loss V on held-out rows has

    d V(x') / d w_cn = - r a_n <d V / dx (x'), d/dx (cost_cn - gold_n)(x)>

(TGeo-KD's one-step bilevel problem; the gold token has the share that the teachers leave, so its loss is taken away). The
product is the derivative of the losses of the rows in the direction v = dV / dx(x'), which two more passes without a gradient
give as a central difference. The slopes are given over r, so that their size does not depend on it.

Axes: N rows, C teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream

REACH = 1e-2
"""Length of the move of the weights for the difference."""


@dataclass(frozen=True, eq=False)
class Bilevel:
    """What a geometry learns by.

    Attributes:
        held_out: the batches to look at, one after the other.
        rate: of the step that is looked ahead.
    """

    held_out: BatchStream
    rate: float

    def batch(self, step: int, device: torch.device) -> Batch:
        """Return the held-out batch of a step of the run, the same whenever the step is done."""
        return self.held_out.at(0, step % len(self.held_out)).to(device)


def slopes(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    held_out_loss: Callable[[], Tensor],
    costs: Callable[[], Tensor],
    weights_N: Tensor,
    rate: float,
) -> Tensor:
    """Return float[C, N]: the derivative of the held-out loss after a step by the share of each teacher, over `rate`.

    The parameters are moved meanwhile, and are the same afterwards to the bit.

    Args:
        parameters: of the student, those that are trained.
        loss: of the batch, with its shares; differentiable by the parameters.
        held_out_loss: differentiable by the parameters.
        costs: float[C + 1, N], the losses of the rows to each teacher and to the gold token; no gradient is needed.
        weights_N: a_n, of the rows in the loss.
        rate: of the step, above 0.
    """
    kept = [each.detach().clone() for each in parameters]

    def move(directions: Sequence[Tensor], by: float) -> None:
        with torch.no_grad():
            for each, begun, direction in zip(parameters, kept, directions, strict=True):
                each.copy_(begun + by * direction)

    try:
        move(_gradients(loss(), parameters), -rate)
        held = _gradients(held_out_loss(), parameters)
        norm = torch.stack([each.double().square().sum() for each in held]).sum().sqrt()
        if not bool(norm.isfinite() & (norm > 0)):
            return torch.zeros_like(costs()[:-1])
        reach = REACH / float(norm)
        with torch.no_grad():
            move(held, reach)
            above_CN = costs()
            move(held, -reach)
            below_CN = costs()
    finally:
        with torch.no_grad():
            for each, begun in zip(parameters, kept, strict=True):
                each.copy_(begun)
    along_CN = (above_CN - below_CN) / (2 * reach)
    return torch.where(weights_N != 0, -weights_N * (along_CN[:-1] - along_CN[-1:]), 0.0)


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return [torch.zeros_like(each) if own is None else own for own, each in zip(found, parameters, strict=True)]
