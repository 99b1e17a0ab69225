"""MI-alpha: raise a lower bound of the information in the student's features about the teacher's, by student and critic
together.

Axes: N rows, D channels of a feature, C channels of the critic.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import hidden_pairs
from logitstore.train.objectives.features.projection import Linear


def interpolated_bound(scores_NN: Tensor, *, alpha: float) -> Tensor:
    """Return the alpha-interpolated lower bound of mutual information, nats (Poole et al. 2019, section 2.4, with q = e).

        I_alpha = 1 + E_joint[log(e^f(x_1, y) / a(y, x))] - E_product[e^f(x_1, y) / a(y, x)]
        a(y, x) = alpha mean_k e^f(x_k, y) + (1 - alpha) e

    For N pairs, each a has K = N - 1 of the x, x_1 among them. In the first expectation x_1 belongs to y; a leaves out the
    x of the next pair. In the second expectation no x may belong to y; a leaves out y's own x. So both see the same K, the
    estimate is unbiased, and its average over independent pairs is never above the mutual information. At alpha = 1 it is
    InfoNCE of K, never above log K. At alpha = 0 it is the bound of Nguyen, Wainwright and Jordan, which has no such
    ceiling and varies more.

    Args:
        scores_NN: f(x_j, y_i) in row i and column j, N at least 2.
        alpha: from 0 to 1.

    Returns:
        a scalar.
    """
    count = len(scores_NN)
    is_pair_NN = torch.eye(count, dtype=torch.bool, device=scores_NN.device)
    joint_N = scores_NN.diagonal() - _log_baseline(scores_NN.masked_fill(is_pair_NN.roll(1, 1), -torch.inf), alpha)
    others_NN = scores_NN.masked_fill(is_pair_NN, -torch.inf)
    log_mean_N = others_NN.logsumexp(-1) - math.log(count - 1)
    product_N = (log_mean_N - _log_baseline(others_NN, alpha)).exp()
    return 1 + joint_N.mean() - product_N.mean()


def _log_baseline(scores_NN: Tensor, alpha: float) -> Tensor:
    """Return log(alpha mean_k e^f + (1 - alpha) e) over all columns but the one that is left out, [N]."""
    if alpha == 0:
        return torch.ones_like(scores_NN[:, 0])
    log_mean_N = scores_NN.logsumexp(-1) - math.log(scores_NN.shape[1] - 1) + math.log(alpha)
    return (
        log_mean_N if alpha == 1 else torch.logaddexp(log_mean_N, torch.full_like(log_mean_N, 1 + math.log1p(-alpha)))
    )


class Critic(nn.Module):
    """A critic computes f(x, y) = <g(x), h(y)>, with g and h of one hidden layer each.

    It is a separable critic, as in Poole et al. 2019.

    Rows are scaled to unit root mean square first, because hidden states of different layers differ by orders of magnitude.
    """

    def __init__(self, student: int, teacher: int, width: int) -> None:
        super().__init__()
        self.of_student = nn.Sequential(Linear(student, width), nn.GELU(), Linear(width, width))
        self.of_teacher = nn.Sequential(Linear(teacher, width), nn.GELU(), Linear(width, width))

    def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """Return scores [N, N], teachers down and students across."""
        student_NC, teacher_NC = self.of_student(_unit(student_ND)), self.of_teacher(_unit(teacher_ND))
        scores_NN: Tensor = teacher_NC @ student_NC.T
        return scores_NN


class MutualInformation(FeatureObjective):
    """Compute -I_alpha between features of student and teacher, averaged over pairs of layers (Distiller, He et al. 2021).

    The loss is one number for the batch, given to every row that counts. The rows of the batch are each other's negatives,
    and a batch with less than two of them gives 0. Scores of all pairs of rows exist at once.

    Args:
        shapes: shapes of both models.
        layers: as in `layer_pairs`.
        alpha: alpha of `interpolated_bound`; the nearer to 1, the lower are variance and ceiling.
        critic_width: channels of the critic's hidden layers and of its inner product.

    Raises:
        BadInput: alpha is outside [0, 1], or a layer is not there.
    """

    def __init__(self, shapes: Shapes, *, layers: str = "uniform", alpha: float = 0.9, critic_width: int = 128) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise BadInput(f"alpha {alpha:g}: give a number from 0 to 1.")
        self.alpha = alpha
        self.names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)
        self.critics = nn.ModuleList(
            Critic(shapes.widths_student[student_name], shapes.widths_teacher[teacher_name], critic_width)
            for student_name, teacher_name in self.names
        )

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "uniform", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        scores = [
            critic(sides.student[student_name], sides.teacher[teacher_name])
            for critic, (student_name, teacher_name) in zip(self.critics, self.names, strict=True)
        ]
        count = len(sides.gold_N)
        if count < 2:
            # this 0 depends on the parameters, because other processes may wait for their gradients
            return 0 * torch.stack([each.diagonal() for each in scores]).sum(0)
        bounds = [interpolated_bound(each, alpha=self.alpha) for each in scores]
        return -torch.stack(bounds).mean().expand(count)


def _unit(rows_ND: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(rows_ND, rows_ND.shape[-1:])
