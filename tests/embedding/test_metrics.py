"""Figures of vectors against scipy and against loops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from logitstore.embedding.metrics import evaluate_vectors, spearman
from logitstore.train.loader.batch import Batch


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-3, 3)), min_size=3, max_size=12))
def test_spearman_is_that_of_scipy_with_ties_too(values: list[tuple[int, float]]) -> None:
    first, second = (torch.tensor(each, dtype=torch.float64) for each in zip(*values, strict=True))
    if len(set(first.tolist())) > 1 and len(set(second.tolist())) > 1:
        assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)
    else:
        assert np.isnan(spearman(first, second))


def batches(student_ND: torch.Tensor, order: list[int]) -> Any:
    for some in (order[:3], order[3:]):
        yield Batch(
            inputs={"input_ids": torch.tensor(some)[:, None]},
            rows=torch.arange(len(some)),
            row_mask=torch.ones(len(some), dtype=torch.bool),
            answer={},
            gold=torch.full((len(some),), -1),
            samples=torch.tensor(some),
            counts=torch.ones(len(some), dtype=torch.int64),
            features={},
        )


def test_figures_are_those_of_loops_whatever_the_order() -> None:
    torch.manual_seed(3)
    student_ND, teacher_ND = torch.randn(8, 4), torch.randn(8, 4)
    scores = np.array([1.0, 1.0, 4.0, 4.0, np.nan, np.nan, 2.0, 2.0])

    def model(input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=student_ND[input_ids[:, 0]])

    found = evaluate_vectors(
        model,
        batches(student_ND, [5, 0, 7, 1, 2, 6, 4, 3]),
        lambda batch: None,
        torch.device("cpu"),
        vectors=lambda batch: teacher_ND[batch.samples],
        pairs_S=np.arange(8) // 2,
        scores_S=scores,
    )
    unit = [each / each.norm(dim=1, keepdim=True) for each in (student_ND, teacher_ND)]
    own, other = (each @ each.T for each in unit)
    above = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    assert found.rows == 8
    assert found.cosine == pytest.approx(float((unit[0] * unit[1]).sum(1).mean()), abs=1e-6)
    assert found.similarity_spearman == pytest.approx(
        spearmanr([float(own[each]) for each in above], [float(other[each]) for each in above]).statistic, abs=1e-6
    )
    nearest = [
        [max((j for j in range(8) if j != i), key=lambda j: float(each[i, j])) for i in range(8)]
        for each in (own, other)
    ]
    assert found.neighbour_agreement == pytest.approx(np.mean(np.equal(*nearest)))
    for each, figure in ((own, found.gold_spearman), (other, found.teacher_gold_spearman)):
        assert figure == pytest.approx(
            spearmanr([float(each[i, i + 1]) for i in (0, 2, 6)], [1, 4, 2]).statistic, abs=1e-6
        )
