"""What it costs to move the students' distributions of some rows onto the teachers': the batch-wise Sinkhorn distance.

It compares every row with every other, so it is of the rows that are given together and of no others.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair


def sinkhorn_distance(
    student_NV: Tensor,
    targets: AnyTargets,
    *,
    temperature: float = 2.0,
    epsilon: float = 0.1,
    iterations: int = 20,
) -> Tensor:
    """sum_j P_ij W_ij of row i (SinKD, Cui et al. 2024, as in the authors' code), without a factor T**2.

    W_ij = sum_v |s_i(v) - p_j(v)|, and P is exp(-W / epsilon) with its rows and then its columns divided by their sums,
    `iterations` times. The paper's distance is the sum over all rows, since all of P sums to N: N times the mean over rows. A
    mean over rows stays between 0 and 2, however many rows travel together. The authors' script (2018cx/SinKD, loss.py)
    weighs the sum over 16 rows by 0.0008 * 20 / 8 = 0.002, which is 0.032 of the mean, beside 0.8 of a KL at T = 2 without
    a factor T**2 and 0.2 of cross-entropy.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows, those that are moved onto each other.
        temperature: of both sides.
        epsilon: how far the mass of a row is spread over rows that cost more, in units of the cost.
        iterations: at least 1.

    Returns:
        [N], each row's share. One row alone costs what it is apart from its target, twice the total variation.

    Raises:
        BadInput: the targets are random samples, or `epsilon` or `iterations` is not positive.
    """
    if not (epsilon > 0 and iterations > 0):
        raise BadInput(
            f"epsilon {epsilon:g} and iterations {iterations}: both must be positive. Leave them out for 0.1 and 20."
        )
    student, teacher = (side.exp() for side in dense_pair(student_NV, targets, temperature))
    cost_NN = torch.cdist(student, teacher, p=1)
    # logarithms, so that a small epsilon leaves no line without mass
    plan_NN = -cost_NN / epsilon
    for _ in range(iterations):
        plan_NN = torch.log_softmax(torch.log_softmax(plan_NN, 1), 0)
    return (plan_NN.exp() * cost_NN).sum(1)
