"""Directions of logits stand for a head that nobody knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from logitstore.dump.sparsify.directions import Directions
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.errors import ModelError
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.shared import latents_of
from logitstore.train.objectives import forward_kl
from tests.parts.kept_rows import listed_targets, row_for

ROWS, WIDTH, VOCABULARY = 900, 12, 200


def rows_of(seed: int = 0, cap: float = 0.0, dtype: torch.dtype = torch.float32) -> tuple[LinearHead, Tensor, Tensor]:
    """A head with a bias, hidden states whose channels vary by different amounts, and the logits, with five padding columns."""
    generator = torch.Generator().manual_seed(seed)
    weight_VD = 0.5 * torch.randn(VOCABULARY, WIDTH, generator=generator)
    head = LinearHead(weight_VD, torch.randn(VOCABULARY, generator=generator), cap=cap)
    hidden_ND = torch.randn(ROWS, WIDTH, generator=generator) * torch.linspace(2, 0.3, WIDTH)
    logits_NV = torch.cat([head.logits(hidden_ND), torch.full((ROWS, 5), 50.0)], 1)
    return head, hidden_ND, logits_NV.to(dtype)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_of_a_linear_head_they_are_as_many_as_it_is_wide_and_lose_nothing(shift: float) -> None:
    _, _, logits_NV = rows_of()
    found = Directions.of(logits_NV[:450] + shift * torch.randn(450, 1), VOCABULARY)
    assert found.rows == 400
    assert found.head.width == WIDTH or shift  # a large shift leaves rounding errors of float32 in every direction
    torch.testing.assert_close(
        found.head.weight_VD.T @ found.head.weight_VD, torch.eye(found.head.width), atol=1e-5, rtol=0
    )
    fresh_NV = logits_NV[450:, :VOCABULARY]
    said_NV = found.head.logits(found.hidden(logits_NV[450:] + shift))
    true = torch.log_softmax(fresh_NV.double(), -1)
    torch.testing.assert_close(torch.log_softmax(said_NV.double(), -1), true, atol=1e-3 if shift else 2e-5, rtol=0)
    assert found.left_out is not None
    assert max(found.left_out) < 1e-5


def sketches(
    logits_NV: Tensor, size: int, head: LinearHead | None, hidden_ND: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Decoded logprobs, float64[200, V], of the last rows, and the shared tensors; the others are the pilot."""
    plain, gold_N = row_for("topk", VOCABULARY, k=4), torch.zeros(ROWS, dtype=torch.int64)
    kept = sparsifier_of(plain)(logits_NV, gold_N)
    directions = Directions.of(logits_NV[:450], VOCABULARY) if head is None else None
    pilot = TailPilot(VOCABULARY, head or (directions and directions.head))
    for some in torch.arange(700).split(150):
        states = hidden_ND[some] if directions is None else directions.hidden(logits_NV[some])
        pilot.add(logits_NV[some], kept["ids"][some], states)
    shared = pilot.sketch(size)
    shared = shared if directions is None else directions.of_logits(shared)
    row = row_for("topk", VOCABULARY, k=4, tail="sketch", sketch_bytes=size)
    latent = latents_of(row, shared)(hidden_ND[700:] if directions is None else logits_NV[700:])
    fresh = {name: value[700:] for name, value in kept.items()} | {"latent": latent}
    return dense_logprobs(listed_targets(row, fresh, shared)).double(), shared


def test_the_sketch_is_that_of_the_head() -> None:
    """Both spend their bits on the same coefficients, up to signs and rounding, so they decode to the same tails."""
    head, hidden_ND, logits_NV = rows_of()
    with_head, one = sketches(logits_NV, 8, head, hidden_ND)
    without, other = sketches(logits_NV, 8, None, hidden_ND)
    assert one["widths"].tolist() == other["widths"].tolist()
    true = torch.log_softmax(logits_NV[700:, :VOCABULARY].double(), -1)
    first, second = ((true.exp() * (true - found)).sum(1).mean() for found in (with_head, without))
    assert second == pytest.approx(float(first), rel=0.02)
    # a coefficient at the edge of two levels may take either
    assert (with_head - without).abs().median() < 1e-3
    assert other["logit_projection"].shape == (VOCABULARY, len(other["widths"]))
    assert other["projection"].shape == (0, len(other["widths"]))


@pytest.mark.parametrize(("cap", "dtype"), [(6.0, torch.float32), (0.0, torch.bfloat16)])
def test_of_capped_and_rounded_logits_what_is_left_out_is_told(cap: float, dtype: torch.dtype) -> None:
    _, hidden_ND, logits_NV = rows_of(cap=cap, dtype=dtype)
    found = Directions.of(logits_NV[:112], VOCABULARY)  # 99 directions, of 199 that there are
    assert found.head.width > WIDTH
    assert found.left_out is not None
    assert 1e-7 < found.left_out[0] < 0.05
    decoded, _ = sketches(logits_NV, 8, None, hidden_ND)
    true = torch.log_softmax(logits_NV[700:, :VOCABULARY].double(), -1)
    assert (true.exp() * (true - decoded)).sum(1).mean() < 0.1


def test_logits_of_no_structure_are_told_to_have_none() -> None:
    logits_NV = 3 * torch.randn(300, VOCABULARY, generator=torch.Generator().manual_seed(0))
    left_out = Directions.of(logits_NV[:120], VOCABULARY).left_out
    assert left_out is not None
    assert left_out[0] > 0.5


def test_tokens_that_are_never_possible_stay_so() -> None:
    _, hidden_ND, logits_NV = rows_of()
    logits_NV[:, 7], logits_NV[:, 9] = -torch.inf, torch.finfo(torch.float32).min
    decoded, shared = sketches(logits_NV, 8, None, hidden_ND)
    assert all(value.isfinite().all() for value in shared.values())
    assert (decoded[:, [7, 9]] < -20).all()
    possible = torch.log_softmax(logits_NV[700:, :VOCABULARY].double(), -1)
    kl = torch.where(possible > -80, possible.exp() * (possible - decoded), 0.0).sum(1)
    assert kl.mean() < 0.05


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(torch.nan, "no numbers"), (torch.inf, "no numbers"), (None, "all rows of the pilot have the same")],
)
def test_logits_that_say_nothing_are_refused(spoil: float | None, says: str) -> None:
    _, _, logits_NV = rows_of()
    if spoil is None:
        logits_NV[:] = logits_NV[:1].clone()
    else:
        logits_NV[3, 5] = spoil
    with pytest.raises(ModelError, match=says):
        Directions.of(logits_NV[:100], VOCABULARY)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_gets_the_gradient_of_the_dense_formula(temperature: float) -> None:
    _, hidden_ND, logits_NV = rows_of()
    decoded_NV, shared = sketches(logits_NV, 8, None, hidden_ND)
    plain = sparsifier_of(row_for("topk", VOCABULARY, k=4))(logits_NV[700:], torch.zeros(200, dtype=torch.int64))
    row = row_for("topk", VOCABULARY, k=4, tail="sketch", sketch_bytes=8)
    targets = listed_targets(row, plain | {"latent": latents_of(row, shared)(logits_NV[700:])}, shared)
    student_NV = torch.randn(200, VOCABULARY, generator=torch.Generator().manual_seed(5)).requires_grad_()
    forward_kl(student_NV, targets, temperature=temperature).sum().backward()
    dense_NV = student_NV.detach().double().requires_grad_()
    # the bias counts less at higher temperatures, for unlisted tokens
    share_NV = (1 / temperature - 1) * shared["bias"].double().expand_as(decoded_NV)
    tempered_NV = decoded_NV + share_NV.scatter(1, plain["ids"], 0.0)
    p_NV = torch.log_softmax(tempered_NV / temperature, -1)
    s_NV = torch.log_softmax(dense_NV / temperature, -1)
    (temperature**2 * (p_NV.exp() * (p_NV - s_NV)).sum()).backward()
    assert student_NV.grad is not None
    assert dense_NV.grad is not None
    torch.testing.assert_close(student_NV.grad.double(), dense_NV.grad, atol=2e-5, rtol=1e-3)
