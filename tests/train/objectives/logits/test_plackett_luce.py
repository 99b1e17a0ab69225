"""The Plackett-Luce objective against the whole list."""

from __future__ import annotations

import math

import pytest
import torch

from logitstore.targets.dense import dense_logprobs
from logitstore.train.objectives import FixedTail, Targets, cross_entropy
from logitstore.train.objectives.logits.plackett_luce import plackett_luce
from tests.parts.row_references import GOLD, ROWS, VOCABULARY, a_student, reference_plackett_luce, targets_with, whole


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_plackett_luce_of_a_whole_vocabulary_is_the_whole_list(temperature: float) -> None:
    logits, student = a_student(ROWS, 9, dtype=torch.float32, seed=3), a_student(ROWS, 11).requires_grad_()
    targets, gold = whole(logits), torch.tensor([0, 8, 3, 5, 1, 7])
    expected = reference_plackett_luce(targets, student, gold, temperature)
    found = plackett_luce(student, targets, gold, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    (reference,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


def test_the_first_term_of_plackett_luce_is_a_weighted_cross_entropy() -> None:
    targets, student = targets_with("latent alone"), a_student(ROWS, VOCABULARY)
    weights = dense_logprobs(targets, 2.0).double().gather(1, GOLD[:, None])[:, 0].exp()
    found = plackett_luce(student, targets, GOLD, temperature=2.0, listed=0)
    torch.testing.assert_close(found, weights * cross_entropy(student, GOLD))
    torch.testing.assert_close(
        plackett_luce(student, targets, GOLD, listed=64), plackett_luce(student, targets, GOLD, listed=VOCABULARY)
    )


def test_what_plackett_luce_drops_weighs_no_more_than_the_tail() -> None:
    logits, student = 3 * a_student(ROWS, 9, dtype=torch.float32, seed=3), a_student(ROWS, 9)
    logprobs, ids = torch.log_softmax(logits, -1).topk(4)
    tail = torch.log1p(-logprobs.exp().sum(-1))
    gold = ids[:, 1]
    dropped = plackett_luce(student, whole(logits), gold) - plackett_luce(
        student, Targets(ids, logprobs, tail, FixedTail.uniform(9)), gold
    )
    most = (student.amax(-1) - student.amin(-1)) + math.log(9)
    assert (dropped >= -1e-6).all()
    assert (dropped <= tail.exp() * most + 1e-6).all()
