"""Answered rows and gold tokens alone in one pass, against each kind by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from logitstore.models.head import LinearHead
from logitstore.train.objectives.kernels.beside import Beside
from logitstore.train.objectives.kernels.by_autograd import ByAutograd, Term
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.target import gold_target
from logitstore.train.objectives.kernels.weighted_sum import Pull, WeightedSum, distillation_loss
from tests.parts.targets import targets_of

ROWS, OTHERS, VOCABULARY = 7, 9, 23


def answered_by(kind: str, gold: Tensor) -> WeightedSum | ByAutograd:
    targets = targets_of("prior", rows=ROWS, k=4, vocabulary=VOCABULARY)
    loss = distillation_loss(targets, gold, alpha=0.6, temperature=2.0, dtype=torch.float64)
    if kind == "closed form":
        return loss

    def spread(logits_nV: Tensor, some: slice) -> Tensor:
        return (logits_nV - logits_nV.mean(0)).square().mean(1) + some.start

    return ByAutograd(
        [
            Term("kl", 0.6, spread, 3),
            Term(
                "cross_entropy",
                0.4,
                lambda z_nV, some: torch.nn.functional.cross_entropy(z_nV, gold[some], reduction="none"),
            ),
        ]
    )


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("kind", ["closed form", "rows together"])
def test_it_is_the_sum_of_both_with_the_gradient_of_both(kind: str, block: int) -> None:
    draw = torch.Generator().manual_seed(1)
    gold = torch.randint(VOCABULARY, (ROWS + OTHERS,), generator=draw)
    weights = torch.rand(ROWS + OTHERS, generator=draw, dtype=torch.float64)
    answered = answered_by(kind, gold[:ROWS])
    alone = WeightedSum([Pull("cross_entropy", 0.4, 1.0, gold_target(gold[ROWS:], torch.float64))])
    both = Beside(answered=answered, rows=ROWS, gold=alone)
    places = torch.randperm(20, generator=draw)[: ROWS + OTHERS]
    shapes = {"hidden": (20, 5), "weight": (VOCABULARY, 5), "bias": (VOCABULARY,), "logits": (20, VOCABULARY)}
    found, expected = (
        {
            name: torch.randn(
                *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True
            )
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )
    head, other = (LinearHead(leaf["weight"], leaf["bias"], 1.5, 4.0) for leaf in (found, expected))
    total, lines = from_hidden(both, found["hidden"], head, places, weights, block=block)
    plain, same = from_logits(both, found["logits"], places, weights, chunk=block)
    (total + plain).backward()
    apart = []
    for loss, some in ((answered, slice(0, ROWS)), (alone, slice(ROWS, None))):
        apart.append(from_hidden(loss, expected["hidden"], other, places[some], weights[some])[0])
        apart.append(from_logits(loss, expected["logits"], places[some], weights[some])[0])
    torch.stack(apart).sum().backward()
    torch.testing.assert_close(total + plain, torch.stack(apart).sum())
    for name, leaf in found.items():
        torch.testing.assert_close(leaf.grad, expected[name].grad)
    assert lines.shape == same.shape == (1 + len(answered.names), ROWS + OTHERS)
    at = 1 + both.names.index("cross_entropy")
    torch.testing.assert_close(lines[0, ROWS:], 0.4 * lines[at, ROWS:])
    assert (lines[1 + both.names.index("kl"), ROWS:] == 0).all()
