"""The objectives on scores, against loops over documents in float64 that follow the papers' formulas, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.core.objectives.rankings import OF_RANKINGS
from logitstore.errors import BadInput
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.rankings.losses import (
    label_cross_entropy,
    list_kl,
    margin_mse,
    ranknet,
    score_mse,
)
from logitstore.train.objectives.rankings.ranked import Ranked
from logitstore.train.objectives.rankings.term import ranking_loss

COUNTS = (4, 1, 3, 2)
GOLD = [2, 0, 1, -1, 1, 0, 3, 0, -1, -1]


def scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of a student and a teacher, float64; two documents of the third query are equal for the teacher."""
    generator = torch.Generator().manual_seed(seed)
    student_N, teacher_N = (3 * torch.randn(2, sum(COUNTS), generator=generator, dtype=torch.float64)).unbind()
    teacher_N[6] = teacher_N[5]
    return student_N, teacher_N


def ranked(student_N: Tensor, teacher_N: Tensor) -> Ranked:
    return Ranked.of(student_N, teacher_N, torch.tensor(GOLD), torch.tensor(COUNTS))


def of_queries(loss: Callable[[list[float], list[float], list[int]], float]) -> Tensor:
    """What a loss of plain numbers gives for each query."""
    student_N, teacher_N = scores()
    found, start = [], 0
    for count in COUNTS:
        some = slice(start, start + count)
        found.append(loss(student_N[some].tolist(), teacher_N[some].tolist(), GOLD[some]))
        start += count
    return torch.tensor(found, dtype=torch.float64)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def margins_of_labels(s: list[float], t: list[float], y: list[int]) -> float:
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if y[i] > y[j] >= 0]
    return mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs])


def margins_of_all(s: list[float], t: list[float], _: list[int]) -> float:
    return mean([((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in combinations(range(len(s)), 2)])


def hard_ranknet(s: list[float], t: list[float], _: list[int]) -> float:
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
    return mean([math.log(1 + math.exp(-(s[i] - s[j]))) for i, j in pairs])


def soft_ranknet(s: list[float], t: list[float], _: list[int]) -> float:
    found = []
    for i, j in combinations(range(len(s)), 2):
        target, own = (1 / (1 + math.exp(each[j] - each[i])) for each in (t, s))
        found.append(-target * math.log(own) - (1 - target) * math.log(1 - own))
    return mean(found)


def kl_at(temperature: float) -> Callable[[list[float], list[float], list[int]], float]:
    def loss(s: list[float], t: list[float], _: list[int]) -> float:
        teacher, student = softmax(t, temperature), softmax(s, temperature)
        return temperature**2 * sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))

    return loss


def squares(s: list[float], t: list[float], _: list[int]) -> float:
    return mean([(a - b) ** 2 for a, b in zip(s, t, strict=True)])


def gold(s: list[float], _: list[float], y: list[int]) -> float:
    judged = [place for place in range(len(s)) if y[place] >= 0]
    total = sum(y[place] for place in judged)
    if not total:
        return 0.0
    probs = softmax([s[place] for place in judged])
    return -sum(y[place] / total * math.log(prob) for place, prob in zip(judged, probs, strict=True))


CASES: list[tuple[Callable[..., Tensor], dict[str, Any], Callable[..., float]]] = [
    (margin_mse, {}, margins_of_labels),
    (margin_mse, {"pairs": "all"}, margins_of_all),
    (ranknet, {}, hard_ranknet),
    (ranknet, {"soft": True}, soft_ranknet),
    (list_kl, {}, kl_at(1.0)),
    (list_kl, {"temperature": 2.0}, kl_at(2.0)),
    (score_mse, {}, squares),
    (label_cross_entropy, {}, gold),
]


@pytest.mark.parametrize(("loss", "options", "reference"), CASES)
def test_each_loss_is_the_papers_formula(
    loss: Callable[..., Tensor], options: dict[str, Any], reference: Callable[..., float]
) -> None:
    expected = of_queries(reference)
    assert (expected > 0).sum() >= 2
    torch.testing.assert_close(loss(ranked(*scores()), **options), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("loss", "options", "_"), CASES)
def test_each_loss_has_the_gradient_of_its_formula(
    loss: Callable[..., Tensor], options: dict[str, Any], _: Callable[..., float]
) -> None:
    student_N, teacher_N = scores()
    assert torch.autograd.gradcheck(
        lambda own_N: loss(ranked(own_N, teacher_N), **options), student_N.clone().requires_grad_()
    )


def test_a_student_with_the_teachers_scores_has_nothing_to_learn() -> None:
    _, teacher_N = scores()
    for loss, options, _ in CASES[:2] + CASES[4:7]:
        torch.testing.assert_close(
            loss(ranked(teacher_N, teacher_N), **options), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_differences_of_scores_know_no_common_offset() -> None:
    student_N, teacher_N = scores()
    for loss, options, _ in CASES[:6]:
        moved = loss(ranked(student_N + 5, teacher_N - 2), **options)
        torch.testing.assert_close(moved, loss(ranked(student_N, teacher_N), **options))
    assert not torch.allclose(score_mse(ranked(student_N + 5, teacher_N)), score_mse(ranked(student_N, teacher_N)))


def test_the_loss_of_a_batch_is_the_weighted_sum_of_its_terms() -> None:
    student_N, teacher_N = scores()
    weights_M, scale_M = torch.tensor([0.5, 0.0, 1.0, 2.0]), torch.tensor([4.0, 4.0, 0.0, 0.0])
    criterion = Criterion.mixed("list_kl", alpha=0.3, temperature=2.0)
    total, lines_LM = ranking_loss(
        criterion.rows, student_N, teacher_N, torch.tensor(GOLD), torch.tensor(COUNTS), weights_M, scale_M, 0.0
    )
    some = ranked(student_N.float(), teacher_N)
    expected_M = 0.3 * list_kl(some, temperature=2.0) + 0.7 * scale_M * label_cross_entropy(some)
    torch.testing.assert_close(total, (weights_M * expected_M).sum())
    torch.testing.assert_close(lines_LM[0], expected_M)
    assert len(lines_LM) == 3


def test_pairs_are_of_labels_or_all() -> None:
    with pytest.raises(BadInput, match="pairs is 'some', but must be labels or all"):
        margin_mse(ranked(*scores()), pairs="some")
    assert set(OF_RANKINGS) == {"margin_mse", "ranknet", "list_kl", "score_mse"}
