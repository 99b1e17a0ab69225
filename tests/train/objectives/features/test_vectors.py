"""The objectives on one vector a text against float64 references with loops, and what holds for all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.core.methods import method_of
from logitstore.errors import BadInput
from logitstore.train.objectives.features import FeatureObjective, Shapes, Sides, SimilarityKl

NAMES = ("embedding_mse", "embedding_cosine", "similarity_kl", "similarity_mse", "relational_distance")
BY_CHANNEL = ("embedding_mse", "embedding_cosine")
every = pytest.mark.parametrize("name", NAMES)


def built(name: str, **options: Any) -> FeatureObjective:
    shapes = Shapes(student_layers=1, teacher_layers=2, widths_student={"final": 5}, widths_teacher={"final": 5})
    module: FeatureObjective = method_of(name).function(shapes, **options)
    return module


def sides_of(rows: int, width: int = 5, seed: int = 0) -> Sides:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, each, generator=draw, dtype=torch.float64) for each in (width, 5))
    return Sides(
        student={"final": student},
        teacher={"final": teacher},
        counts_M=torch.ones(rows, dtype=torch.int64),
        gold_N=torch.full((rows,), -1),
        mask_N=torch.ones(rows, dtype=torch.bool),
    )


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def shares(vectors: Tensor, row: int, temperature: float) -> list[float]:
    others = [math.exp(cosine(vectors[row], each) / temperature) for place, each in enumerate(vectors) if place != row]
    return [each / sum(others) for each in others]


def distances(vectors: Tensor) -> list[list[float]]:
    found = [[float((a - b).norm()) for b in vectors] for a in vectors]
    mean = sum(map(sum, found)) / (len(vectors) * (len(vectors) - 1))
    return [[each / mean for each in row] for row in found]


def expected(name: str, student: Tensor, teacher: Tensor) -> list[float]:
    rows = range(len(student))
    if name == "embedding_mse":
        return [sum((float(a) - float(b)) ** 2 for a, b in zip(student[i], teacher[i], strict=True)) / 5 for i in rows]
    if name == "embedding_cosine":
        return [1 - cosine(student[i], teacher[i]) for i in rows]
    if name == "similarity_mse":
        squares = [[(cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2 for j in rows] for i in rows]
        return [sum(row) / len(student) for row in squares]
    if name == "similarity_kl":
        pairs = [zip(shares(teacher, i, 0.04), shares(student, i, 0.04), strict=True) for i in rows]
        return [sum(t * math.log(t / s) for t, s in each) for each in pairs]
    own, other = distances(student), distances(teacher)
    apart = [[abs(a - b) for a, b in zip(own[i], other[i], strict=True)] for i in rows]
    return [sum(d * d / 2 if d <= 1 else d - 0.5 for d in row) / (len(student) - 1) for row in apart]


@every
def test_the_loss_of_each_row_is_that_of_loops_in_float64(name: str) -> None:
    sides = sides_of(6, 5 if name in BY_CHANNEL else 3)
    found = built(name)(sides)
    torch.testing.assert_close(
        found, torch.tensor(expected(name, sides.student["final"], sides.teacher["final"])).double()
    )


@every
def test_gradients_are_right(name: str) -> None:
    sides = sides_of(4)
    module = built(name)
    given = sides.student["final"].requires_grad_()
    assert torch.autograd.gradcheck(lambda value: module(replace(sides, student={"final": value})), given, atol=1e-6)


@every
def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(name: str) -> None:
    sides = sides_of(6)
    given = sides.teacher["final"].clone().requires_grad_()
    loss = built(name)(replace(sides, student={"final": given}))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-9, rtol=0)
    assert given.grad is not None
    torch.testing.assert_close(given.grad, torch.zeros_like(given.grad), atol=1e-9, rtol=0)


@every
def test_masked_rows_change_nothing_and_zeros_and_few_rows_are_finite(name: str) -> None:
    sides, module = sides_of(6), built(name)
    sides.mask_N[[1, 4]] = False
    kept = [0, 2, 3, 5]
    alone = {side: {"final": getattr(sides, side)["final"][kept].clone()} for side in ("student", "teacher")}
    sides.student["final"][[1, 4]] = torch.nan
    few = sides_of(4)
    torch.testing.assert_close(module(sides)[kept], module(replace(few, **alone)))
    for rows in (0, 1, 3):
        some = sides_of(rows)
        given = (some.student["final"] * (0.0 if rows == 3 else 1.0)).detach().requires_grad_()
        loss = module(replace(some, student={"final": given}))
        loss.sum().backward()
        assert loss.shape == (rows,)
        assert given.grad is not None
        assert given.grad.isfinite().all()


def test_a_temperature_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match="cosines are divided by it"):
        built("similarity_kl", temperature_of_similarities=0.0)
    assert SimilarityKl.pairs(1, 2) == [("final", "final")]
