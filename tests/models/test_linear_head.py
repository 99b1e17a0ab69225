"""The one formula of a linear head, compared with a float64 reference wherever it is used."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from logitstore.errors import ModelError
from logitstore.models.head import LinearHead
from logitstore.train.objectives import LatentTail, from_hidden

CASES = {
    "none": (False, 1.0, 0.0),
    "bias": (True, 1.0, 0.0),
    "multiplier": (False, 0.25, 0.0),
    "cap": (False, 1.0, 3.0),
    "bias and multiplier": (True, 0.25, 0.0),
    "bias and cap": (True, 1.0, 3.0),
    "multiplier and cap": (False, 0.25, 3.0),
    "all": (True, 0.25, 3.0),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[LinearHead, Tensor, Tensor]:
    """A head, the hidden states of a few rows, and their logits in float64."""
    has_bias, multiplier, cap = CASES[request.param]
    draw = torch.Generator().manual_seed(0)
    weight_VD, bias_V = torch.randn(11, 5, generator=draw), 4 * torch.randn(11, generator=draw)
    hidden_ND = 2 * torch.randn(6, 5, generator=draw)
    logits_NV = hidden_ND.double() @ weight_VD.double().T
    if has_bias:
        logits_NV = logits_NV + bias_V.double()
    logits_NV = multiplier * logits_NV
    if cap:
        logits_NV = cap * torch.tanh(logits_NV / cap)
    return LinearHead(weight_VD, bias_V if has_bias else None, multiplier, cap), hidden_ND, logits_NV


def test_the_cases_differ() -> None:
    """So that no term of the formula is without effect in the tests below."""
    settings = list(CASES.values())
    draw = torch.Generator().manual_seed(1)
    weight_VD, bias_V, hidden_ND = (torch.randn(*size, generator=draw) for size in ((11, 5), (11,), (6, 5)))
    logits = [
        LinearHead(weight_VD, bias_V if has_bias else None, multiplier, cap).logits(hidden_ND)
        for has_bias, multiplier, cap in settings
    ]
    assert all(not torch.allclose(one, other) for i, one in enumerate(logits) for other in logits[:i])


def test_a_teacher_s_head_gives_the_logits_of_the_formula(case: tuple[LinearHead, Tensor, Tensor]) -> None:
    head, hidden_ND, expected_NV = case
    torch.testing.assert_close(head.logits(hidden_ND).double(), expected_NV, rtol=1e-5, atol=1e-5)


def test_a_head_in_bfloat16_is_computed_in_float32(case: tuple[LinearHead, Tensor, Tensor]) -> None:
    head, hidden_ND, _ = case
    bias_V = None if head.bias_V is None else head.bias_V.bfloat16()
    narrow = replace(head, weight_VD=head.weight_VD.bfloat16(), bias_V=bias_V)
    wide = replace(head, weight_VD=narrow.weight_VD.float(), bias_V=None if bias_V is None else bias_V.float())
    assert torch.equal(narrow.logits(hidden_ND), wide.logits(hidden_ND))


def test_a_loss_is_given_the_logits_of_the_formula(case: tuple[LinearHead, Tensor, Tensor]) -> None:
    head, hidden_ND, expected_NV = case
    seen = []

    class Seen:
        together = None

        def __call__(self, logits_nV: Tensor, some: slice, scale: Tensor | float) -> Tensor:
            seen.append(logits_nV.clone())
            return torch.zeros(1, len(logits_nV))

    from_hidden(Seen(), hidden_ND, head, torch.arange(len(hidden_ND)), block=4)
    torch.testing.assert_close(torch.cat(seen).double(), expected_NV, rtol=1e-5, atol=1e-5)


def test_a_tail_adds_its_shift_to_the_logits_of_the_formula(case: tuple[LinearHead, Tensor, Tensor]) -> None:
    head, hidden_ND, expected_NV = case
    shift_V = torch.linspace(-5, 5, head.vocabulary)
    found_NV = LatentTail(head, shift_V).logits(hidden_ND, len(hidden_ND), hidden_ND.device)
    torch.testing.assert_close(found_NV.double(), expected_NV + shift_V, rtol=1e-5, atol=1e-5)


def test_the_head_that_is_stored_has_no_multiplier_and_gives_the_same_logits(
    case: tuple[LinearHead, Tensor, Tensor],
) -> None:
    head, hidden_ND, expected_NV = case
    assert head.base_V.dtype == torch.float32
    stored = LinearHead(head.scaled_weight_VD, head.base_V, cap=head.cap)
    torch.testing.assert_close(stored.logits(hidden_ND).double(), expected_NV, rtol=1e-5, atol=1e-5)


def test_a_head_is_taken_with_or_without_its_multiplier_as_the_model_s_own_logits_say(
    case: tuple[LinearHead, Tensor, Tensor],
) -> None:
    head, hidden_ND, expected_NV = case
    assert head.matching("Some", hidden_ND, expected_NV.float()) is head
    plain = replace(head, multiplier=1.0)
    assert head.matching("Some", hidden_ND, plain.logits(hidden_ND)).multiplier == 1
    with pytest.raises(ModelError, match="Some: its logits differ"):
        head.matching("Some", hidden_ND, expected_NV.float() + 0.1)
