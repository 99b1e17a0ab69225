"""How unlike the features of an untrained student and of its teacher are: DisWOT.

Axes: N rows, D channels of a feature (of its own number on each side), C classes, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitstore.errors import BadInput


def rows_apart(teacher_ND: Tensor, student_ND: Tensor) -> Tensor:
    """Return |G_T - G_S|^2 / N^2, where each row of G = F F^T is divided by its length (Dong et al. 2023, DisWOT).

    It is the similarity of samples to each other; both sides have features of the same rows, of any width.

    Args:
        teacher_ND, student_ND: float; reduced in float64.
    """
    return _apart(teacher_ND.double() @ teacher_ND.double().T, student_ND.double() @ student_ND.double().T)


def classes_apart(teacher_CD: Tensor, student_CD: Tensor) -> Tensor:
    """Return |G_T - G_S|^2 / C^2, where each row of G = A A^T is divided by its length (Dong et al. 2023, DisWOT).

    It is the similarity of classes to each other by `class_gradient`.

    Args:
        teacher_CD, student_CD: float; reduced in float64.
    """
    return _apart(teacher_CD.double() @ teacher_CD.double().T, student_CD.double() @ student_CD.double().T)


def class_gradient(probs_NC: Tensor, is_gold_NC: Tensor, features_ND: Tensor) -> Tensor:
    """Return float64[C, D]: the gradient of the mean cross-entropy by the output layer, (p - y)^T F / N, for some classes.

    Args:
        probs_NC: probabilities of these classes, of all that there are.
        is_gold_NC: bool, whether a class is that of a row.
        features_ND: what the output layer takes.
    """
    apart_NC = probs_NC.double() - is_gold_NC.double()
    return apart_NC.T @ features_ND.double() / max(len(features_ND), 1)


def _apart(teacher_XX: Tensor, student_XX: Tensor) -> Tensor:
    sides = [torch.nn.functional.normalize(each, dim=1) for each in (teacher_XX, student_XX)]
    return (sides[0] - sides[1]).square().sum() / max(len(teacher_XX), 1) ** 2


def spearman(left: list[float], right: list[float]) -> float:
    """Return Spearman's rank correlation, from -1 to 1; NaN where one side is constant or holds NaN.

    Raises:
        BadInput: the lists are of unequal length.
    """
    if len(left) != len(right):
        raise BadInput(f"a rank correlation of {len(left)} and {len(right)} numbers: they must be as many.")
    if any(math.isnan(each) for each in (*left, *right)):
        return math.nan
    ranks = [torch.tensor([_rank(value, values) for value in values]) for values in (left, right)]
    centred = [each.double() - each.double().mean() for each in ranks]
    lengths = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / lengths if lengths > 0 else math.nan


def _rank(value: float, values: list[float]) -> float:
    """Return the rank of a value, from 1; equal values share the mean of their ranks."""
    return sum(each < value for each in values) + (sum(each == value for each in values) + 1) / 2
