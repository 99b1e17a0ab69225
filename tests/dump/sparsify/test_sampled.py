"""Random samples of a distribution are right on average and depend on the sample alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.dump.sparsify.reduce import RowReducer, sparsifier_of
from logitstore.errors import BadInput
from logitstore.targets.rows import RowChunk
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import SampledTargets, Targets
from logitstore.text.lines.shown import collate
from logitstore.text.sample import Sample
from logitstore.train.objectives import forward_kl, jensen_shannon, reverse_kl
from tests.parts.kept_rows import numbers_for, row_for, teacher_logits, through


def sample(k: int, exponent: float) -> tuple[SampledTargets, Targets, Tensor]:
    """Many random samples of one row, the same with the listed logprobs renormalised, and the true probabilities."""
    row = row_for("hybrid" if k else "sampled", 12, draws=4, exponent=exponent, **({"k": k} if k else {}))
    rows = 5000
    logits = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(7)).expand(rows, -1)
    kept = sparsifier_of(row)(logits, torch.zeros(rows, dtype=torch.int64), numbers_for(row, rows))
    found = through(row, kept)
    assert isinstance(found, SampledTargets)
    renormalised = torch.log_softmax(kept["logprobs"], -1)
    naive = Targets(kept["ids"], renormalised, torch.full((rows,), -torch.inf), FixedTail.uniform(12))
    return found, naive, torch.softmax(logits[0].double(), -1)


def deviations(values_NF: Tensor, true_F: Tensor) -> Tensor:
    """How many standard errors the means are from where they should be."""
    error_F = values_NF.std(0) / math.sqrt(len(values_NF))
    return ((values_NF.mean(0) - true_F) / error_F.clamp(min=1e-7)).abs()


@pytest.mark.parametrize("exponent", [1.0, 0.7])
@pytest.mark.parametrize("k", [0, 3])
def test_samples_and_their_gradients_are_right_on_average_and_renormalised_ones_are_not(
    k: int, exponent: float
) -> None:
    found, naive, probs_V = sample(k, exponent)
    functions_FV = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    functions_FV[0], functions_FV[1] = probs_V.log(), 1.0
    student_V = 2 * functions_FV[2]
    for targets, weights_NK, is_right in ((found, found.weights_NK, True), (naive, naive.logprobs_NK.exp(), False)):
        values_NF = (weights_NK.double() * functions_FV[:, found.ids_NK]).sum(-1).T
        assert (deviations(values_NF, functions_FV @ probs_V).max().item() < 4) == is_right
        student_NV = student_V.repeat(len(found), 1).requires_grad_()
        (gradient_NV,) = torch.autograd.grad(forward_kl(student_NV, targets).sum(), student_NV)
        assert (deviations(gradient_NV, torch.softmax(student_V, -1) - probs_V).max().item() < 4) == is_right


def test_samples_are_refused_where_they_say_nothing() -> None:
    targets, _, _ = sample(0, 1.0)
    student = torch.zeros(len(targets), 12)
    with pytest.raises(BadInput, match="temperature 2"):
        forward_kl(student, targets, temperature=2.0)
    for objective in (reverse_kl, jensen_shannon):
        with pytest.raises(BadInput, match="random samples"):
            objective(student, targets)


@given(order=st.permutations(range(4)), chunk=st.integers(1, 9))
def test_draws_depend_on_the_sample_and_not_on_its_batch(order: list[int], chunk: int) -> None:
    keep = RowReducer.of(row_for("hybrid", 20, k=2, draws=3), {}, None)
    logits = [teacher_logits(rows, 20, seed=rows) for rows in (1, 4, 2, 3)]
    samples = [
        Sample(key=f"{index + 40:032x}", tokens_T=np.zeros(rows + 1), mask_T=np.arange(rows + 1) < rows, document=0)
        for index, rows in enumerate(map(len, logits))
    ]

    def kept_of(some: list[int], chunk: int) -> dict[int, Tensor]:
        batch = collate(samples, some)
        logits_NV = torch.cat([logits[index] for index in some])
        spans = [slice(first, min(first + chunk, len(logits_NV))) for first in range(0, len(logits_NV), chunk)]
        found = [
            keep(batch, RowChunk(span=span, logits_nV=logits_NV[span], hidden_nD=None, gold_n=batch.gold_N[span]))
            for span in spans
        ]
        return dict(zip(some, torch.cat([each["ids"] for each in found]).split(batch.counts), strict=True))

    together = kept_of(order, chunk)
    assert all(torch.equal(together[index], kept_of([index], 100)[index]) for index in range(4))
