"""Define feature objectives: modules from the features of both models about the same rows to a loss per row.

Features have names. Decoder layers count from 1:

    hidden-0            the embeddings: the input of the first layer
    hidden-L            the output of decoder layer L, except the last
    final               the output of the last layer after the final norm: the input of the output layer
    query-L, key-L, value-L    inside decoder layer L, after rotary embedding, heads side by side

An objective names the features it needs before it is built. It is built with the same options once their shapes are known:

    options = {"layers": "uniform"}
    names = Match.pairs(12, 24, **options)
    match = Match(Shapes(student_layers=12, teacher_layers=24, widths_student=..., widths_teacher=...), **options)
    loss_N = match(sides)

Axes: N rows, M samples, D channels of a feature (D_S of the student's, D_T of the teacher's).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[str, str]
"""The name of a student's feature, and of the teacher's feature that it is compared with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sides:
    """Sides hold the features of both models about the same N rows.

    Rows come sample after sample, in the order of positions.

    Attributes:
        student: by name, float[N, D_S] each.
        teacher: by name, float[N, D_T] each.
        counts_M: int64, rows of each sample; they sum to N.
        gold_N: int64, the tokens that follow.
        mask_N: bool, the rows that count.
        places: the features that are compared at every place of a sample, where it has one row; its rows are the places. None
            where there are none.
    """

    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]
    counts_M: Tensor
    gold_N: Tensor
    mask_N: Tensor
    places: Sides | None = None

    def counted(self) -> Sides:
        """Return only the rows that count, in float32 (float64 stays)."""
        rows_n = slice(None) if bool(self.mask_N.all()) else self.mask_N.nonzero().squeeze(1)
        samples_N = torch.arange(len(self.counts_M), device=self.mask_N.device).repeat_interleave(self.counts_M)
        return Sides(
            student={name: _wide(value[rows_n]) for name, value in self.student.items()},
            teacher={name: _wide(value[rows_n]) for name, value in self.teacher.items()},
            counts_M=torch.bincount(samples_N[rows_n], minlength=len(self.counts_M)),
            gold_N=self.gold_N[rows_n],
            mask_N=self.mask_N[rows_n],
        )


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """Shapes hold what is known of both models before anything is computed.

    Attributes:
        student_layers, teacher_layers: number of decoder layers of each model.
        widths_student, widths_teacher: channels of the compared features, by name.
        heads_student, heads_teacher: number of query heads of an attention layer; 0 where there are none.
        key_heads_student, key_heads_teacher: number of heads of keys and values, which groups of query heads share.
        causal: whether a position of the models sees only those before it and itself, instead of all of its sample.
    """

    student_layers: int
    teacher_layers: int
    widths_student: Mapping[str, int]
    widths_teacher: Mapping[str, int]
    heads_student: int = 0
    heads_teacher: int = 0
    key_heads_student: int = 0
    key_heads_teacher: int = 0
    causal: bool = True


class FeatureObjective(nn.Module, ABC):
    """A feature objective pulls a student's features towards a teacher's; it may have trainable parts.

    Rows that do not count are removed before anything is computed, so they change nothing, whatever their features hold.
    """

    @classmethod
    @abstractmethod
    def pairs(cls, student_layers: int, teacher_layers: int, **options: Any) -> list[Pair]:
        """Return the pairs of features that the objective compares.

        Args:
            student_layers, teacher_layers: number of decoder layers of each model.
            options: options that the objective will be built with; those that decide no name are ignored.

        Raises:
            BadInput: a layer is not there, or the layers do not go together.
        """

    def forward(self, sides: Sides) -> Tensor:
        """Return the loss per row.

        Args:
            sides: has all features that `pairs` named; it may have others.

        Returns:
            float32[N] (float64 stays); neither masked nor averaged, 0 on rows that do not count. Each row that counts gets
            a number about the whole batch, where the loss is one.
        """
        with torch.autocast(sides.mask_N.device.type, enabled=False):
            loss_n = self.of_counted(sides.counted())
            return loss_n.new_zeros(len(sides.mask_N)).masked_scatter(sides.mask_N, loss_n)

    @abstractmethod
    def of_counted(self, sides: Sides) -> Tensor:
        """Return the loss per row, [N], in float32 or float64. All rows count; there may be none."""


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()
