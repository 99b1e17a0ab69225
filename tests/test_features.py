"""The objectives on features against float64 references with loops, written from their formulas."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from logitstore.errors import BadInput
from logitstore.features import (
    Attention,
    FeatureObjective,
    Match,
    MutualInformation,
    NormDirection,
    Relations,
    Shapes,
    Sides,
    Similarity,
    SquareHead,
    balanced_weight,
    interpolated_bound,
    layer_pairs,
)
from logitstore.features.layer_map import attention_pairs, hidden_pairs
from logitstore.features.padding import Padding

COUNTS = (3, 1, 0, 5)
VOCABULARY = 7
STUDENT = {"hidden": 6, "query": 12, "key": 6, "value": 6}
TEACHER = {"hidden": 10, "query": 24, "key": 12, "value": 12}


def widths_of(names: list[str], widths: dict[str, int]) -> dict[str, int]:
    return {name: widths["hidden" if name == "final" else name.split("-")[0]] for name in names}


def shapes_of(
    kind: type[FeatureObjective], depths: tuple[int, int] = (2, 4), /, *, same: bool = False, **options: Any
) -> Shapes:
    """Models whose query heads (6) share key heads (3); with `same`, the student is as wide as the teacher."""
    pairs = kind.pairs(*depths, **options)
    return Shapes(
        student_layers=depths[0],
        teacher_layers=depths[1],
        widths_student=widths_of([own for own, _ in pairs], TEACHER if same else STUDENT),
        widths_teacher=widths_of([other for _, other in pairs], TEACHER),
        heads_student=6,
        heads_teacher=6,
        key_heads_student=3,
        key_heads_teacher=3,
    )


def sides_of(shapes: Shapes, counts: tuple[int, ...] = COUNTS, seed: int = 0) -> Sides:
    draw = torch.Generator().manual_seed(seed)
    rows = sum(counts)

    def features(widths: Any) -> dict[str, Tensor]:
        return {name: torch.randn(rows, width, generator=draw).double() for name, width in widths.items()}

    return Sides(
        student=features(shapes.widths_student),
        teacher=features(shapes.widths_teacher),
        counts_M=torch.tensor(counts),
        gold_N=torch.randint(VOCABULARY, (rows,), generator=draw),
        mask_N=torch.ones(rows, dtype=torch.bool),
    )


def class_means() -> Tensor:
    """Token 1 was never seen, nor was token 2."""
    means = torch.randn(VOCABULARY, TEACHER["hidden"], generator=torch.Generator().manual_seed(9))
    means[1], means[2] = 0.0, torch.nan
    return means


CASES: dict[str, tuple[type[FeatureObjective], dict[str, Any]]] = {
    "mse": (Match, {}),
    "cosine": (Match, {"kind": "cosine", "layers": "last-2"}),
    "square head": (SquareHead, {"layers": "uniform"}),
    "norm and direction": (NormDirection, {"means_VD": class_means()}),
    "relations": (Relations, {"relation_heads": 2}),
    "relations, not causal": (Relations, {"causal": False, "layers": "1:2,2:3"}),
    "attention": (Attention, {}),
    "attention, not causal": (Attention, {"causal": False}),
    "similarity": (Similarity, {}),
    "mutual information": (MutualInformation, {"critic_width": 5}),
    "mutual information, alpha 1": (MutualInformation, {"critic_width": 5, "alpha": 1.0}),
    "mutual information, alpha 0": (MutualInformation, {"critic_width": 5, "alpha": 0}),
}
every = pytest.mark.parametrize("case", CASES)


def built(case: str, *, same: bool = False) -> tuple[FeatureObjective, Shapes]:
    kind, options = CASES[case]
    shapes = shapes_of(kind, same=same, **options)
    torch.manual_seed(3)
    make: Callable[..., FeatureObjective] = kind
    return make(shapes, **options), shapes


# references: one row at a time, straight from the formulas


def samples_of(sides: Sides) -> list[range]:
    starts = [0, *sides.counts_M.cumsum(0).tolist()]
    return [range(first, last) for first, last in pairwise(starts)]


def kl_of_scores(teacher: Tensor, student: Tensor) -> float:
    p, s = teacher.softmax(0), student.softmax(0)
    return float((p * (p / s).log()).sum())


def heads_of(rows: Tensor, heads: int) -> list[Tensor]:
    return list(rows.chunk(heads, dim=1))


def relation_reference(teacher: list[tuple[Tensor, Tensor]], student: list[tuple[Tensor, Tensor]], sides: Sides,
                       causal: bool) -> Tensor:  # fmt: skip
    """Mean over heads, each given as (left, right), of the KL between softmaxes of scaled dot products."""
    losses = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for sample in samples_of(sides):
        for row in sample:
            seen = [other for other in sample if other <= row or not causal]
            for (left_t, right_t), (left_s, right_s) in zip(teacher, student, strict=True):
                scores_t = right_t[seen] @ left_t[row] / math.sqrt(left_t.shape[1])
                scores_s = right_s[seen] @ left_s[row] / math.sqrt(left_s.shape[1])
                losses[row] += kl_of_scores(scores_t, scores_s) / len(teacher)
    return losses


def projected(module: Match | SquareHead | NormDirection, sides: Sides) -> list[tuple[Tensor, Tensor]]:
    found = []
    for own_map, (own, other) in zip(module.projections.maps, module.projections.names, strict=True):
        weight: Any = own_map.weight if isinstance(own_map, nn.Linear) else torch.eye(sides.student[own].shape[1])
        found.append((sides.student[own] @ weight.detach().double().T, sides.teacher[other]))
    return found


@pytest.mark.parametrize("same", [False, True])
def test_mse_is_the_mean_over_pairs_of_the_mean_over_channels(same: bool) -> None:
    module, shapes = built("mse", same=same)
    assert isinstance(module, Match)
    sides = sides_of(shapes)
    pairs = projected(module, sides)
    assert (next(module.parameters(), None) is None) == same
    expected = sum(((own - other) ** 2).sum(1) / own.shape[1] for own, other in pairs) / len(pairs)
    torch.testing.assert_close(module(sides), expected)


def test_cosine_is_one_minus_the_cosine_of_the_projected_states() -> None:
    module, shapes = built("cosine")
    assert isinstance(module, Match)
    sides = sides_of(shapes)
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in projected(module, sides):
        for row in range(len(expected)):
            expected[row] += (1 - own[row] @ other[row] / (own[row].norm() * other[row].norm())) / 2
    torch.testing.assert_close(module(sides), expected)


def test_equal_widths_are_projected_when_asked() -> None:
    shapes = shapes_of(Match, same=True)
    assert len(list(Match(shapes, project="always").parameters())) == 2
    sides = sides_of(shapes)
    module = Match(shapes, project="always")
    torch.testing.assert_close(
        module(sides), sum(((own - other) ** 2).mean(1) for own, other in projected(module, sides)) / 2
    )


def test_square_head_averages_to_the_quotient_of_errors_of_the_batch() -> None:
    module, shapes = built("square head")
    assert isinstance(module, SquareHead)
    sides = sides_of(shapes)
    sides.mask_N[[0, 5]] = False
    counted = sides.mask_N
    expected = sum(
        nn.functional.mse_loss(own[counted], other[counted]) / (other[counted].square().mean() + 1e-6)
        for own, other in projected(module, sides)
    )
    torch.testing.assert_close(module(sides)[counted].mean(), torch.as_tensor(expected))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_norm_and_direction_is_the_formula_for_short_students_and_for_long_ones(scale: float) -> None:
    module, shapes = built("norm and direction")
    assert isinstance(module, NormDirection)
    sides = sides_of(shapes, counts=(40,))
    sides = replace(sides, student={"final": scale * sides.student["final"]})
    sides.gold_N[7::9] = -1
    ((own, other),) = projected(module, sides)
    means = class_means().double()
    found = module(sides).detach()
    assert {-1, 1, 2} <= set(sides.gold_N.tolist())
    for row, gold in enumerate(sides.gold_N.tolist()):
        longest = max(own[row].norm(), other[row].norm())
        expected = 0.0 if gold in (-1, 1, 2) else 1 - own[row] @ means[gold] / (means[gold].norm() * longest)
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-9)


def test_norm_and_direction_is_zero_on_a_student_that_is_the_class_mean_and_longer_than_the_teacher() -> None:
    module, shapes = built("norm and direction", same=True)
    sides = sides_of(shapes)
    sides = replace(sides, student={"final": 100 * class_means()[sides.gold_N].double()})
    assert float(module(sides).abs().max()) < 1e-6


@pytest.mark.parametrize(("case", "heads", "pairs"), [("relations", 2, 1), ("relations, not causal", 6, 2)])
def test_relations_are_the_sum_of_three_kls_over_relation_heads(case: str, heads: int, pairs: int) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes)
    kind, options = CASES[case]
    names = kind.pairs(2, 4, **options)
    assert len(names) == 3 * pairs
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in names:
        student = [(rows, rows) for rows in heads_of(sides.student[own], heads)]
        teacher = [(rows, rows) for rows in heads_of(sides.teacher[other], heads)]
        expected += relation_reference(teacher, student, sides, options.get("causal", True)) / pairs
    torch.testing.assert_close(module(sides), expected)


@pytest.mark.parametrize("case", ["attention", "attention, not causal"])
@pytest.mark.parametrize("key_heads", [1, 3, 6])
def test_attention_is_kl_of_attention_and_value_relation_with_shared_keys_repeated(case: str, key_heads: int) -> None:
    kind, options = CASES[case]
    shapes = replace(shapes_of(kind, **options), key_heads_teacher=key_heads)
    module, sides = Attention(shapes, **options), sides_of(shapes)
    # a key head is as wide as a query head: with another number of them, their features are of another width
    width = 4 * key_heads
    teacher = sides.teacher | {
        name: torch.randn(sum(COUNTS), width).double() for name in sides.teacher if "query" not in name
    }
    shapes = replace(shapes, widths_teacher={name: value.shape[1] for name, value in teacher.items()})
    module, sides = Attention(shapes, **options), replace(sides, teacher=teacher)

    def maps(features: dict[str, Tensor], layer: int, shared: int) -> tuple[list[Any], list[Any]]:
        queries = heads_of(features[f"query-{layer}"], 6)
        keys, values = heads_of(features[f"key-{layer}"], shared), heads_of(features[f"value-{layer}"], shared)
        attention = [(query, keys[place * shared // 6]) for place, query in enumerate(queries)]
        return attention, [(values[place * shared // 6],) * 2 for place in range(6)]

    causal = options.get("causal", True)
    both = zip(maps(dict(sides.teacher), 4, key_heads), maps(dict(sides.student), 2, 3), strict=True)
    expected = sum(relation_reference(theirs, own, sides, causal) for theirs, own in both)
    torch.testing.assert_close(module(sides), expected)


def test_similarity_is_the_mean_square_between_cosine_matrices_of_a_sample() -> None:
    module, shapes = built("similarity")
    sides = sides_of(shapes)
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in Similarity.pairs(2, 4):
        student, teacher = sides.student[own], sides.teacher[other]
        for sample in samples_of(sides):
            for row in sample:
                for column in sample:
                    s = student[row] @ student[column] / (student[row].norm() * student[column].norm())
                    t = teacher[row] @ teacher[column] / (teacher[row].norm() * teacher[column].norm())
                    expected[row] += (s - t) ** 2 / len(sample) / 2
    torch.testing.assert_close(module(sides), expected)


def bound_reference(scores: Tensor, alpha: float) -> float:
    """Poole et al. 2019, section 2.4, with q = e: the next pair's x is left out with y's own x in, or y's own x is."""
    count = len(scores)
    joint = product = 0.0
    for row in range(count):
        drawn = [place for place in range(count) if place != (row + 1) % count]
        baseline = alpha * sum(math.exp(scores[row, place]) for place in drawn) / len(drawn) + (1 - alpha) * math.e
        joint += (float(scores[row, row]) - math.log(baseline)) / count
        others = [place for place in range(count) if place != row]
        baseline = alpha * sum(math.exp(scores[row, place]) for place in others) / len(others) + (1 - alpha) * math.e
        product += sum(math.exp(scores[row, place]) / baseline for place in others) / len(others) / count
    return 1 + joint - product


@given(count=st.integers(2, 9), alpha=st.floats(0, 1), seed=st.integers(0, 1000))
def test_the_bound_is_the_formula_at_every_alpha(count: int, alpha: float, seed: int) -> None:
    scores = 3 * torch.randn(count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert float(interpolated_bound(scores, alpha=alpha)) == pytest.approx(bound_reference(scores, alpha), rel=1e-9)


def test_at_alpha_one_the_bound_is_infonce_and_never_above_its_ceiling() -> None:
    scores = torch.randn(20, 20, dtype=torch.float64)
    left_out = torch.eye(20, dtype=torch.bool).roll(1, 1)
    log_shares = scores.masked_fill(left_out, -torch.inf).log_softmax(-1).diagonal()
    torch.testing.assert_close(interpolated_bound(scores, alpha=1.0), math.log(19) + log_shares.mean())
    sure = 1e4 * torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(float(interpolated_bound(sure, alpha=1.0)), math.log(19))


def test_at_alpha_zero_the_bound_is_that_of_nguyen_wainwright_and_jordan() -> None:
    scores = torch.randn(20, 20, dtype=torch.float64)
    others = scores[~torch.eye(20, dtype=torch.bool)]
    expected = scores.diagonal().mean() - (others - 1).exp().mean()
    torch.testing.assert_close(interpolated_bound(scores, alpha=0.0), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_the_critic_that_knows_gives_a_bound_below_the_information_on_the_average(alpha: float) -> None:
    draw = torch.Generator().manual_seed(1)
    strength = 0.8
    truth = -0.5 * math.log(1 - strength**2)
    x, noise = (torch.randn(4000, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    y = strength * x + math.sqrt(1 - strength**2) * noise
    # log p(y | x) / p(y), the best of critics; 1 more makes it best without a baseline too
    apart = (y[:, :, None] - strength * x[:, None, :]) ** 2 / (1 - strength**2)
    scores = -0.5 * apart + 0.5 * y[:, :, None] ** 2 - 0.5 * math.log(1 - strength**2) + 1
    bounds = torch.stack([interpolated_bound(each, alpha=alpha) for each in scores])
    error = float(bounds.std()) / math.sqrt(len(bounds))
    assert float(bounds.mean()) < truth + 3 * error
    assert float(bounds.mean()) > (0.55 * truth if alpha else truth - 3 * error)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_training_the_critic_raises_the_bound_towards_the_information(alpha: float) -> None:
    torch.manual_seed(5)
    width, strength = 8, 0.6
    truth = -0.5 * width * math.log(1 - strength**2)
    shapes = Shapes(
        student_layers=1, teacher_layers=1, widths_student={"final": width}, widths_teacher={"final": width}
    )
    module = MutualInformation(shapes, alpha=alpha, critic_width=32)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)

    def draw(rows: int) -> Sides:
        x, noise = torch.randn(rows, width), torch.randn(rows, width)
        return Sides(
            student={"final": x},
            teacher={"final": strength * x + math.sqrt(1 - strength**2) * noise},
            counts_M=torch.tensor([rows]),
            gold_N=torch.zeros(rows, dtype=torch.int64),
            mask_N=torch.ones(rows, dtype=torch.bool),
        )

    with torch.no_grad():
        before = -float(module(draw(500)).mean())
    for _ in range(200):
        loss = module(draw(64)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = -float(torch.stack([module(draw(64)).mean() for _ in range(50)]).mean())
    assert before < 0.1
    assert 0.6 * truth < after < truth, (after, truth)


def test_mutual_information_is_one_number_for_all_rows_that_count() -> None:
    module, shapes = built("mutual information")
    assert isinstance(module, MutualInformation)
    sides = sides_of(shapes)
    sides.mask_N[4] = False
    kept = sides.counted()
    expected = 0.0
    for critic, (own, other) in zip(module.critics, module.names, strict=True):
        expected -= bound_reference(critic(kept.student[own], kept.teacher[other]).detach(), 0.9) / len(module.names)
    found = module(sides)
    assert float(found[4].detach()) == 0
    torch.testing.assert_close(found[sides.mask_N], torch.full((8,), expected, dtype=torch.float64))


# what holds for all of them


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


# names of layers


def test_layers_are_paired_as_the_word_says() -> None:
    assert layer_pairs("uniform", 3, 12) == [(1, 4), (2, 8), (3, 12)]
    assert layer_pairs("uniform", 4, 6) == [(1, 2), (2, 3), (3, 4), (4, 6)]
    assert layer_pairs("last-3", 4, 12) == [(2, 10), (3, 11), (4, 12)]
    assert layer_pairs("1:4,2:8,0:0", 2, 8) == [(1, 4), (2, 8), (0, 0)]
    assert layer_pairs("all", 3, 3) == [(1, 1), (2, 2), (3, 3)]


@given(student=st.integers(1, 40), teacher=st.integers(1, 100))
def test_uniform_layers_rise_and_end_on_the_last(student: int, teacher: int) -> None:
    own, other = zip(*layer_pairs("uniform", student, teacher), strict=True)
    assert list(own) == list(range(1, student + 1))
    assert list(other) == sorted(other)
    assert other[-1] == teacher
    assert other[0] >= 1


def test_the_last_layer_is_called_final_and_queries_keep_its_number() -> None:
    assert hidden_pairs("0:0,1:4,2:8", 2, 8) == [
        ("hidden-0", "hidden-0"), ("hidden-1", "hidden-4"), ("final", "final")
    ]  # fmt: skip
    assert attention_pairs("last-1", 2, 8) == [("query-2", "query-8"), ("key-2", "key-8"), ("value-2", "value-8")]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("unifrom", "layers 'unifrom': write uniform, all, last-N such as last-3, or pairs"),
        ("last-0", "layers 'last-0': the student has 2 layers and the teacher 8. Name from 1 to 2 of them."),
        ("last-3", "layers 'last-3': the student has 2 layers and the teacher 8. Name from 1 to 2"),
        ("all", "layers 'all': the student has 2 layers and the teacher 8; .* Use 'uniform'."),
        ("3:4", "layers '3:4': 3:4: the student has 2 layers. Name one from 0 to 2."),
        ("1:2,2:9", "layers '1:2,2:9': 2:9: the teacher has 8 layers. Name one from 0 to 8."),
        ("1:2,1:2", "layers '1:2,1:2': a pair stands there twice"),
        ("1:2,", "layers '1:2,': write uniform"),
    ],
)
def test_layers_that_are_not_there_are_told_in_a_line(layers: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        layer_pairs(layers, 2, 8)


def test_options_that_do_not_fit_are_told_in_a_line() -> None:
    hidden = shapes_of(Match)
    attention = shapes_of(Attention)
    with pytest.raises(BadInput, match="layer 0 is the embeddings, which have no queries"):
        Relations.pairs(2, 4, layers="0:0")
    with pytest.raises(BadInput, match="kind 'l2': write mse or cosine"):
        Match(hidden, kind="l2")
    with pytest.raises(BadInput, match="project 'never': write auto, or always"):
        Match(hidden, project="never")
    with pytest.raises(BadInput, match=r"alpha 1.5: give a number from 0 to 1"):
        MutualInformation(hidden, alpha=1.5)
    with pytest.raises(BadInput, match=r"class means of shape \[7, 6\]: .* has 10 channels"):
        NormDirection(hidden, means_VD=torch.zeros(7, 6))
    with pytest.raises(
        BadInput, match=r"relation_heads 4: the student's key-2 has 6 channels. Give one of 1, 2, 3, 6."
    ):
        Relations(attention, relation_heads=4)
    with pytest.raises(BadInput, match=r"relation_heads 0: .* Give one of 1, 2, 3, 6."):
        Relations(attention, relation_heads=0)
    with pytest.raises(BadInput, match=r"the teacher does not say how many heads it has. Give relation_heads."):
        Relations(replace(attention, heads_teacher=0))
    with pytest.raises(BadInput, match=r"the student has 3 heads and the teacher 6; .* Use relations"):
        Attention(replace(attention, heads_student=3))
    with pytest.raises(BadInput, match="the teacher's key-4 has 12 channels for 4 of its 6 heads, which do not divide"):
        Attention(replace(attention, key_heads_teacher=4))


def test_relation_heads_are_the_teachers_where_they_divide_all_widths_and_the_next_fewer_elsewhere() -> None:
    shapes = shapes_of(Relations)
    assert Relations(shapes).relation_heads == 6
    assert Relations(replace(shapes, heads_teacher=5)).relation_heads == 3


# their parts


@given(counts=st.lists(st.integers(0, 6), max_size=5))
def test_padding_and_taking_the_rows_again_changes_nothing(counts: list[int]) -> None:
    rows = torch.randn(sum(counts), 2, 3)
    padding = Padding.of(torch.tensor(counts, dtype=torch.int64))
    padded = padding.pad(rows)
    assert padded.shape == (len(counts), max(counts, default=0), 2, 3)
    assert torch.equal(padding.rows(padded), rows)
    assert torch.equal(padded.sum((0, 1)), padded.flatten(0, 1).sum(0))


@pytest.mark.parametrize(("main", "other"), [(2.0, 8.0), (2.0, 0.0), (0.0, 0.0), (10.0, 1e-38), (0.0, 3.0)])
def test_the_balanced_weight_makes_both_losses_equal_and_is_zero_where_nothing_can(main: float, other: float) -> None:
    weight = balanced_weight(torch.tensor(main, requires_grad=True), torch.tensor(other, requires_grad=True))
    assert not weight.requires_grad
    assert float(weight) == (main / other if other > 1e-30 else 0.0)


@pytest.mark.parametrize(("main", "other"), [(2.0, -8.0), (-2.0, 8.0)])
def test_a_balanced_weight_never_pushes_away(main: float, other: float) -> None:
    assert float(balanced_weight(torch.tensor(main), torch.tensor(other))) == 0
