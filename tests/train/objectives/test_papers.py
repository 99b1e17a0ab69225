"""Recipes weigh their terms as the authors' scripts do: each loss against a plain computation of theirs, up to one factor.

The factor is the same for every batch, and an optimizer such as AdamW does not see it. Each test names the script.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.core.schedule import Schedule
from logitstore.settings.recipe import about, load
from logitstore.settings.train import TrainSettings
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.train.loader.domains import LARGEST, behind, first_shares, next_shares
from logitstore.train.objectives.criterion import Criterion, RowTerm
from logitstore.train.objectives.features.match import SquareHead
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.logits.dkd import one_for_all
from logitstore.train.objectives.logits.standardised_kl import standardised_kl
from logitstore.train.reweighting import ALPHA, JUDGED
from tests.parts.feature_references import shapes_of, sides_of
from tests.parts.row_references import whole


def settings_of(recipe: str) -> TrainSettings:
    return load(TrainSettings, "train", None, {"cache": "c", "out": "o"}, named=recipe)


def batch(rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(rows, classes, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def gradient_of(recipe: str, student: Tensor, targets: Targets, gold: Tensor) -> Tensor:
    """Return the gradient of the mean loss of a recipe by the student's logits."""
    settings = settings_of(recipe)
    terms = [
        RowTerm(
            name=term.name,
            label=term.name,
            weight=Schedule.of(term.weight),
            temperature=Schedule.of(term.temperature),
            options=term.options,
        )
        for term in settings.terms
    ]
    criterion = Criterion.mixed(
        settings.objective,
        alpha=settings.alpha,
        temperature=settings.temperature,
        options=settings.options,
        rows=terms,
    )
    leaf = student.clone().requires_grad_()
    rows = len(gold)
    total, _ = from_logits(
        criterion.row_loss(targets, gold, 0.5), leaf, torch.arange(rows), torch.full((rows,), 1 / rows)
    )
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


def cross_entropy(student: Tensor, gold: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(student, gold)


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return torch.nn.functional.kl_div(
        torch.log_softmax(student / temperature, 1), torch.softmax(teacher / temperature, 1), reduction="batchmean"
    )


def dist_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """hunto/image_classification_sota: 1 of cross-entropy and 2 of DIST with beta, gamma and tau 1."""
    s, t = torch.softmax(student, 1), torch.softmax(teacher, 1)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]).mean()

    return cross_entropy(student, gold) + 2 * (1 - correlation(s, t) + 1 - correlation(s.T, t.T))


def sinkd_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """2018cx/SinKD, loss.py: alpha 0.8, T = 2 without T^2, 0.0008 * 20 / 8 of a sum over 16 rows."""
    s, t = torch.softmax(student / 2, 1), torch.softmax(teacher / 2, 1)
    cost = (s[:, None] - t[None]).abs().sum(-1)
    plan = torch.exp(-cost / 0.1)
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    moved = 0.0008 * (plan * cost).sum() * 20 / 8
    return 0.8 * kl(student, teacher, 2.0) + 0.2 * cross_entropy(student, gold) + moved


def dkd_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """megvii-research/mdistiller, configs/imagenet/r34_r18/dkd.yaml: CE 1, ALPHA 1, BETA 0.5, T 1."""
    s, t = torch.softmax(student, 1), torch.softmax(teacher, 1)
    is_gold = torch.nn.functional.one_hot(gold, s.shape[1]).bool()
    pairs = [torch.stack([each[is_gold], each[~is_gold].view(len(gold), -1).sum(1)], 1) for each in (s, t)]
    rest = [
        each[~is_gold].view(len(gold), -1) / each[~is_gold].view(len(gold), -1).sum(1, keepdim=True) for each in (s, t)
    ]
    target, others = ((b * (b / a).log()).sum(1).mean() for a, b in (pairs, rest))
    return cross_entropy(student, gold) + target + 0.5 * others


def mix_kd_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """hchoi71/MIX-KD, distiller_zoo/MIXSTD.py: torch.std, which divides by the count less one; plain cross-entropy here."""
    divided = (each / each.std(-1, keepdim=True) for each in (student, teacher))
    return cross_entropy(student, gold) + kl(*divided, 1.0)


def one_for_all_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """Hao840/OFAKD, distillers/ofa.py: eps 1.5, temperature 1, loss_gt and loss_kd both 1."""
    mask = torch.nn.functional.one_hot(gold, student.shape[1])
    powers = (torch.softmax(teacher, 1) + mask) ** 1.5
    strengthened = -((powers - mask) * torch.log_softmax(student, 1)).sum(-1).mean()
    return cross_entropy(student, gold) + strengthened


def ddk_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """Liu et al. 2024, equation 4 and section 4.1: cross-entropy + 0.2 KL at temperature 1."""
    return cross_entropy(student, gold) + 0.2 * kl(student, teacher, 1.0)


def pld_of_authors(student: Tensor, teacher: Tensor, gold: Tensor) -> Tensor:
    """Bassam et al. 2025, equation 8, tau = 1: the gold class first, then the others by the teacher's logits."""
    losses = []
    for s, t, y in zip(student, teacher, gold.tolist(), strict=True):
        order = [y, *(v for v in t.argsort(descending=True).tolist() if v != y)]
        alpha, ranked = torch.softmax(t, 0)[order], s[order]
        losses.append(sum(alpha[k] * (ranked[k:].logsumexp(0) - ranked[k]) for k in range(len(order))))
    return torch.stack([torch.as_tensor(each) for each in losses]).mean()


AUTHORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dist": dist_of_authors,
    "sinkd": sinkd_of_authors,
    "dkd": dkd_of_authors,
    "mix_kd": mix_kd_of_authors,
    "one_for_all": one_for_all_of_authors,
    "ddk": ddk_of_authors,
    "pld": pld_of_authors,
}


@pytest.mark.parametrize("recipe", AUTHORS)
def test_a_recipe_is_the_authors_loss_up_to_one_factor(recipe: str) -> None:
    """The gradients by the student's logits are compared: a KL and a cross-entropy to the teacher have the same."""
    factors = []
    for seed in range(4):
        student, teacher, gold = batch(16, 7, seed)
        leaf = student.double().requires_grad_()
        (expected,) = torch.autograd.grad(AUTHORS[recipe](leaf, teacher.double(), gold), leaf)
        found = gradient_of(recipe, student, whole(teacher), gold)
        factors.append(float((found * expected).sum() / expected.square().sum()))
        torch.testing.assert_close(found.double(), factors[-1] * expected, rtol=1e-3, atol=5e-5)
    assert factors == pytest.approx([factors[0]] * 4, rel=1e-3)


def test_square_head_alone_beside_cross_entropy() -> None:
    """IST-DASLab/SparseFinetuning: cross-entropy 1, KL 0, SquareHead 1; eps is that of bfloat16."""
    settings = settings_of("squarehead")
    (term,) = settings.terms
    assert (settings.alpha, term.weight, settings.keep_zeros_from) == (0, 1.0, 0.25)
    eps = torch.finfo(torch.bfloat16).eps
    assert term.options == {"layers": "all", "eps": eps}
    assert signature(SquareHead).parameters["eps"].default == eps
    shapes = shapes_of(SquareHead, (3, 3), same=True, layers="all")
    sides = sides_of(shapes, (4, 5))
    # of hidden_states[1:], as transformers gives them, the sum
    assert list(sides.student) == list(sides.teacher) == ["hidden-1", "hidden-2", "final"]
    pairs = [(sides.student[name], sides.teacher[name]) for name in sides.student]
    expected = sum((student - teacher).pow(2).mean() / (teacher.pow(2).mean() + eps) for student, teacher in pairs)
    found = term.weight * SquareHead(shapes, **term.options)(sides).mean()  # type: ignore[operator,arg-type]
    torch.testing.assert_close(found, torch.as_tensor(expected))


def test_tinyvit_spreads_what_is_not_listed_evenly_and_reads_no_labels() -> None:
    """microsoft/Cream, TinyViT: configs/22k_distill (2.5e-4, 0.01), main.py (the rate for 512 images, soft cross-entropy)."""
    settings = settings_of("tinyvit")
    assert (settings.learning_rate, settings.learning_rate_batch, settings.weight_decay) == (2.5e-4, 512, 0.01)
    student, teacher, gold = batch(6, 30, 0)
    listed = torch.softmax(teacher, 1).topk(4)
    targets = Targets(listed.indices, listed.values.log(), (1 - listed.values.sum(1)).log(), FixedTail.uniform(30))
    rest = (1 - listed.values.sum(1, keepdim=True)) / (30 - 4)
    soft = rest.expand(-1, 30).scatter(1, listed.indices, listed.values)
    leaf = student.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-(soft * torch.log_softmax(leaf, 1)).sum(1).mean(), leaf)
    torch.testing.assert_close(gradient_of("tinyvit", student, targets, gold), expected, rtol=1e-4, atol=1e-6)


def test_one_for_all_has_no_factor_for_the_temperature() -> None:
    student, teacher, gold = batch(5, 7, 0)
    found = one_for_all(student, whole(teacher), gold, temperature=4.0, gamma=1.5)
    mask = torch.nn.functional.one_hot(gold, 7)
    powers = (torch.softmax(teacher / 4, 1) + mask) ** 1.5
    torch.testing.assert_close(found, -((powers - mask) * torch.log_softmax(student / 4, 1)).sum(-1))


def test_standardised_logits_are_divided_by_the_deviation_of_a_sample() -> None:
    """sunshangquan/logit-standardization-KD, mdistiller/distillers/KD.py: torch.std, T^2."""
    student, teacher, _ = batch(5, 4, 0)
    a, b = ((each - each.mean(1, keepdim=True)) / each.std(1, keepdim=True) for each in (student, teacher))
    found = standardised_kl(student, whole(teacher), temperature=2.0)
    torch.testing.assert_close(found.mean(), 4 * kl(a, b, 2.0))


def test_domains_are_read_by_the_ratio_of_perplexities() -> None:
    """Liu et al. 2024, equation 1, written out; and by the ratio of losses where that is asked for."""
    student, teacher = np.array([2.0, 3.0, 1.2]), np.array([1.5, 2.0, 1.1])
    ratio = np.exp(student) / np.exp(teacher)
    found = first_shares(behind(student, teacher))
    np.testing.assert_allclose(found, np.exp(ratio) / np.exp(ratio).sum())
    np.testing.assert_allclose(found, [0.22, 0.65, 0.13], atol=0.006)
    np.testing.assert_allclose(first_shares(behind(student, teacher, "nll")), [0.34, 0.40, 0.27], atol=0.006)
    psi = found * np.exp(ratio)
    np.testing.assert_allclose(next_shares(found, ratio, 0.5), 0.5 * psi / psi.sum() + 0.5 / 3)
    far = behind(np.array([9.0, 800.0, 1.0]), np.array([1.0, 1.0, 1.0]))
    assert far.tolist() == pytest.approx([LARGEST, LARGEST, 1.0])
    settings = settings_of("ddk")
    assert (settings.reweight_domains, settings.learning_rate) == (1000, 3e-5)
    assert (JUDGED, ALPHA) == (500, 0.5)


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        ("meal_v2", "discriminator"),
        ("mix_kd", "cross-entropy also divides"),
        ("one_for_all", "branch"),
        ("ssld", "stand in the test data"),
        ("gkd", "on-policy"),
        ("minillm", "samples from the student"),
        ("bd_kd", "trains the teacher"),
        ("ast", "anew"),
        ("squarehead", "of all tokens"),
    ],
)
def test_a_recipe_that_leaves_something_out_says_so(recipe: str, what: str) -> None:
    assert what in about(recipe)["left_out"]
