"""Train the few values that weights may have, and not the weights: differentiable quantisation.

Polino et al. 2018, "Model compression via distillation and quantization", algorithm 2. Each weight is scaled by the smallest
and the largest weight of its channel, v = (w - min w) / (max w - min w), and is replaced by the nearest of the points p of its
matrix: q = min w + (max w - min w) p_j. The points are what is trained, dL/dp_j = sum over the weights nearest to p_j of
(max w - min w) dL/dq; v, min and max stay as they were. The points begin as quantiles of v, as in the paper.

Axes: C output channels, W weights of a channel, P points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitstore.errors import BadInput
from logitstore.settings.models.lora import ALL_LINEAR
from logitstore.train.students.hooks.chosen import Chosen, chosen
from logitstore.train.students.hooks.hook import StudentHook
from logitstore.train.students.hooks.quantise import refuse_more_values

MOST = 8
"""Most bits of a weight: so many points of a matrix are few to each weight."""


class LearnedLevels(StudentHook):
    """Keep the weights of layers at a few values of each matrix, scaled to each output channel, and train these values.

    Args:
        bits: of a weight, 1 to 8: a matrix has 2^bits points.
        start: where the points begin: quantiles of the weights, or even, from 0 to 1 at equal distances.
        targets: see `chosen`.

    Raises:
        BadInput: as many bits cannot be, or the start is unknown.
    """

    def __init__(self, *, bits: int = 4, start: str = "quantiles", targets: tuple[str, ...] = (ALL_LINEAR,)) -> None:
        if not 1 <= bits <= MOST:
            raise BadInput(f"bits is {bits}, but must be from 1 to {MOST}.")
        if start not in ("quantiles", "even"):
            raise BadInput(f"start is {start!r}, but must be quantiles or even.")
        self.bits, self.start, self.targets = bits, start, targets
        self._all: list[Chosen] = []
        self._trained: list[Chosen] = []
        self._points_P = nn.ParameterList()
        self._scaled = nn.Module()

    @torch.no_grad()
    def prepare(self, student: PreTrainedModel) -> str:
        self._all = chosen(student, self.targets)
        for each in self._all:
            weight = each.of(student)
            scaled_CW, low_C1, span_C1 = scaled(each.rows(weight))
            points_P = self._first(scaled_CW)
            weight.copy_(each.unrows(values(points_P, scaled_CW, low_C1, span_C1), weight))
            if weight.requires_grad:
                number = len(self._trained)
                for name, kept in (("weights", scaled_CW), ("low", low_C1), ("span", span_C1)):
                    self._scaled.register_buffer(f"{name}{number}", kept.clone(), persistent=False)
                self._points_P.append(nn.Parameter(points_P))
                self._trained.append(each)
        count = sum(each.of(student).numel() for each in self._all)
        return (
            f"{count:,} weights have one of {2**self.bits:,} values of their matrix ({self.bits} bits), scaled to each "
            "channel, and these values are what is trained of them"
        )

    @torch.no_grad()
    def before_step(self, student: nn.Module) -> None:
        for number, each in enumerate(self._trained):
            weight, points_P = each.of(student), self._points_P[number]
            if weight.grad is None:
                continue
            scaled_CW, _, span_C1 = self._of(number)
            slopes_CW = each.rows(weight.grad) * span_C1
            nearest_CW = nearest(points_P, scaled_CW)
            points_P.grad = torch.zeros_like(points_P).index_add_(0, nearest_CW.flatten(), slopes_CW.flatten())
            weight.grad = None  # the optimizer passes over it

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        for number, each in enumerate(self._trained):
            weight, points_P = each.of(student), self._points_P[number]
            weight.copy_(each.unrows(values(points_P, *self._of(number)), weight))
            points_P.grad = None

    def modules(self) -> nn.Module:
        return nn.ModuleDict({"points": self._points_P, "scaled": self._scaled})

    def check(self, student: nn.Module) -> None:
        refuse_more_values("learned_levels", self._all, student, self.bits)

    def _of(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the scaled weights of a layer, and the smallest weight and the span of each channel."""
        kept = [self._scaled.get_buffer(f"{name}{number}") for name in ("weights", "low", "span")]
        return kept[0], kept[1], kept[2]

    def _first(self, scaled_CW: Tensor) -> Tensor:
        """Return the points that a matrix begins with, rising."""
        count = 2**self.bits
        if self.start == "even":
            return torch.linspace(0, 1, count, dtype=scaled_CW.dtype, device=scaled_CW.device)
        sorted_W = scaled_CW.flatten().sort().values
        places_P = (torch.arange(count, device=scaled_CW.device) + 0.5) * (len(sorted_W) / count)
        return sorted_W[places_P.long()].clone()


def scaled(weight_CW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights from 0 to 1 in each channel, its smallest weight [C, 1], and its span [C, 1]; 0 in a channel whose
    weights are all the same."""
    low_C1 = weight_CW.amin(1, keepdim=True)
    span_C1 = weight_CW.amax(1, keepdim=True) - low_C1
    return (weight_CW - low_C1) / torch.where(span_C1 > 0, span_C1, 1.0), low_C1, span_C1


def nearest(points_P: Tensor, scaled_CW: Tensor) -> Tensor:
    """Return int64[C, W]: the number of the nearest point of each weight, whatever the order of the points."""
    rising_P, order_P = points_P.detach().sort()
    return order_P[torch.bucketize(scaled_CW, (rising_P[1:] + rising_P[:-1]) / 2)]


def values(points_P: Tensor, scaled_CW: Tensor, low_C1: Tensor, span_C1: Tensor) -> Tensor:
    """Return float[C, W]: each weight at its nearest point, in the scale of its channel."""
    return low_C1 + span_C1 * points_P[nearest(points_P, scaled_CW)]
