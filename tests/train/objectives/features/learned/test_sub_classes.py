"""Classes divided along directions of the teacher's final states, against a loop in NumPy, float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logitstore.errors import BadInput
from logitstore.train.objectives.features import Shapes, Sides, SubClasses

CLASSES, WIDTH, COUNT, ROWS = 3, 6, 2, 5


def told() -> dict[str, torch.Tensor]:
    """What a pass over a cache says of a teacher: an output layer, and four directions of each class apart from it."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    weight = normal(CLASSES, WIDTH)
    weight -= weight.mean(0)
    basis = torch.linalg.svd(weight)[2][: CLASSES - 1]
    rest = torch.linalg.svd(weight)[2][CLASSES - 1 :]
    turned = torch.stack([torch.linalg.qr(normal(4, 4))[0] for _ in range(CLASSES)])
    return {
        "weight": weight,
        "bias": normal(CLASSES),
        "basis": basis,
        "mean": normal(CLASSES, 4) @ rest,
        "directions": turned @ rest,
        "variance": normal(CLASSES, 4).square() + 0.1,
    }


def sides() -> Sides:
    draw = torch.Generator().manual_seed(2)
    return Sides(
        student={"final": torch.randn(ROWS, 4, generator=draw, dtype=torch.float64, requires_grad=True)},
        teacher={"final": torch.randn(ROWS, WIDTH, generator=draw, dtype=torch.float64)},
        counts_M=torch.ones(ROWS, dtype=torch.int64),
        gold_N=torch.zeros(ROWS, dtype=torch.int64),
        mask_N=torch.ones(ROWS, dtype=torch.bool),
    )


SHAPES = Shapes(student_layers=1, teacher_layers=1, widths_student={"final": 4}, widths_teacher={"final": WIDTH})


def softmax(scores: np.ndarray) -> np.ndarray:
    return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


def test_each_class_is_divided_and_the_parts_are_learnt() -> None:
    known, compared = told(), sides()
    module = SubClasses(SHAPES, subclasses=known, count=COUNT, tau=0.7, seed=3).double()
    drawn = torch.randn(COUNT, COUNT, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rotation = np.linalg.qr(drawn.numpy())[0]
    numbers = {name: value.numpy() for name, value in known.items()}
    head, bias = module.head.weight.detach().numpy(), module.head.bias.detach().numpy()
    expected = []
    for row in range(ROWS):
        teacher = compared.teacher["final"][row].numpy()
        chances = softmax(numbers["weight"] @ teacher + numbers["bias"])
        rest = teacher - numbers["basis"].T @ (numbers["basis"] @ teacher)
        parts = []
        for number in range(CLASSES):
            along = numbers["directions"][number, :COUNT] @ (rest - numbers["mean"][number])
            along = rotation @ along / np.sqrt(numbers["variance"][number, :COUNT].mean())
            parts.extend(chances[number] * softmax(along / 0.7))
        target = np.array(parts)
        student = np.log(softmax(head @ compared.student["final"][row].detach().numpy() + bias))
        expected.append((target * (np.log(target) - student)).sum())
    np.testing.assert_allclose(module(compared).detach().numpy(), expected, rtol=1e-5)


def test_gradients_reach_the_student_and_the_head() -> None:
    module = SubClasses(SHAPES, subclasses=told(), count=COUNT).double()
    compared = sides()

    def loss(student_ND: torch.Tensor) -> torch.Tensor:
        given = Sides(**{**vars(compared), "student": {"final": student_ND}})
        found: torch.Tensor = module(given)
        return found

    assert torch.autograd.gradcheck(loss, compared.student["final"])
    loss(compared.student["final"]).sum().backward()
    assert module.head.weight.grad is not None
    assert sorted(module.state_dict()) == ["head.bias", "head.weight"]


def test_more_parts_than_directions_are_refused() -> None:
    with pytest.raises(BadInput, match="count 5: the teacher's final state has 4 directions for a class"):
        SubClasses(SHAPES, subclasses=told(), count=5)
    with pytest.raises(BadInput, match="tau 0: give a number above 0"):
        SubClasses(SHAPES, subclasses=told(), count=2, tau=0.0)
