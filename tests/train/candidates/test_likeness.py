"""DisWOT's distances and Spearman's correlation against their formulas, written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.errors import BadInput
from logitstore.train.candidates.likeness import class_gradient, classes_apart, rows_apart, spearman


def by_hand(left: np.ndarray, right: np.ndarray) -> float:
    """The distance of two relation matrices, entry by entry."""
    count, total = len(left), 0.0
    relations = []
    for rows in (left, right):
        products = [[float(sum(a * b for a, b in zip(one, two, strict=True))) for two in rows] for one in rows]
        relations.append([[each / math.sqrt(sum(e * e for e in line)) for each in line] for line in products])
    for i in range(count):
        for j in range(count):
            total += (relations[0][i][j] - relations[1][i][j]) ** 2
    return total / count**2


@pytest.mark.parametrize("apart", [rows_apart, classes_apart])
def test_relations_are_compared_as_in_the_paper(apart: object) -> None:
    teacher, student = torch.randn(6, 5), torch.randn(6, 3)
    expected = by_hand(teacher.double().numpy(), student.double().numpy())
    assert float(apart(teacher, student)) == pytest.approx(expected, rel=1e-12)  # type: ignore[operator]


def test_turned_and_scaled_features_are_no_further_apart() -> None:
    teacher = torch.randn(8, 6, dtype=torch.float64)
    turned = 3 * teacher @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert float(rows_apart(teacher, turned)) == pytest.approx(0, abs=1e-24)
    assert float(rows_apart(teacher, torch.randn(8, 6))) > 1e-3


def test_the_class_gradient_is_that_of_the_cross_entropy() -> None:
    features, layer = torch.randn(7, 4, dtype=torch.float64), torch.nn.Linear(4, 9).double()
    gold = torch.tensor([1, 1, 4, 8, 0, 4, 1])
    logits = layer(features)
    torch.nn.functional.cross_entropy(logits, gold).backward()
    classes = torch.unique(gold)
    found = class_gradient(logits.detach().softmax(-1)[:, classes], gold[:, None] == classes, features)
    assert layer.weight.grad is not None
    torch.testing.assert_close(found, layer.weight.grad[classes], rtol=1e-12, atol=1e-14)


def test_a_rank_correlation_is_scipy_s_also_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    left, right = [0.3, 0.1, 0.1, 2.0, 5.0, 0.2], [1.0, 0.5, 4.0, 4.0, 4.0, 0.0]
    assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, rel=1e-12)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8, unique=True))
def test_a_rank_correlation_knows_the_order_alone(values: list[float]) -> None:
    assert spearman(values, [math.atan(each / 20) * 3 for each in values]) > 1 - 1e-9 or len(values) != len(
        {math.atan(each / 20) * 3 for each in values}
    )
    assert spearman(values, sorted(values)) <= 1 + 1e-12
    assert spearman(values, [-each for each in values]) == pytest.approx(-1)


def test_what_has_no_correlation_is_said() -> None:
    assert math.isnan(spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert math.isnan(spearman([1.0, math.nan], [1.0, 2.0]))
    with pytest.raises(BadInput, match="of 2 and 1 numbers"):
        spearman([1.0, 2.0], [1.0])
