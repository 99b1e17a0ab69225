"""Train a student whose weights have few values: quantised in the forward pass, updated in float32.

Polino et al. 2018, "Model compression via distillation and quantization", algorithm 1: the gradient is taken at the quantised
weights and applied to the weights behind them (the straight-through estimator of Bengio et al. 2013), which are then quantised
again. The student holds the quantised weights; those behind them lie in the hook, but for the moment of the optimizer step. No
weight is cut off by the largest of its channel, so the gradient is passed on whole.

Axes: C output channels, W weights of a channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.lora import ALL_LINEAR
from logitstore.train.students.hooks.chosen import Chosen, chosen
from logitstore.train.students.hooks.hook import StudentHook

MOST = 16
"""Most bits of a weight: more are no fewer values than a float32 gives a channel."""


def quantised(weight_CW: Tensor, bits: int, *, symmetric: bool) -> Tensor:
    """Return float[C, W]: each weight rounded to the nearest of the evenly spaced values of its channel.

    Symmetric: n = 2^(bits-1) - 1, s = max|w| / n, and s round(w / s), which are at most 2n + 1 values and leave 0 as it is.
    Else, as Polino et al.: n = 2^bits - 1, s = (max w - min w) / n, and min w + s round((w - min w) / s).

    Args:
        weight_CW: float, a channel in each row.
        bits: of a value; from 2, or from 1 where it is not symmetric.
        symmetric: whether the values lie evenly on both sides of 0.
    """
    if symmetric:
        steps = 2 ** (bits - 1) - 1
        low_C1, size_C1 = torch.zeros_like(weight_CW[:, :1]), weight_CW.abs().amax(1, keepdim=True) / steps
    else:
        low_C1 = weight_CW.amin(1, keepdim=True)
        size_C1 = (weight_CW.amax(1, keepdim=True) - low_C1) / (2**bits - 1)
    size_C1 = torch.where(size_C1 > 0, size_C1, 1.0)  # a channel of one value alone
    return low_C1 + ((weight_CW - low_C1) / size_C1).round() * size_C1


@torch.no_grad()
def refuse_more_values(hook: str, weights: Sequence[Chosen], student: nn.Module, bits: int) -> None:
    """Refuse a student of which a channel has more values than some bits can tell apart.

    Args:
        hook: the name of the hook that keeps the rule.
        weights: that follow it.
        student: the model.
        bits: of a value.

    Raises:
        ModelError: a channel has more.
    """
    for each in weights:
        sorted_CW = each.rows(each.of(student)).sort(1).values
        most = int((sorted_CW.diff(dim=1) != 0).sum(1).max()) + 1
        if most > 2**bits:
            raise ModelError(
                f"hook {hook}: a channel of {each.name} has {most:,} values, and {bits} bits tell {2**bits:,} apart. Another "
                "part of the run writes weights; leave it out."
            )


class Quantise(StudentHook):
    """Keep the weights of layers at the values that some bits can tell apart in each output channel.

    Args:
        bits: of a weight, 2 to 16; from 1 where symmetric is false.
        symmetric: whether the values lie evenly on both sides of 0, so that weights that are 0 stay so; false spreads them
            from the smallest weight of a channel to its largest one, as the paper does.
        targets: see `chosen`.

    Raises:
        BadInput: as many bits cannot be.
    """

    def __init__(self, *, bits: int = 8, symmetric: bool = True, targets: tuple[str, ...] = (ALL_LINEAR,)) -> None:
        least = 2 if symmetric else 1
        if not least <= bits <= MOST:
            more = " (with symmetric=false 1)" if bits == 1 else ""
            raise BadInput(f"bits is {bits}, but must be from {least}{more} to {MOST}.")
        self.bits, self.symmetric, self.targets = bits, symmetric, targets
        self._trained: list[Chosen] = []
        self._all: list[Chosen] = []
        self._behind = nn.Module()

    @torch.no_grad()
    def prepare(self, student: PreTrainedModel) -> str:
        self._all = chosen(student, self.targets)
        self._trained = [each for each in self._all if each.of(student).requires_grad]
        for number, each in enumerate(self._trained):
            self._behind.register_buffer(str(number), each.of(student).detach().clone())
        for each in self._all:
            self._round(each, student)
        total = sum(weight.numel() for weight in student.parameters())
        count = sum(each.of(student).numel() for each in self._all)
        return f"{count:,} of {total:,} weights have at most {2**self.bits:,} values in a channel ({self.bits} bits)"

    @torch.no_grad()
    def before_step(self, student: nn.Module) -> None:
        for each, behind in zip(self._trained, self._behind.buffers(), strict=True):
            each.of(student).copy_(behind)

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        for each, behind in zip(self._trained, self._behind.buffers(), strict=True):
            behind.copy_(each.of(student))
            self._round(each, student)

    def modules(self) -> nn.Module:
        return self._behind

    def check(self, student: nn.Module) -> None:
        refuse_more_values("quantise", self._all, student, self.bits)

    def _round(self, each: Chosen, student: nn.Module) -> None:
        weight = each.of(student)
        rounded_CW = quantised(each.rows(weight), self.bits, symmetric=self.symmetric)
        weight.copy_(each.unrows(rounded_CW, weight))
