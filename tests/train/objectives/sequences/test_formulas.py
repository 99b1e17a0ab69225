"""Each objective on whole samples is its paper's formula, in plain Python; at its limits it is what it must be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.core.methods import METHODS
from logitstore.errors import BadInput
from logitstore.train.objectives.sequences.sequences import Sequences

NAMES = [name for name, method in METHODS.items() if method.form == "sequences"]


def some(seed: int = 0, pairs: int = 4, same: bool = False) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    student_M = -30 * torch.rand(2 * pairs, generator=generator, dtype=torch.float64) - 1
    reference_M = (
        student_M.clone() if same else -30 * torch.rand(2 * pairs, generator=generator, dtype=torch.float64) - 1
    )
    return Sequences(
        student_M=student_M,
        reference_M=reference_M,
        counts_M=torch.randint(1, 20, (2 * pairs,), generator=generator).double(),
        score_M=torch.randn(2 * pairs, generator=generator, dtype=torch.float64),
    )


def loss_of(name: str, given: Sequences, **options: Any) -> Tensor:
    loss_M: Tensor = METHODS[name].function(given, **options)
    return loss_M


def plain(name: str, given: Sequences, **options: float) -> list[float]:
    """The loss of every sample, one by one with `math`."""
    s, r, n, c = (getattr(given, each).tolist() for each in ("student_M", "reference_M", "counts_M", "score_M"))
    losses = []
    for i in range(len(s)):
        w, k = i - i % 2, i - i % 2 + 1
        margin = (s[w] - r[w]) - (s[k] - r[k])
        if name == "dpo":
            h, e = options["beta"] * margin, options.get("label_smoothing", 0.0)
            loss = (1 - e) * math.log(1 + math.exp(-h)) + e * math.log(1 + math.exp(h))
            losses.append(loss - options.get("likelihood_weight", 0.0) * s[w] / n[w])
        elif name == "ipo":
            losses.append((margin - 1 / (2 * options["beta"])) ** 2)
        elif name == "simpo":
            h = options["beta"] * (s[w] / n[w] - s[k] / n[k]) - options["margin"]
            losses.append(math.log(1 + math.exp(-h)))
        elif name == "redi":
            losses.append(-s[w] / n[w] + options["negative_weight"] * s[k] / n[k])
        else:
            above = c[i] - options["baseline"]
            losses.append(-(math.exp(above / options["beta"]) if "beta" in options else above) * s[i] / n[i])
    return losses


CASES: list[tuple[str, dict[str, float]]] = [
    ("dpo", {"beta": 0.1}),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.1}),
    ("dpo", {"beta": 0.3, "likelihood_weight": 0.7}),
    ("ipo", {"beta": 0.2}),
    ("simpo", {"beta": 2.0, "margin": 1.0}),
    ("redi", {"negative_weight": 0.8}),
    ("score_likelihood", {"baseline": 0.0}),
    ("score_likelihood", {"baseline": 0.2, "beta": 0.7}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_objective_is_its_formula(name: str, options: dict[str, float]) -> None:
    torch.testing.assert_close(
        loss_of(name, some(), **options),
        torch.tensor(plain(name, some(), **options), dtype=torch.float64),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize(("name", "options"), CASES)
def test_its_gradient_is_that_of_the_formula(name: str, options: dict[str, float]) -> None:
    given = some(seed=3)

    def total(student_M: Tensor) -> Tensor:
        other = Sequences(**vars(given) | {"student_M": student_M})
        return loss_of(name, other, **options).sum()

    assert torch.autograd.gradcheck(total, given.student_M.clone().requires_grad_())


@pytest.mark.parametrize("beta", [0.05, 0.1, 5.0])
def test_a_student_that_is_the_reference_has_a_loss_of_log_2(beta: float) -> None:
    torch.testing.assert_close(
        loss_of("dpo", some(same=True), beta=beta), torch.full((8,), math.log(2), dtype=torch.float64)
    )


def test_as_beta_vanishes_so_does_the_preference() -> None:
    torch.testing.assert_close(
        loss_of("dpo", some(), beta=1e-12), torch.full((8,), math.log(2), dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_half_the_gradient_of_dpo_at_the_reference_is_beta() -> None:
    given = some(same=True)
    student_M = given.student_M.clone().requires_grad_()
    loss_of("dpo", Sequences(**vars(given) | {"student_M": student_M}), beta=0.2)[0].backward()
    torch.testing.assert_close(student_M.grad[:2], torch.tensor([-0.1, 0.1], dtype=torch.float64))


def test_redi_without_its_negative_half_is_likelihood_of_the_better() -> None:
    given = some()
    expected = torch.repeat_interleave(-(given.student_M / given.counts_M)[0::2], 2)
    torch.testing.assert_close(loss_of("redi", given, negative_weight=0.0), expected)


def test_a_large_beta_makes_all_weights_one() -> None:
    given = some()
    torch.testing.assert_close(
        loss_of("score_likelihood", given, beta=1e12), -given.student_M / given.counts_M, rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpo", {"beta": 0.0}),
        ("dpo", {"label_smoothing": 0.5}),
        ("dpo", {"likelihood_weight": -1.0}),
        ("ipo", {"beta": -1.0}),
        ("simpo", {"beta": 0.0}),
        ("simpo", {"margin": -0.1}),
        ("redi", {"negative_weight": 1.5}),
        ("score_likelihood", {"beta": 0.0}),
        ("score_likelihood", {"beta": "hot"}),
    ],
)
def test_an_option_out_of_its_range_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"objective {name}: "):
        loss_of(name, some(), **options)
