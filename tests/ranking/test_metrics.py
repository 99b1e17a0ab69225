"""Figures of rankings, against loops over documents and against values that are known."""

from __future__ import annotations

import math

import pytest
import torch

from logitstore.ranking.metrics import figures_of, ndcg, reciprocal_rank
from logitstore.train.objectives.rankings.ranked import Ranked


def ranked(student: list[list[float]], teacher: list[list[float]], gold: list[list[int]]) -> Ranked:
    flat = [
        torch.tensor([value for query in each for value in query], dtype=torch.float64) for each in (student, teacher)
    ]
    labels = torch.tensor([value for query in gold for value in query])
    return Ranked.of(flat[0], flat[1], labels, torch.tensor([len(query) for query in gold]))


def figure(name: str, student: list[float], teacher: list[float], gold: list[int]) -> float:
    # beside a longer query, so that there are places without a document
    filler = [float(place) for place in range(len(gold) + 3)]
    some = ranked([student, filler], [teacher, filler], [gold, [0] * len(filler)])
    return float(figures_of(some)[name][0])


def test_ndcg_is_that_of_the_formula() -> None:
    gains, scores = [3, 0, 2, 1], [0.1, 0.9, 0.8, -1.0]
    order = sorted(range(4), key=lambda place: -scores[place])
    found = sum(gains[place] / math.log2(2 + rank) for rank, place in enumerate(order))
    best = sum(gain / math.log2(2 + rank) for rank, gain in enumerate(sorted(gains, reverse=True)))
    assert figure("ndcg", scores, scores, gains) == pytest.approx(found / best)
    assert figure("teacher_ndcg", [0.0] * 4, scores, gains) == pytest.approx(found / best)
    assert figure("ndcg", [3.0, 0.0, 2.0, 1.0], scores, gains) == 1.0
    assert math.isnan(figure("ndcg", scores, scores, [0, 0, -1, -1]))


def test_only_ten_documents_are_looked_at() -> None:
    scores_ML = -torch.arange(12, dtype=torch.float64)[None]
    gains_ML, is_there_ML = torch.zeros(1, 12, dtype=torch.float64), torch.ones(1, 12, dtype=torch.bool)
    gains_ML[0, 10] = 1
    assert float(ndcg(scores_ML, gains_ML, is_there_ML)) == 0.0
    assert float(reciprocal_rank(scores_ML, gains_ML, is_there_ML)) == 0.0
    gains_ML[0, 9] = 1
    assert float(reciprocal_rank(scores_ML, gains_ML, is_there_ML)) == pytest.approx(0.1)


def test_equal_scores_count_as_the_worst_order() -> None:
    assert figure("mrr", [1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [1, 0, 0]) == pytest.approx(1 / 3)
    assert figure("mrr", [1.0, 1.0, 0.0], [3.0, 2.0, 1.0], [0, 1, 0]) == pytest.approx(1 / 2)
    assert figure("mrr_to_teacher", [1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [-1, -1, -1]) == pytest.approx(1 / 3)


def test_correlations_of_ranks_are_known() -> None:
    teacher = [4.0, 3.0, 2.0, 1.0]
    assert figure("spearman", [40.0, 30.0, 20.0, 10.0], teacher, [0] * 4) == pytest.approx(1)
    assert figure("kendall", [1.0, 2.0, 3.0, 4.0], teacher, [0] * 4) == pytest.approx(-1)
    # one pair of six stands the other way round, and squared rank differences sum to 2
    assert figure("kendall", [3.0, 4.0, 2.0, 1.0], teacher, [0] * 4) == pytest.approx(4 / 6)
    assert figure("spearman", [3.0, 4.0, 2.0, 1.0], teacher, [0] * 4) == pytest.approx(1 - 6 * 2 / (4 * 15))
    # tau-b: five pairs agree and one is a tie of the student
    assert figure("kendall", [3.0, 3.0, 2.0, 1.0], teacher, [0] * 4) == pytest.approx(5 / math.sqrt(5 * 6))
    assert figure("kendall", [1.0] * 4, teacher, [0] * 4) == 0.0
    assert math.isnan(figure("spearman", teacher, [1.0] * 4, [0] * 4))
    assert math.isnan(figure("ndcg_to_teacher", [1.0], [2.0], [1]))


def test_the_teachers_own_order_is_the_best_to_it() -> None:
    teacher = [0.3, -1.0, 2.0]
    assert figure("ndcg_to_teacher", [3.0, 0.0, 9.0], teacher, [-1] * 3) == pytest.approx(1)
    assert figure("mrr_to_teacher", [3.0, 0.0, 9.0], teacher, [-1] * 3) == 1.0
    assert figure("mrr_to_teacher", [9.0, 0.0, 3.0], teacher, [-1] * 3) == pytest.approx(1 / 2)
    assert figure("kl", teacher, teacher, [-1] * 3) == pytest.approx(0)
