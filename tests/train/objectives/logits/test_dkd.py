"""Decoupled KD and its kin against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from logitstore.targets.dense import dense_logprobs
from logitstore.train.objectives import cross_entropy
from logitstore.train.objectives.kernels.dense_pair import dense_pair
from logitstore.train.objectives.logits.dist import dist
from logitstore.train.objectives.logits.dkd import dkd, non_target_kl, one_for_all, target_kl
from tests.parts.row_references import DISTRIBUTIONS, GOLD, ROWS, VOCABULARY, a_student, kl, targets_with, whole


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tail", DISTRIBUTIONS)
def test_the_two_halves_of_decoupled_kd_make_up_the_kl(tail: str, temperature: float) -> None:
    targets = targets_with(tail)
    student, teacher = dense_pair(a_student(ROWS, VOCABULARY), targets, temperature)
    p_gold = teacher.gather(1, GOLD[:, None])[:, 0].exp()
    joined = target_kl(student, teacher, GOLD) + (1 - p_gold) * non_target_kl(student, teacher, GOLD)
    torch.testing.assert_close(joined, kl(teacher.exp(), student.exp()), rtol=1e-4, atol=1e-6)


def test_decoupled_kd_is_finite_where_gold_is_certain_or_impossible() -> None:
    logits = torch.tensor([[0.0, -math.inf, -math.inf], [-math.inf, 0.0, 1.0], [200.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    student = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [500.0, 1.0, 0.0]], requires_grad=True)
    gold = torch.zeros(4, dtype=torch.int64)
    found = dkd(student, whole(logits), gold)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    certain, impossible = found[0], found[1]
    # nothing but the gold token is left to learn; and nothing of it
    torch.testing.assert_close(certain, cross_entropy(student, gold)[0])
    s = torch.softmax(student[1], -1)
    others = kl(torch.softmax(torch.tensor([0.0, 1.0]), -1), s[1:] / s[1:].sum())
    torch.testing.assert_close(impossible, -(1 - s[0]).log() + 0.5 * others)


def test_weights_of_decoupled_kd_and_of_dist_switch_their_terms() -> None:
    targets, student = targets_with("prior"), a_student(ROWS, VOCABULARY)
    target = dkd(student, targets, GOLD, non_target_weight=0.0)
    non_target = dkd(student, targets, GOLD, target_weight=0.0, non_target_weight=1.0)
    torch.testing.assert_close(dkd(student, targets, GOLD, target_weight=3.0), 3 * target + 0.5 * non_target)
    within, across = dist(student, targets, intra_weight=0.0), dist(student, targets, inter_weight=0.0)
    assert (across == across[0]).all()
    assert len(set(within.tolist())) == ROWS
    torch.testing.assert_close(dist(student, targets, inter_weight=2.0, intra_weight=3.0), 2 * within + 3 * across)


def test_one_for_all_with_gamma_1_is_the_cross_entropy_to_the_teacher() -> None:
    targets, student = whole(a_student(ROWS, VOCABULARY, seed=5)), a_student(ROWS, VOCABULARY, seed=6)
    found = one_for_all(student, targets, GOLD, gamma=1.0)
    teacher = dense_logprobs(targets).double().exp()
    torch.testing.assert_close(found, -(teacher * torch.log_softmax(student, -1)).sum(-1), rtol=1e-6, atol=1e-6)
