"""Sketches of hidden states tend to the head, and spend their bits best."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot, allocate, project
from logitstore.format.codecs.codebook import lloyd_max
from logitstore.format.row import RowInfo
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs
from tests.parts.kept_rows import listed_targets, row_for


def kl_of_sketches(head: LinearHead, sizes: list[int]) -> tuple[list[float], float]:
    """Mean KL of rows that were not in the pilot, by bytes, and with the prior instead."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(700, head.width, generator=generator) * torch.linspace(2, 0.3, head.width)
    logits = head.logits(hidden)
    plain, gold = row_for("topk", 200, k=4), torch.zeros(700, dtype=torch.int64)
    kept = sparsifier_of(plain)(logits, gold)
    pilot = TailPilot(200, head)
    for rows in (slice(0, 150), slice(150, 500)):
        pilot.add(logits[rows], kept["ids"][rows], hidden[rows])
    fresh, true = {name: value[500:] for name, value in kept.items()}, torch.log_softmax(logits[500:].double(), -1)

    def kl(row: RowInfo, shared: dict[str, Tensor], latent: dict[str, Tensor]) -> float:
        found = dense_logprobs(listed_targets(row, fresh | latent, shared)).double()
        return float((true.exp() * (true - found)).sum(1).mean())

    found = []
    for size in sizes:
        shared = pilot.sketch(size)
        row = row_for("topk", 200, k=4, tail="sketch", sketch_bytes=size)
        found.append(kl(row, shared, {"latent": project(shared, hidden[500:])}))
    return found, kl(row_for("topk", 200, k=4, tail="prior"), {"prior": pilot.prior()}, {})


@pytest.mark.parametrize(
    ("multiplier", "bias", "cap"), [(1.0, 0.0, 0.0), (1.0, 0.0, 5.0), (1.0, 1.0, 0.0), (0.5, 0.3, 4.0)]
)
def test_a_sketch_tends_to_the_head_as_its_bytes_grow(multiplier: float, bias: float, cap: float) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = 0.5 * torch.randn(200, 12, generator=generator) / multiplier
    found, prior = kl_of_sketches(
        LinearHead(weight, bias * torch.randn(200, generator=generator), multiplier, cap), [1, 2, 4, 8, 12]
    )
    assert found == sorted(found, reverse=True)
    assert found[0] < prior
    assert 0 <= found[-1] < 2e-3


@given(
    variances=st.lists(st.floats(0, 10), min_size=1, max_size=4).map(lambda found: sorted(found, reverse=True)),
    bits=st.integers(1, 12),
)
def test_no_other_allocation_loses_less(variances: list[float], bits: int) -> None:
    lost = [lloyd_max(width)[1] for width in range(9)]
    found = allocate(variances, bits)
    assert sum(found) <= bits
    assert all(1 <= width <= 8 for width in found)
    rest = [*found, *[0] * (len(variances) - len(found))]
    choices = itertools.product(range(min(bits, 8) + 1), repeat=len(variances))
    best = min(sum(v * lost[b] for v, b in zip(variances, c, strict=True)) for c in choices if sum(c) <= bits)
    assert sum(v * lost[b] for v, b in zip(variances, rest, strict=True)) <= best * (1 + 1e-9) + 1e-12
