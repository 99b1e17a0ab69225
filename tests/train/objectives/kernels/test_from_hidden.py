"""The loss from hidden states against the loss from logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from logitstore.models.head import LinearHead
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.weighted_sum import distillation_loss
from tests.parts.largest import Largest
from tests.parts.targets import targets_of


def slope(function: Callable[[], Tensor], leaf: Tensor, step: float = 1e-6) -> Tensor:
    """d function / d leaf by central differences, float64."""
    found = torch.zeros_like(leaf)
    with torch.no_grad():
        for place in range(leaf.numel()):
            value = leaf.view(-1)[place].item()
            leaf.view(-1)[place] = value + step
            above = function().item()
            leaf.view(-1)[place] = value - step
            found.view(-1)[place] = (above - function().item()) / (2 * step)
            leaf.view(-1)[place] = value
    return found


def test_gradients_are_the_slopes_of_the_losses() -> None:
    targets = targets_of("prior", rows=4, k=3, vocabulary=9)
    gold, rows = torch.tensor([0, 8, 3, 3]), torch.tensor([0, 1, 3, 5])
    loss = distillation_loss(targets, gold, alpha=0.6, temperature=2.0, dtype=torch.float64)
    sizes = {"logits": (6, 9), "hidden": (6, 5), "weight": (9, 5), "bias": (9,)}
    leaf = {name: torch.randn(*size, dtype=torch.float64, requires_grad=True) for name, size in sizes.items()}
    head, weights = LinearHead(leaf["weight"], leaf["bias"], 1.5, 4.0), torch.rand(4, dtype=torch.float64)

    def plain() -> Tensor:
        return 0.7 * from_logits(loss, leaf["logits"], rows, 0.5)[0]

    def fused() -> Tensor:
        return 3 * from_hidden(loss, leaf["hidden"], head, rows, weights, block=3)[0]

    for function, names in ((plain, ["logits"]), (fused, ["hidden", "weight", "bias"])):
        function().backward()
        for name in names:
            torch.testing.assert_close(leaf[name].grad, slope(function, leaf[name]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize(("multiplier", "cap", "has_bias"), [(1.0, 0.0, False), (0.5, 3.0, True), (2.0, 0.0, True)])
@pytest.mark.parametrize("weighting", ["one", "each"])
def test_the_fused_head_gives_what_its_logits_give(
    dtype: torch.dtype, block: int, multiplier: float, cap: float, has_bias: bool, weighting: str
) -> None:
    targets = targets_of("latent", rows=11, k=4, vocabulary=23)
    gold, rows = torch.randint(23, (11,)), torch.tensor([0, 1, 2, 4, 5, 6, 7, 9, 10, 12, 13])
    parameter = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = [torch.randn(*size, dtype=parameter, requires_grad=True) for size in ((14, 6), (23, 6), (23,))]
    hidden, weight, bias = leaves
    head = LinearHead(weight, bias if has_bias else None, multiplier, cap)
    weights = 0.25 if weighting == "one" else torch.rand(11)
    loss = distillation_loss(targets, gold, alpha=0.5, temperature=2.0, dtype=parameter)
    logits = (hidden.to(dtype) @ weight.to(dtype).T).to(parameter) + (bias if has_bias else 0)
    logits = cap * torch.tanh(multiplier * logits / cap) if cap else multiplier * logits
    expected, expected_lines = from_logits(loss, logits, rows, weights)
    used = leaves if has_bias else leaves[:2]
    references = torch.autograd.grad(expected * 3, used)
    found, lines = from_hidden(loss, hidden, head, rows, weights, dtype=dtype, block=block)
    gradients = torch.autograd.grad(found * 3, used)
    close = {"rtol": 3e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(lines, expected_lines, **close)
    for gradient, reference in zip(gradients, references, strict=True):
        assert gradient.dtype == parameter
        torch.testing.assert_close(gradient, reference, **close)


@pytest.mark.parametrize("tail", ["prior", "latent"])
def test_the_fused_loss_never_holds_all_logits(tail: str) -> None:
    rows, vocabulary, width = 200, 500, 4
    targets = targets_of(tail, rows, 4, vocabulary)
    hidden, weight = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    loss = distillation_loss(targets, torch.zeros(rows).long(), alpha=0.5, temperature=2.0)
    with Largest() as largest:
        from_hidden(loss, hidden, LinearHead(weight), torch.arange(rows), block=16)[0].backward()
    assert largest.elements <= 16 * vocabulary
    with Largest() as whole:
        from_logits(loss, hidden @ weight.T, torch.arange(rows))[0].backward()
    assert whole.elements == rows * vocabulary
