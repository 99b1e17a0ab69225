"""Codes chosen for the row lower its own error, and rows that leave nothing to choose keep the nearest levels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.rounding import codes
from logitstore.dump.sparsify.rounding.codes import Rounding, rounding_of
from logitstore.dump.sparsify.sketch import TailPilot, project
from logitstore.format.codecs.codebook import Codebook
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs
from tests.parts.kept_rows import listed_targets, row_for

VOCABULARY, WIDTH, FITTED, K, BYTES = 300, 12, 500, 4, 3


@dataclass(frozen=True)
class Case:
    """A sketch that was fitted on some rows, and others."""

    head: LinearHead
    shared: dict[str, Tensor]
    hidden_ND: Tensor

    @property
    def logits_NV(self) -> Tensor:
        return self.head.logits(self.hidden_ND)

    @property
    def latent_NR(self) -> Tensor:
        return project(self.shared, self.hidden_ND)


@cache
def case_of(cap: float = 0.0) -> Case:
    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(VOCABULARY, WIDTH, generator=generator), torch.zeros(VOCABULARY), cap=cap)
    hidden_ND = torch.randn(FITTED + 60, WIDTH, generator=generator) * torch.linspace(1.2, 0.3, WIDTH)
    logits_NV = head.logits(hidden_ND[:FITTED])
    pilot = TailPilot(VOCABULARY, head)
    pilot.add(logits_NV, kept_of(logits_NV)["ids"], hidden_ND[:FITTED])
    return Case(head, pilot.sketch(BYTES), hidden_ND[FITTED:])


def kept_of(logits_NV: Tensor, k: int = K) -> dict[str, Tensor]:
    sparsifier = sparsifier_of(row_for("topk", VOCABULARY, k=k))
    kept: dict[str, Tensor] = sparsifier(logits_NV, torch.zeros(len(logits_NV), dtype=torch.int64))
    return kept


def nearest_of(rounding: Rounding, shared: dict[str, Tensor], latent_NR: Tensor) -> Tensor:
    numbers_NR = rounding.nearest(latent_NR)
    return torch.stack([levels[numbers] for levels, numbers in zip(shared["levels"], numbers_NR.T, strict=True)], 1)


def divergences(case: Case, kept: dict[str, Tensor], latent_NR: Tensor, temperature: float) -> Tensor:
    row = row_for("topk", VOCABULARY, k=K, tail="sketch", sketch_bytes=BYTES)
    stored_NV = dense_logprobs(listed_targets(row, kept | {"latent": latent_NR}, case.shared)).double()
    true_NV, own_NV = (torch.log_softmax(each / temperature, -1) for each in (case.logits_NV.double(), stored_NV))
    return (true_NV.exp() * (true_NV - own_NV)).sum(-1)


@pytest.mark.parametrize("cap", [0.0, 4.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_stored_rows_are_nearer_to_the_teacher(cap: float, temperature: float) -> None:
    case = case_of(cap)
    kept, rounding = kept_of(case.logits_NV), Rounding(case.shared)
    chosen_NR = rounding(case.logits_NV, kept, case.latent_NR)
    found_N = divergences(case, kept, chosen_NR, temperature)
    assert found_N.mean() < divergences(case, kept, case.latent_NR, temperature).mean()


def test_what_is_chosen_is_stored_as_it_is() -> None:
    case = case_of()
    chosen_NR = Rounding(case.shared)(case.logits_NV, kept_of(case.logits_NV), case.latent_NR)
    codec = Codebook(tuple(case.shared["widths"].tolist()), case.shared["levels"].numpy())
    np.testing.assert_array_equal(codec.decode(codec.encode(chosen_NR.numpy())), chosen_NR.numpy())
    assert (chosen_NR != nearest_of(Rounding(case.shared), case.shared, case.latent_NR)).any()


@pytest.mark.parametrize("cap", [0.0, 4.0])
def test_the_model_is_that_of_the_formula(cap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, token by token; one row has an impossible token, one an empty slot."""
    monkeypatch.setattr(codes, "SEEN", VOCABULARY)
    case, count = case_of(cap), 6
    logits_NV, shared = case.logits_NV[:count].clone(), {name: each.double() for name, each in case.shared.items()}
    listed_NK = logits_NV.topk(K).indices
    listed_NK[1, -1] = VOCABULARY
    logits_NV[2, logits_NV[2].argmin()] = -torch.inf
    rounding = Rounding(case.shared)
    latent_NR = nearest_of(rounding, case.shared, case.latent_NR[:count])
    gradient_NR, hessian_NRR = rounding.model(logits_NV, listed_NK, latent_NR)
    for n in range(count):
        tail = [v for v in range(VOCABULARY) if v not in listed_NK[n].tolist()]
        raw_v = shared["weight"][tail] @ latent_NR[n].double() + shared["base"][tail]
        slopes_vR = shared["weight"][tail]
        if cap:
            slopes_vR = slopes_vR / torch.cosh(raw_v / cap).square()[:, None]
            raw_v = cap * torch.tanh(raw_v / cap)
        p_V = torch.softmax(logits_NV[n].double(), 0)
        q_V = p_V.clone()
        q_V[tail] = torch.softmax(raw_v + shared["bias"][tail], 0) * p_V[tail].sum()
        weight_v = sum(
            share / (2 * T**2) * ((p_V ** (1 / T) / (p_V ** (1 / T)).sum()) + q_V ** (1 / T) / (q_V ** (1 / T)).sum())[tail]
            for T, share in zip((1, 2), codes.SHARES, strict=True)
        )  # fmt: skip
        error_v = (q_V.log() - p_V.log())[tail].clamp(-codes.WORST, codes.WORST)
        centred_v = error_v - (weight_v * error_v).sum() / weight_v.sum()
        centred_vR = slopes_vR - (weight_v[:, None] * slopes_vR).sum(0) / weight_v.sum()
        torch.testing.assert_close(gradient_NR[n].double(), (weight_v * centred_v) @ centred_vR, rtol=1e-3, atol=1e-5)
        expected_RR = centred_vR.T @ (weight_v[:, None] * centred_vR)
        torch.testing.assert_close(hessian_NRR[n].double(), expected_RR, rtol=1e-3, atol=1e-5)


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 30), size=st.integers(1, 20), scale=st.sampled_from([0.0, 0.1, 1.0, 10.0]))
def test_no_row_gets_worse_and_no_single_move_is_left(seed: int, size: int, scale: float) -> None:
    case, generator = case_of(), torch.Generator().manual_seed(seed)
    rounding, levels_RL = Rounding(case.shared), case.shared["levels"].double()
    latent_NR = torch.randn(size, len(levels_RL), generator=generator)
    root_NRR = torch.randn(size, len(levels_RL), len(levels_RL) + 2, generator=generator)
    hessian_NRR, gradient_NR = root_NRR @ root_NRR.mT, scale * torch.randn(latent_NR.shape, generator=generator)
    before_NR = rounding.nearest(latent_NR)
    after_NR = rounding.descend(gradient_NR, hessian_NRR, before_NR)

    def change(numbers_R: Tensor, n: int) -> float:
        every = torch.arange(len(levels_RL))
        move_R = levels_RL[every, numbers_R] - levels_RL[every, before_NR[n]]
        return float(gradient_NR[n].double() @ move_R + move_R @ hessian_NRR[n].double() @ move_R / 2)

    for n in range(size):
        found = change(after_NR[n], n)
        assert found <= 1e-6
        for place, width in enumerate(case.shared["widths"].tolist()):
            for step in (-1, 1):
                moved_R = after_NR[n].clone()
                moved_R[place] += step
                if 0 <= moved_R[place] < 2**width:
                    assert change(moved_R, n) >= found - 1e-4 * (1 + abs(found))


def test_rows_that_the_levels_can_say_keep_them() -> None:
    case = case_of()
    rounding = Rounding(case.shared)
    exact_NR = nearest_of(rounding, case.shared, case.latent_NR)
    logits_NV = exact_NR @ case.shared["weight"].float().T + case.shared["base"] + case.shared["bias"]
    assert torch.equal(rounding(logits_NV, kept_of(logits_NV), exact_NR), exact_NR)


def test_rows_without_a_tail_keep_the_nearest_levels() -> None:
    case = case_of()
    rounding = Rounding(case.shared)
    nearest_NR = nearest_of(rounding, case.shared, case.latent_NR)
    everything = kept_of(case.logits_NV, VOCABULARY)
    assert torch.equal(rounding(case.logits_NV, everything, case.latent_NR), nearest_NR)
    masked_NV = torch.full_like(case.logits_NV, -torch.inf).scatter_(1, kept_of(case.logits_NV)["ids"], 1.0)
    assert torch.equal(rounding(masked_NV, kept_of(masked_NV), case.latent_NR), nearest_NR)
    none_NR = rounding(case.logits_NV[:0], kept_of(case.logits_NV[:0]), case.latent_NR[:0])
    assert none_NR.shape == (0, nearest_NR.shape[1])


def test_half_precision_padding_and_the_count_of_rows_do_not_matter() -> None:
    case = case_of()
    logits_NV, rounding = case.logits_NV.bfloat16(), Rounding(case.shared)
    kept = kept_of(logits_NV)
    whole_NR = rounding(torch.nn.functional.pad(logits_NV, (0, 20), value=99.0), kept, case.latent_NR)
    assert torch.equal(rounding(logits_NV.float(), kept, case.latent_NR), whole_NR)
    for n in range(len(logits_NV)):
        one = {name: each[n : n + 1] for name, each in kept.items()}
        assert torch.equal(rounding(logits_NV[n : n + 1], one, case.latent_NR[n : n + 1])[0], whole_NR[n])


def test_only_sketches_are_rounded() -> None:
    case = case_of()
    assert rounding_of(row_for("topk", VOCABULARY, k=K, tail="prior"), {"prior": case.shared["prior"]}) is None
    assert rounding_of(row_for("topk", VOCABULARY, k=K, tail="sketch", sketch_bytes=BYTES), case.shared) is not None
