"""The scores of queries side by side, one line for each query.

Axes: M queries, L documents of the longest of them, N documents of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranked:
    """Scores of the student and the teacher; behind the documents of a shorter query stand zeros.

    Attributes:
        student_ML, teacher_ML: float.
        gold_ML: int64, how relevant each document is, from 0; -1 where nobody said, and where there is no document.
        is_there_ML: bool, whether there is a document.
    """

    student_ML: Tensor
    teacher_ML: Tensor
    gold_ML: Tensor
    is_there_ML: Tensor

    @classmethod
    def of(cls, student_N: Tensor, teacher_N: Tensor, gold_N: Tensor, counts_M: Tensor) -> Ranked:
        """Lay out the scores of some queries.

        Args:
            student_N: float, with a gradient if it is wanted.
            teacher_N: float.
            gold_N: int64.
            counts_M: int64, documents of each query, which come query after query.
        """
        places_L = torch.arange(max(int(counts_M.max()), 1) if len(counts_M) else 1, device=counts_M.device)
        is_there_ML = places_L < counts_M[:, None]

        def laid(values_N: Tensor, empty: int) -> Tensor:
            whole_ML = torch.full(is_there_ML.shape, empty, dtype=values_N.dtype, device=values_N.device)
            return whole_ML.masked_scatter(is_there_ML, values_N)

        return cls(laid(student_N, 0), laid(teacher_N.to(student_N.dtype), 0), laid(gold_N, -1), is_there_ML)

    def mean_of_pairs(self, losses_MLL: Tensor, counts_MLL: Tensor) -> Tensor:
        """Return [M]: the mean over those pairs of documents that count; 0 for a query without any."""
        kept_MLL = torch.where(counts_MLL, losses_MLL, 0.0)
        return kept_MLL.sum((1, 2)) / counts_MLL.sum((1, 2)).clamp(min=1)

    @property
    def pairs_MLL(self) -> Tensor:
        """bool: the first document stands before the second one in the data, and both are there."""
        both_MLL = self.is_there_ML[:, :, None] & self.is_there_ML[:, None, :]
        return torch.triu(both_MLL, 1)

    @property
    def judged_MLL(self) -> Tensor:
        """bool: both documents are judged, and the first one is the more relevant one."""
        first_ML1, second_M1L = self.gold_ML[:, :, None], self.gold_ML[:, None, :]
        return (second_M1L >= 0) & (first_ML1 > second_M1L)


def differences(scores_ML: Tensor) -> Tensor:
    """Return [M, L, L]: the score of the first document minus that of the second one."""
    return scores_ML[:, :, None] - scores_ML[:, None, :]


def log_softmax_of(scores_ML: Tensor, is_there_ML: Tensor, temperature: float = 1.0) -> Tensor:
    """Return logprobs [M, L] over the documents that count; 0 at the others, where they mean nothing."""
    logprobs_ML = torch.where(is_there_ML, scores_ML / temperature, -torch.inf).log_softmax(-1)
    return torch.where(is_there_ML, logprobs_ML, 0.0)
