"""Shares that a network learns, and the slope of the held-out loss by them, against autograd in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from logitstore.errors import BadInput
from logitstore.targets.dense import dense
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.learned import LearnedShares, Seen, learned_kind, routed
from logitstore.train.students.beside.bilevel import slopes

N, K, V, D = 6, 3, 9, 4
ROWS = torch.arange(N)


def teacher(seed: int) -> Targets:
    torch.manual_seed(seed)
    listed_NK, ids_NK = torch.log_softmax(2 * torch.randn(N, V), -1).topk(K, -1)
    return Targets(ids_NK, listed_NK, (1 - listed_NK.exp().sum(-1)).log(), FixedTail.uniform(V))


def learning(kind: str, teachers: int, top: bool = False) -> LearnedShares:
    torch.manual_seed(5)
    network = LearnedShares("gate" if kind == "gate" else "geometry", teachers, top=top).double()
    nn.init.normal_(network.network[-1].weight)
    return network


def test_what_the_network_sees_are_sides_of_a_triangle() -> None:
    targets, gold_N = [teacher(1), teacher(2)], torch.tensor([0, 3, 8, -1, 2, 2])
    logits_NV = torch.randn(N, V, dtype=torch.float64)
    alone = Criterion.mixed("reverse_kl").row_loss(
        targets[0], gold_N.clamp(min=0), 0.0, also=targets[1:], shares=[1.0, 1.0]
    )
    lines = Seen(alone, targets, gold_N)(logits_NV.clone(), slice(0, N))
    student_NV = torch.softmax(logits_NV, -1)
    has_N = (gold_N >= 0).double()
    gold_NV = torch.nn.functional.one_hot(gold_N.clamp(min=0), V).double()
    evenness = [lambda p_NV: -(p_NV * p_NV.log()).sum(-1) / math.log(V)][0]
    expected = [
        (student_NV * gold_NV).sum(-1) * has_N,
        (student_NV - gold_NV).square().sum(-1) * has_N,
        evenness(student_NV),
    ]
    for each in targets:
        other_NV = dense(each).double()
        corner_N = 2 * ((student_NV - other_NV) * (gold_NV - other_NV)).sum(-1)
        expected += [
            (other_NV * gold_NV).sum(-1) * has_N,
            (other_NV - gold_NV).square().sum(-1) * has_N,
            (student_NV - other_NV).square().sum(-1),
            evenness(other_NV),
            corner_N * has_N,
        ]
    assert torch.allclose(lines[3:], torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("top", [False, True])
def test_a_gate_learns_by_the_weighted_losses_and_by_the_balance(top: bool) -> None:
    network, features_FN = learning("gate", 2, top), torch.randn(13, N, dtype=torch.float64)
    costs_CN, weights_N = torch.rand(2, N, dtype=torch.float64), torch.rand(N, dtype=torch.float64)
    shares_CN = network(features_FN)
    weights_N[1] = 0
    endless_CN = costs_CN.clone()
    endless_CN[:, 1] = torch.inf
    found = torch.autograd.grad(network.own_loss(shares_CN, endless_CN, weights_N), list(network.parameters()))
    said_CN = torch.softmax(network.network(features_FN.T), -1).T
    mean_C = (said_CN * weights_N).sum(1) / weights_N.sum()
    unequal = torch.nn.functional.kl_div(mean_C.log(), torch.full((2,), 0.5, dtype=torch.float64), reduction="sum")
    expected = (weights_N * (said_CN * costs_CN).sum(0)).sum() + weights_N.sum() * unequal
    for one, other in zip(found, torch.autograd.grad(expected, list(network.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-10)
    assert torch.equal(network.used(shares_CN).max(0).values.round(decimals=9), torch.ones(N).double()) == top


@pytest.mark.parametrize("teachers", [1, 2])
def test_the_slopes_of_a_geometry_are_those_of_a_step_that_is_looked_through(teachers: int) -> None:
    """The derivative by the network of the held-out loss after a step, by differentiating through the step."""
    targets, gold_N = [teacher(seed) for seed in range(teachers)], torch.tensor([0, 3, 8, 1, 2, 2])
    network, rate = learning("geometry", teachers), 0.3
    inputs_ND, held_ND = torch.randn(2, N, D, dtype=torch.float64)
    weight_VD = nn.Parameter(torch.randn(V, D, dtype=torch.float64))
    weights_N = torch.rand(N, dtype=torch.float64)
    weights_N[1] = 0
    criterion = Criterion.mixed("reverse_kl", temperature=2.0, beside_gold=True)

    def row_loss(scale_N: Tensor | None, shares: object) -> object:
        return criterion.row_loss(targets[0], gold_N, 0.0, scale_N, also=targets[1:], shares=shares)  # type: ignore[arg-type]

    loss = routed(network, row_loss, targets, gold_N, None)  # type: ignore[arg-type]
    seen = partial(from_logits, loss.seen, rows_N=ROWS)
    features_FN = loss.of(seen(student_RV=(inputs_ND @ weight_VD.T).detach())[1])[1]
    shares_CN = network(features_FN)
    before = weight_VD.detach().clone()
    found = slopes(
        [weight_VD],
        lambda: from_logits(loss.shared(shares_CN.detach()), inputs_ND @ weight_VD.T, ROWS, weights_N)[0],
        lambda: torch.nn.functional.cross_entropy(held_ND @ weight_VD.T, gold_N),
        lambda: loss.of(seen(student_RV=(inputs_ND @ weight_VD.T).detach())[1])[0],
        weights_N,
        rate,
    )
    assert torch.equal(weight_VD, before)

    def own_loss() -> Tensor:
        logits_NV = inputs_ND @ weight_VD.T
        total_N = (1 - shares_CN.sum(0)) * torch.nn.functional.cross_entropy(logits_NV, gold_N, reduction="none")
        for share_N, each in zip(shares_CN, targets, strict=True):
            teacher_NV = torch.log_softmax(dense(each).double().log() / 2, -1)
            student_NV = torch.log_softmax(logits_NV / 2, -1)
            total_N = total_N + share_N * 4 * (student_NV.exp() * (student_NV - teacher_NV)).sum(-1)
        return (weights_N * total_N).sum()

    (step,) = torch.autograd.grad(own_loss(), weight_VD, create_graph=True)
    held = torch.nn.functional.cross_entropy(held_ND @ (weight_VD - rate * step).T, gold_N)
    expected = torch.autograd.grad(held / rate, list(network.parameters()), retain_graph=True)
    learned = torch.autograd.grad((shares_CN * found).sum(), list(network.parameters()), retain_graph=True)
    for one, other in zip(learned, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6 + 1e-3 * float(other.abs().max()))


def test_a_network_that_has_not_learned_counts_all_alike() -> None:
    targets, gold_N = [teacher(1), teacher(2)], torch.tensor([0, 3, 8, 1, 2, 2])
    logits_NV, weights_N = torch.randn(N, V), torch.rand(N)
    criterion = Criterion.mixed(alpha=0.7)

    def row_loss(scale_N: Tensor | None, shares: object) -> object:
        return criterion.row_loss(targets[0], gold_N, 0.0, scale_N, also=targets[1:], shares=shares)  # type: ignore[arg-type]

    leaf = logits_NV.clone().requires_grad_()
    network = LearnedShares("gate", 2)
    loss = routed(network, row_loss, targets, gold_N, None)  # type: ignore[arg-type]
    total, lines, names = loss.summed(lambda w, _, own: from_logits(own, leaf, ROWS, w), weights_N)
    fixed, plain = logits_NV.clone().requires_grad_(), row_loss(None, [0.5, 0.5])
    expected, _ = from_logits(plain, fixed, ROWS, weights_N)  # type: ignore[arg-type]
    assert names == ["kl", "kl/2", "cross_entropy", "share", "share/2"] or sorted(names[:3]) == [
        "cross_entropy",
        "kl",
        "kl/2",
    ]
    assert torch.allclose(lines[-2:], torch.full((2, N), 0.5))
    assert torch.allclose(total, expected, rtol=1e-6)
    total.backward()
    expected.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert fixed.grad is not None
    assert torch.allclose(leaf.grad, fixed.grad, atol=1e-7)
    assert LearnedShares("gate", 1)(torch.randn(8, N)).eq(1).all()


def test_names_of_what_is_learned() -> None:
    assert learned_kind("gate") == ("gate", False)
    assert learned_kind("gate:top=1") == ("gate", True)
    assert learned_kind("geometry") == ("geometry", False)
    assert learned_kind("1,2") is None
    assert learned_kind(None) is None
    for text in ("gate:top=2", "geometry:every=3"):
        with pytest.raises(BadInput, match=r"write gate, gate:top=1 or geometry"):
            learned_kind(text)
