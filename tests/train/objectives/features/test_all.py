"""What holds for every objective on features."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.train.objectives.features import FeatureObjective, Match, Sides, Similarity, SquareHead
from tests.parts.feature_references import CASES, built, samples_of, shapes_of, sides_of

every = pytest.mark.parametrize("case", CASES)


@every
def test_every_gradient_is_right_by_features_and_parameters(case: str) -> None:
    module, shapes = built(case)
    module = module.double()
    sides = sides_of(shapes, counts=(1, 3))
    names = list(sides.student)
    parameters = list(module.parameters())

    def loss(*tensors: Tensor) -> Tensor:
        found: Tensor = module(replace(sides, student=dict(zip(names, tensors[: len(names)], strict=True))))
        return found

    inputs = [sides.student[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(loss, (*inputs, *parameters), atol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if "information" not in case and "norm" not in case])
def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(case: str) -> None:
    kind, options = CASES[case]
    options = options | ({"layers": "all"} if issubclass(kind, (Match, SquareHead, Similarity)) else {"layers": "2:2"})
    shapes = shapes_of(kind, (3, 3), same=True, **options)
    make: Callable[..., FeatureObjective] = kind
    sides = sides_of(shapes)
    student = {name: value.clone().requires_grad_() for name, value in sides.teacher.items()}
    loss = make(shapes, **options)(replace(sides, student=student))
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-12, rtol=0)
    loss.sum().backward()
    for value in student.values():
        assert value.grad is not None
        torch.testing.assert_close(value.grad, torch.zeros_like(value), atol=1e-12, rtol=0)


@every
@pytest.mark.parametrize("junk", [1e3, math.nan, math.inf])
def test_a_masked_row_changes_nothing(case: str, junk: float) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes, counts=(3, 1, 4))
    masked = torch.tensor([1, 3, 7])
    sides.mask_N[masked] = False
    kept = [row for row in range(8) if row not in masked.tolist()]
    alone = Sides(
        student={name: value[kept] for name, value in sides.student.items()},
        teacher={name: value[kept] for name, value in sides.teacher.items()},
        counts_M=torch.tensor([2, 0, 3]),
        gold_N=sides.gold_N[kept],
        mask_N=torch.ones(5, dtype=torch.bool),
    )
    for features in (sides.student, sides.teacher):
        for value in features.values():
            value[masked] = junk
    for value in sides.student.values():
        value.requires_grad_()
    found = module(sides)
    torch.testing.assert_close(found[kept], module(alone))
    assert (found[masked] == 0).all()
    found.sum().backward()
    for value in sides.student.values():
        assert value.grad is not None
        assert value.grad.isfinite().all()
        assert (value.grad[masked] == 0).all()


@pytest.mark.parametrize("case", [case for case in CASES if "information" not in case and "square" not in case])
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any), seed=st.integers(0, 1000))
def test_samples_of_any_lengths_do_not_see_each_other(case: str, counts: list[int], seed: int) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes, tuple(counts), seed)
    together = module(sides)
    for sample in samples_of(sides):
        own = Sides(
            student={name: value[sample.start : sample.stop] for name, value in sides.student.items()},
            teacher={name: value[sample.start : sample.stop] for name, value in sides.teacher.items()},
            counts_M=torch.tensor([len(sample)]),
            gold_N=sides.gold_N[sample.start : sample.stop],
            mask_N=sides.mask_N[sample.start : sample.stop],
        )
        torch.testing.assert_close(module(own), together[sample.start : sample.stop])


@every
@pytest.mark.parametrize("counts", [(), (0, 0), (1,)])
def test_one_row_and_none_give_finite_losses_and_gradients(case: str, counts: tuple[int, ...]) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes, counts)
    sides = replace(sides, counts_M=sides.counts_M.to(torch.int64))
    student = {name: value.requires_grad_() for name, value in sides.student.items()}
    loss = module(replace(sides, student=student))
    assert loss.shape == (sum(counts),)
    loss.sum().backward()
    for value in (loss, *(each.grad for each in (*student.values(), *module.parameters()))):
        assert value is not None
        assert value.isfinite().all()


@every
def test_a_batch_in_which_no_row_counts_has_no_loss_and_a_gradient_of_zero(case: str) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes)
    sides.mask_N[:] = False
    student = {name: value.requires_grad_() for name, value in sides.student.items()}
    loss = module(replace(sides, student=student))
    assert (loss == 0).all()
    loss.sum().backward()
    for each in (*student.values(), *module.parameters()):
        assert each.grad is not None
        assert (each.grad == 0).all()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_features_are_compared_in_float32(case: str, dtype: torch.dtype, autocast: bool) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes)
    narrow = replace(
        sides,
        student={name: value.to(dtype) for name, value in sides.student.items()},
        teacher={name: value.to(dtype) for name, value in sides.teacher.items()},
    )
    wide = replace(
        sides,
        student={name: value.double() for name, value in narrow.student.items()},
        teacher={name: value.double() for name, value in narrow.teacher.items()},
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = module(narrow)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, module(wide).float(), rtol=1e-4, atol=1e-5)


@every
def test_a_module_in_another_dtype_takes_the_features_as_they_are(case: str) -> None:
    module, shapes = built(case)
    assert module.to(torch.bfloat16)(sides_of(shapes)).dtype == torch.float64


@every
def test_rows_of_zeros_give_finite_gradients(case: str) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes)
    student = {name: torch.zeros_like(value).requires_grad_() for name, value in sides.student.items()}
    teacher = {name: torch.zeros_like(value) for name, value in sides.teacher.items()}
    loss = module(replace(sides, student=student, teacher=teacher))
    loss.sum().backward()
    for value in (loss, *(each.grad for each in student.values())):
        assert value is not None
        assert value.isfinite().all()


@every
def test_an_objective_names_what_it_takes_with_the_options_it_is_built_with(case: str) -> None:
    kind, options = CASES[case]
    module, shapes = built(case)
    sides = sides_of(shapes)
    assert set(shapes.widths_student) == {own for own, _ in kind.pairs(2, 4, **options)}
    module(replace(sides, student=sides.student | {"more": torch.zeros(len(sides.mask_N), 1)}))
    named = inspect.signature(kind).parameters
    by_name = inspect.signature(kind.pairs).parameters
    for name in set(by_name) & set(named):
        assert by_name[name].default == named[name].default


def test_the_means_of_classes_are_no_part_of_what_is_saved() -> None:
    module, _ = built("norm and direction", same=True)
    assert not module.state_dict()
