"""What a run minimises: terms, weights that change, and rows that must stay together."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from logitstore.core.schedule import Schedule
from logitstore.models.head import LinearHead
from logitstore.train.objectives import cross_entropy, forward_kl, reverse_kl
from logitstore.train.objectives.criterion import Criterion, FeatureTerm, RowTerm
from logitstore.train.objectives.features.feature import Shapes, Sides
from logitstore.train.objectives.features.match import Match
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from tests.parts.targets import targets_of

ROWS, VOCABULARY = 11, 23


def told(criterion: Criterion, logits_NV: Tensor, done: float) -> tuple[Tensor, list[str]]:
    """The loss of every row, and the names of its lines."""
    targets = targets_of("prior", ROWS, 4, VOCABULARY)
    loss = criterion.row_loss(targets, torch.arange(ROWS), done)
    return loss(logits_NV.clone(), slice(0, ROWS), 1.0)[0], loss.names


@pytest.mark.parametrize("done", [0.0, 0.4, 1.0])
def test_a_loss_is_the_sum_of_its_terms_at_the_weights_of_the_moment(done: float) -> None:
    criterion = Criterion.mixed(
        "forward_kl",
        alpha="linear(1, 0.5)",
        temperature="cosine(4, 1)",
        rows=[RowTerm(name="reverse_kl", label="reverse_kl", weight=Schedule.of("warmup(2, 0.5)"))],
    )
    logits = torch.randn(ROWS, VOCABULARY)
    targets, gold = targets_of("prior", ROWS, 4, VOCABULARY), torch.arange(ROWS)
    alpha, temperature = 1 - 0.5 * done, Schedule.of("cosine(4, 1)").at(done)
    expected = (
        alpha * forward_kl(logits, targets, temperature=temperature)
        + (1 - alpha) * cross_entropy(logits, gold)
        + 2 * min(done / 0.5, 1) * reverse_kl(logits, targets)
    )
    found, names = told(criterion, logits, done)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert names == ["kl", "cross_entropy", "reverse_kl"]


def test_terms_that_never_weigh_anything_are_not_computed() -> None:
    assert told(Criterion.mixed(alpha=1.0), torch.randn(ROWS, VOCABULARY), 0.0)[1] == ["kl"]
    criterion = Criterion.mixed("reverse_kl", alpha=0.0)
    assert not criterion.needs_targets
    assert criterion.row_loss(None, torch.arange(ROWS), 0.0).names == ["cross_entropy"]
    with pytest.raises(ValueError, match="without targets"):
        Criterion.mixed().row_loss(None, torch.arange(ROWS), 0.0)


GROUPS = {"dist": 64, "sinkhorn": 16}


@pytest.mark.parametrize("names", [["dist"], ["sinkhorn"], ["dist", "sinkhorn"], ["sinkhorn", "reverse_kl"]])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_rows_that_are_compared_stay_together_from_logits_and_from_hidden_states(
    names: list[str], is_weighted: bool
) -> None:
    """As many as each objective says, wherever they lie among the positions, whatever the block and what each row counts."""
    rows, positions, width = 150, 240, 7
    targets = targets_of("prior", rows, 4, VOCABULARY)
    terms = [
        RowTerm(name=name, label=name, weight=Schedule.of(weight))
        for name, weight in zip(names, (0.5, 3.0), strict=False)
    ]
    loss = Criterion(terms).row_loss(targets, torch.zeros(rows, dtype=torch.int64), 0.0)
    draw = torch.Generator().manual_seed(0)
    places = torch.randperm(positions, generator=draw)[:rows].sort().values
    hidden = torch.randn(positions, width, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(VOCABULARY, width, generator=draw, dtype=torch.float64).requires_grad_()
    # within a group every row's logits have a part in every row's loss
    weights = torch.tensor([2.0, 0.0, 0.5]).repeat(rows // 3) if is_weighted else torch.ones(rows)
    student, expected = (hidden @ weight.T)[places], torch.zeros(rows, dtype=torch.float64)
    for term in terms:
        assert term.method is not None
        size = GROUPS.get(term.name, rows)
        parts = [slice(first, first + size) for first in range(0, rows, size)]
        own = torch.cat([term.method.function(student[part], targets[part], temperature=1.0) for part in parts])
        expected = expected + term.weight_at(0.0) * own
    gradients = torch.autograd.grad((weights * expected).sum(), (hidden, weight))
    ways = [
        lambda: from_logits(loss, hidden @ weight.T, places, weights),
        lambda: from_logits(loss, hidden @ weight.T, places, weights, in_place=True),
        *(
            partial(from_hidden, loss, hidden, LinearHead(weight), places, weights, block=size)
            for size in (1, 100, 999)
        ),
    ]
    for way in ways:
        total, lines = way()
        torch.testing.assert_close(lines[0], expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(total, (weights * expected).sum(), rtol=1e-5, atol=1e-6)
        for found, gradient in zip(torch.autograd.grad(total, (hidden, weight)), gradients, strict=True):
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("is_balanced", [False, True])
def test_a_balanced_pull_on_features_is_as_heavy_as_the_pulls_on_logits(is_balanced: bool) -> None:
    shapes = Shapes(student_layers=1, teacher_layers=1, widths_student={"final": 5}, widths_teacher={"final": 6})
    term = FeatureTerm(label="match", weight=Schedule.of("linear(1, 3)"), module=Match(shapes), is_balanced=is_balanced)
    criterion = Criterion.mixed(features=[term])
    assert len(list(criterion.parameters())) == 1
    sides = Sides(
        student={"final": torch.randn(4, 5)},
        teacher={"final": torch.randn(4, 6)},
        counts_M=torch.tensor([4]),
        gold_N=torch.zeros(4, dtype=torch.int64),
        mask_N=torch.tensor([True, True, False, True]),
    )
    weights, main = torch.tensor([0.5, 0.25, 0.0, 0.25]), torch.tensor(7.0)
    ((label, weight, loss),) = criterion.feature_losses([sides], main, weights, 0.5)
    assert label == "match"
    heavy = weight * (weights * loss).sum()
    assert heavy.item() == pytest.approx(2 * (7.0 if is_balanced else (weights * loss).sum().item()))
    heavy.backward()
    assert all(parameter.grad is not None for parameter in criterion.parameters())
