"""One vector of each text, pulled onto the teacher's, or made as similar to the others of its batch as the teacher's are.

Axes: N rows, D channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.format.tap_names import FINAL
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides


class _OfVectors(FeatureObjective):
    """An objective on the feature `final` alone.

    Attributes:
        by_channel: whether it compares channels, so that both vectors must have the same number of them.
    """

    by_channel: ClassVar[bool] = False

    def __init__(self, shapes: Shapes) -> None:
        """Raises BadInput where channels are compared and there are not as many of both."""
        super().__init__()
        own, other = shapes.widths_student[FINAL], shapes.widths_teacher[FINAL]
        if self.by_channel and own != other:
            raise BadInput(
                f"an objective compares final states channel by channel, and the student has {own}, the teacher {other}. Give "
                "similarity_kl or relational_distance, or match, which has a projection."
            )

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, **_options: Any) -> list[Pair]:  # noqa: ARG003
        return [(FINAL, FINAL)]

    def of_counted(self, sides: Sides) -> Tensor:
        return self.of_vectors(sides.student[FINAL], sides.teacher[FINAL])

    def of_vectors(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """Return the loss of each row, [N]."""
        raise NotImplementedError


class EmbeddingMse(_OfVectors):
    """mean_d (s_d - t_d)^2 (Reimers and Gurevych 2020, section 3: the loss of multilingual distillation)."""

    by_channel = True

    def of_vectors(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        return (student_ND - teacher_ND).square().mean(-1)


class EmbeddingCosine(_OfVectors):
    """1 - cos(s, t)."""

    by_channel = True

    def of_vectors(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        return 1 - torch.cosine_similarity(student_ND, teacher_ND, dim=-1)


class SimilarityMse(_OfVectors):
    """mean_j (cos(s_i, s_j) - cos(t_i, t_j))^2 over all rows j of the batch, i among them.

    The similarity loss of Jasper and Stella (Zhang et al. 2024).
    """

    def of_vectors(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        student_NN, teacher_NN = (_cosines(each_ND) for each_ND in (student_ND, teacher_ND))
        return (student_NN - teacher_NN).square().sum(-1) / max(len(student_ND), 1)


def _cosines(vectors_ND: Tensor) -> Tensor:
    unit_ND = torch.nn.functional.normalize(vectors_ND, dim=-1)
    return unit_ND @ unit_ND.T


class SimilarityKl(_OfVectors):
    """KL(softmax_j cos(t_i, t_j) / T, softmax_j cos(s_i, s_j) / T) over the other rows j of the batch.

    The loss of CompRess (Koohpayegani et al. 2020), with the batch in the place of a memory of anchors; T is the authors' 0.04.

    Args:
        shapes: of both models; their widths may differ.
        temperature_of_similarities: T.

    Raises:
        BadInput: it is not above 0.
    """

    def __init__(self, shapes: Shapes, *, temperature_of_similarities: float = 0.04) -> None:
        super().__init__(shapes)
        if not temperature_of_similarities > 0:
            raise BadInput(
                f"temperature_of_similarities {temperature_of_similarities}: cosines are divided by it. Give more than 0."
            )
        self.temperature = temperature_of_similarities

    def of_vectors(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        if len(student_ND) < 2:
            return student_ND.sum(-1) * 0.0
        student_NN, teacher_NN = (_log_shares(each_ND, self.temperature) for each_ND in (student_ND, teacher_ND))
        return (teacher_NN.exp() * (teacher_NN - student_NN)).sum(-1)


def _log_shares(vectors_ND: Tensor, temperature: float) -> Tensor:
    """Return [N, N - 1]: the log-softmax over the cosines of each row with the others."""
    count = len(vectors_ND)
    is_other_NN = ~torch.eye(count, dtype=torch.bool, device=vectors_ND.device)
    return torch.log_softmax(_cosines(vectors_ND)[is_other_NN].view(count, count - 1) / temperature, -1)


class RelationalDistance(_OfVectors):
    """The Huber loss of how far row i is from each other row j of the batch (RKD-D, Park et al. 2019, equations 5 to 7):

        mean_j huber(|s_i - s_j| / mean |s - s|, |t_i - t_j| / mean |t - t|),   huber(x, y) = (x - y)^2 / 2 for |x - y| <= 1

    and |x - y| - 1/2 beyond. The mean distances are over all pairs of different rows of the batch, as the paper takes them.
    """

    def of_vectors(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        count = len(student_ND)
        if count < 2:
            return student_ND.sum(-1) * 0.0
        student_NN, teacher_NN = (_distances(each_ND) for each_ND in (student_ND, teacher_ND))
        apart_NN = torch.nn.functional.smooth_l1_loss(student_NN, teacher_NN, reduction="none")
        return apart_NN.sum(-1) / (count - 1)


def _distances(vectors_ND: Tensor) -> Tensor:
    """Return [N, N]: distances over their mean over pairs of different rows; there is no gradient where one is 0."""
    count = len(vectors_ND)
    found_NN = torch.cdist(vectors_ND, vectors_ND, compute_mode="donot_use_mm_for_euclid_dist")
    return found_NN / (found_NN.sum() / (count * (count - 1))).clamp(min=torch.finfo(vectors_ND.dtype).tiny)
