"""Compare what a GPU computes with what the CPU computes of the same numbers: what is kept of rows, targets, losses.

A floating-point result of the device is compared with the truth, which the CPU computes in float64. It may be several times
as far from the truth as what the CPU computes in the same number format, for the two add up in another order; ids, and
whatever is only moved, must be the same.

Axes: N rows (R positions among which they lie), K listed, D channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from bench import console
from card import Card
from logitstore.core.methods import METHODS
from logitstore.core.objectives.method import Method
from logitstore.dump.ask import _to_host
from logitstore.dump.fit import head_tensors
from logitstore.dump.sparsify.dense import Dense
from logitstore.dump.sparsify.fidelity import FidelityCheck, Truth
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sampled import Sampled
from logitstore.dump.sparsify.topk import TopK
from logitstore.dump.sparsify.topp import TopP
from logitstore.format.presets import PRESETS, row_of
from logitstore.format.row import RowInfo
from logitstore.models.head import LinearHead
from logitstore.targets.decoder import Decoder
from logitstore.targets.dense import dense_logprobs, dense_probs
from logitstore.targets.shared import latents_of
from logitstore.targets.tails import FixedTail, LatentTail
from logitstore.targets.targets import AnyTargets, SampledTargets, Targets
from logitstore.train.loader.batch import Batch
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.features.feature import Shapes, Sides
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.rowwise import rowwise
from logitstore.train.objectives.kernels.weighted_sum import distillation_loss
from logitstore.train.objectives.logits.cross_entropy import cross_entropy
from synthetic import sketch_tensors

CPU = torch.device("cpu")
NOISE = {torch.float32: (8.0, 2.0**-17), torch.bfloat16: (4.0, 2.0**-7)}
"""By number format: how many times the CPU's distance from the truth is allowed, and a share of the largest value on top."""

KEPT = tuple(name for name, preset in PRESETS.items() if preset["sparsifier"] != "none")
"""The presets that keep rows."""


@dataclass(frozen=True)
class Check:
    """One comparison: the largest difference that is expected, and the one that was found; or the error that came instead."""

    name: str
    expected: float
    found: float
    error: str = ""

    @property
    def is_met(self) -> bool:
        return self.found <= self.expected


def near(name: str, truth: Tensor, own: Tensor, found: Tensor, dtype: torch.dtype) -> Check:
    """Compare a result of the device with the truth; differences are shares of the truth's largest value.

    Args:
        name: of the check.
        truth: by the CPU, in float64.
        own: by the CPU, in the number format.
        found: by the device, in the number format.
        dtype: the number format.
    """
    truth, own, found = (each.detach().to(CPU, torch.float64) for each in (truth, own, found))
    times, share = NOISE[dtype]
    if found.shape != own.shape or not torch.equal(found.isfinite(), own.isfinite()):
        return Check(name, share, math.inf)
    is_infinite = ~own.isfinite()
    if not torch.equal(found[is_infinite].nan_to_num(), own[is_infinite].nan_to_num()):
        return Check(name, share, math.inf)
    known = own.isfinite() & truth.isfinite()
    if not known.any():
        return Check(name, share, 0.0)
    largest = truth[known].abs().max().clamp(min=1e-30)
    apart, usual = (float((each - truth)[known].abs().max() / largest) for each in (found, own))
    return Check(name, times * usual + share, apart)


def same(name: str, own: Tensor, found: Tensor, most: float = 0.0) -> Check:
    """Compare what should be the same, bit by bit, but for a share of the entries."""
    own, found = own.detach().to(CPU), found.detach().to(CPU)
    if own.shape != found.shape or own.dtype != found.dtype:
        return Check(name, most, math.inf)
    if own.is_floating_point():
        own, found = (each.contiguous().view(_BITS[each.element_size()]) for each in (own, found))
    return Check(name, most, float((own.long() != found.long()).double().mean()) if own.numel() else 0.0)


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Sizes:
    """How large the numbers of the checks are: rows, vocabulary of a teacher, padding beyond it, channels; and the vocabulary
    of the losses."""

    rows: int
    vocabulary: int
    padding: int
    width: int
    loss_vocabulary: int


REAL, SMALL = Sizes(32, 151936, 128, 96, 4096), Sizes(24, 700, 8, 16, 72)


def all_checks(card: Card, goes_on: Callable[[], bool], made: list[Check]) -> None:
    """Make every check, as long as there is time; add it to those that were made, and print it if it fails."""
    sizes = SMALL if card.is_small else REAL
    makers: list[Iterator[Check]] = [
        tried("copies", copies, card),
        selection(card, sizes),
        sketch(card, sizes),
        decoding(card, sizes),
        fidelity(card, sizes),
        features(card),
        *(losses(card, sizes, dtype) for dtype in ([torch.float32] if card.is_small else NOISE)),
        large_losses(card, sizes),
    ]
    for maker in makers:
        for check in maker:
            made.append(check)
            if not check.is_met:
                say(check)
            if not goes_on():
                made.append(Check("the checks had no time to end", 0.0, math.inf))
                say(made[-1])
                return


def tried(name: str, make: Callable[..., Iterator[Check]], *arguments: Any) -> Iterator[Check]:
    """Yield some checks; where they end in an error, a failed one with the error, so that all others are made."""
    try:
        yield from make(*arguments)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        yield Check(name, 0.0, math.inf, f"{type(error).__name__}: {lines[0]}"[:300])


def say(check: Check) -> None:
    """Print a check that failed."""
    console.print(
        f"FAILED {check.name}: expected at most {check.expected:.3g}, found {check.found:.3g} {check.error}".rstrip(),
        style="red",
        highlight=False,
        soft_wrap=True,
    )


def copies(card: Card) -> Iterator[Check]:
    """Move numbers of every stored type to the device and back, through page-locked memory where the device has any."""
    draw = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 2**15, (37, 5), generator=draw)
    stored: dict[str, Tensor] = {
        str(dtype).removeprefix("torch."): numbers.to(dtype)
        for dtype in (torch.uint8, torch.int8, torch.uint16, torch.int32, torch.int64, torch.float16, torch.float32)
    }
    rows = torch.arange(37)
    batch = Batch(rows=rows, row_mask=rows > 3, answer=stored, gold=rows, samples=rows[:1], counts=torch.tensor([37]))
    moved = (batch.pin_memory() if card.is_gpu else batch).to(card.device)
    for name, value in batch.tensors().items():
        if isinstance(value, Tensor):
            yield same(f"a batch's {name} on the device", value, moved[name])
    host = _to_host({name: value.to(card.device) for name, value in stored.items()})()
    for name, value in stored.items():
        yield same(f"{name} copied to the host", value, torch.from_numpy(host[name]))


def logits_of(sizes: Sizes, dtype: torch.dtype) -> Tensor:
    """Return logits [N, V + padding], with every kind of row that is hard to select from."""
    draw = torch.Generator().manual_seed(1)
    logits_NV = torch.randn(sizes.rows, sizes.vocabulary + sizes.padding, generator=draw).mul_(3)
    logits_NV[1] = logits_NV[1].mul(2).round().div(2)  # many ties
    logits_NV[2] = 0.25  # nothing but ties
    logits_NV[3, ::2] = -torch.inf
    logits_NV[4] = -torch.inf
    logits_NV[4, 5] = 1.0  # the only possible token
    logits_NV[5, 7] += 60.0  # as good as certain
    logits_NV[6] += 80.0  # beyond the range in which powers are taken as they are
    logits_NV[7, :40] = 20.0  # more ties than blocks are searched
    logits_NV[8] = logits_NV[8].round()
    logits_NV[:, sizes.vocabulary :] = 1e4  # padding, which counts for nothing
    return logits_NV.to(dtype)


def sparsifiers(vocabulary: int) -> dict[str, Any]:
    """Return every way to select, by name."""
    return {
        "topk": TopK(k=8, vocabulary=vocabulary),
        "topk, k = 50": TopK(k=50, vocabulary=vocabulary),
        "topp": TopP(k=16, top_p=0.7, vocabulary=vocabulary),
        "sampled": Sampled(k=0, draws=12, exponent=1.0, vocabulary=vocabulary),
        "hybrid": Sampled(k=4, draws=12, exponent=0.7, vocabulary=vocabulary),
        "dense": Dense(k=vocabulary, vocabulary=vocabulary),
    }


NEAR_A_BORDER = 0.01
"""Share of slots that may differ where a sum of probabilities, rounded in another order, decides: the end of a nucleus, and
which token a random number falls on."""


def selection(card: Card, sizes: Sizes) -> Iterator[Check]:
    """Select from the same logits on both."""
    for dtype, name in product(NOISE, sparsifiers(sizes.vocabulary)):
        yield from tried(f"select {name}, {_called(dtype)}", _selected, card, sizes, dtype, name)


def _selected(card: Card, sizes: Sizes, dtype: torch.dtype, name: str) -> Iterator[Check]:
    gold_N, select = torch.arange(sizes.rows) % 8, sparsifiers(sizes.vocabulary)[name]
    what = f"select {name}, {_called(dtype)}"
    logits_NV = logits_of(sizes, dtype)
    draw = torch.Generator().manual_seed(2)
    uniform_ND = torch.rand(sizes.rows, max(select.draws, 1), generator=draw, dtype=torch.float64)
    own, found = (
        select(logits_NV.to(device), gold_N.to(device), uniform_ND if select.draws else None)
        for device in (CPU, card.device)
    )
    found = {field: value.to(CPU) for field, value in found.items()}
    truth_NV = torch.log_softmax(logits_NV[:, : sizes.vocabulary].double(), -1)
    border = NEAR_A_BORDER if name in ("topp", "sampled", "hybrid") else 0.0
    for field in ("ids", "counts", "top1", "gold_listed"):
        if field in own:
            yield same(f"{what}: {field}", own[field], found[field], border)
    is_same_N = torch.ones(sizes.rows, dtype=torch.bool)
    truth_NK = truth_NV
    if "ids" in own:
        is_same_N = ((own["ids"] == found["ids"]) & (own["logprobs"].isfinite() == found["logprobs"].isfinite())).all(1)
        truth_NK = truth_NV.gather(1, own["ids"]).masked_fill(own["logprobs"].isneginf(), -torch.inf)
        outside_NV = truth_NV.exp().scatter(1, own["ids"].masked_fill(own["logprobs"].isneginf(), 0), 0.0)
        # what the masked slots wrote over is put back
        outside_NV[:, 0] = torch.where((truth_NK.isfinite() & (own["ids"] == 0)).any(1), 0.0, truth_NV[:, 0].exp())
    truths = {
        "logprobs": truth_NK,
        "gold_logprob": truth_NV.gather(1, gold_N[:, None]).squeeze(1),
        "entropy": -torch.where(truth_NV.isfinite(), truth_NV.exp() * truth_NV, 0.0).sum(1),
    }
    if "tail_logmass" in own:
        truths["tail_logmass"] = outside_NV.sum(1).log()
    if "log_normaliser" in own:
        truths["log_normaliser"] = own["log_normaliser"]
    for field, truth in truths.items():
        if field in own:
            yield near(
                f"{what}: {field}", truth[is_same_N], own[field][is_same_N], found[field][is_same_N], torch.float32
            )


@dataclass(frozen=True)
class Stored:
    """Rows of a preset as they are stored, and what they were made of.

    Attributes:
        row: what a row holds.
        shared: tensors of the shared file.
        logits_NV, hidden_ND: of the teacher.
        kept: what the sparsifier and the sketch gave.
        fields: the stored arrays.
    """

    row: RowInfo
    shared: dict[str, Tensor]
    logits_NV: Tensor
    hidden_ND: Tensor
    kept: dict[str, Tensor]
    fields: dict[str, Tensor]


def stored_rows(preset: str, sizes: Sizes) -> Stored:
    """Return rows of a preset, made on the CPU."""
    row = row_of(preset, {}, sizes.vocabulary, sizes.width)
    draw = torch.Generator().manual_seed(3)
    hidden_ND = torch.randn(sizes.rows, sizes.width, generator=draw)
    head = LinearHead(torch.randn(sizes.vocabulary, sizes.width, generator=draw).mul_(4 / math.sqrt(sizes.width)))
    logits_NV = head.logits(hidden_ND)
    shared: dict[str, Tensor] = {}
    if row.tail.shape == "sketch":
        shared = sketch_tensors(row, sizes.width)
        count = len(shared["widths"])
        shared["projection"] = torch.randn(sizes.width, count, generator=draw).div_(math.sqrt(sizes.width))
        shared["weight"] = torch.randn(sizes.vocabulary, count, generator=draw).half()
        shared["base"], shared["bias"] = torch.randn(2, sizes.vocabulary, generator=draw)
    elif row.tail.shape == "prior":
        shared = {"prior": torch.rand(sizes.vocabulary, generator=draw) ** 3 + 1e-6}
    elif row.tail.shape == "head":
        shared = head_tensors(head, hidden_ND)
    sparsifier = sparsifier_of(row)
    uniform_ND = torch.rand(sizes.rows, max(sparsifier.draws, 1), generator=draw, dtype=torch.float64)
    kept = sparsifier(logits_NV, torch.zeros(sizes.rows, dtype=torch.int64), uniform_ND)
    if (latents := latents_of(row, shared)) is not None:
        kept["latent"] = latents(hidden_ND)
    encoded = Decoder(row, shared).codec.encode({name: value.numpy() for name, value in kept.items()})
    fields = {name: torch.from_numpy(value) for name, value in encoded.items()}
    return Stored(row, shared, logits_NV, hidden_ND, kept, fields)


def sketch(card: Card, sizes: Sizes) -> Iterator[Check]:
    """Take the coefficients, and what is stored of hidden states, of the same hidden states on both."""
    for preset, dtype in product(("small", "faithful", "exact"), NOISE):
        yield from tried(f"sketch of {preset}, {_called(dtype)}", _sketched, card, sizes, preset, dtype)


def _sketched(card: Card, sizes: Sizes, preset: str, dtype: torch.dtype) -> Iterator[Check]:
    made = stored_rows(preset, sizes)
    latents = latents_of(made.row, made.shared)
    hidden_ND = made.hidden_ND.to(dtype)
    truth_NR = hidden_ND.double()
    if "projection" in made.shared:
        truth_NR = (truth_NR - made.shared["mean"].double()) @ made.shared["projection"].double()
    yield near(
        f"{preset}: what is stored of hidden states, {_called(dtype)}",
        truth_NR, latents(hidden_ND), latents(hidden_ND.to(card.device)), torch.float32,
    )  # fmt: skip


def decoding(card: Card, sizes: Sizes) -> Iterator[Check]:
    """Decode the same stored rows on both, to targets and to whole distributions."""
    for preset in KEPT:
        yield from tried(f"decode {preset}", _decoded, card, sizes, preset)


def _decoded(card: Card, sizes: Sizes, preset: str) -> Iterator[Check]:
    made = stored_rows(preset, sizes)
    decoder = Decoder(made.row, made.shared)
    own = decoder(made.fields)
    found = decoder({name: value.to(card.device) for name, value in made.fields.items()})
    yield same(f"decode {preset}: ids", own.ids_NK, found.ids_NK)
    for name, mine, its in _numbers(own, found):
        yield near(f"decode {preset}: {name}", mine, mine, its, torch.float32)
    if isinstance(own, Targets) and isinstance(found, Targets):
        for temperature in (1.0, 2.0, 4.0):
            what = f"decode {preset} at T = {temperature:g}"
            mine, its = (dense_logprobs(each, temperature) for each in (own, found))
            yield near(f"{what}: all logprobs", mine, mine, its, torch.float32)
            (p, h), (q, g) = (dense_probs(each, temperature) for each in (own, found))
            yield near(f"{what}: all probabilities", p, p, q, torch.float32)
            yield near(f"{what}: entropy", h, h, g, torch.float32)


def _numbers(own: AnyTargets, found: AnyTargets) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the numbers of two targets that are no ids."""
    for name in ("logprobs_NK", "tail_logmass_N", "weights_NK", "entropy_N", "latent_NR"):
        mine, its = getattr(own, name, None), getattr(found, name, None)
        if mine is not None and its is not None:
            yield name, mine, its


def fidelity(card: Card, sizes: Sizes) -> Iterator[Check]:
    """Compare stored rows with their teacher on both; the figures are means over the rows."""
    for preset in KEPT:
        yield from tried(f"fidelity of {preset}", _faithful, card, sizes, preset)


def _faithful(card: Card, sizes: Sizes, preset: str) -> Iterator[Check]:
    made = stored_rows(preset, sizes)
    figures = []
    for device in (CPU, card.device):
        check = FidelityCheck(Decoder(made.row, made.shared), 1.0)
        truth = Truth.of(made.logits_NV.to(device), sizes.vocabulary)
        check.add(truth, {name: value.to(device) for name, value in made.kept.items()})
        figures.append(check.take())
    own, found = figures
    yield Check(f"fidelity of {preset}: unbounded rows", 0.0, abs(own.unbounded - found.unbounded))
    for name, (total, _) in own.sums.items():
        its = found.sums[name][0]
        yield Check(f"fidelity of {preset}: {name}", 1e-3, abs(its - total) / max(abs(total), 1e-2 * own.rows))


def targets_of(tail: str, rows: int, vocabulary: int, device: torch.device) -> AnyTargets:
    """Return what a teacher might have said, with one kind of tail."""
    draw = torch.Generator().manual_seed(4)
    logits_NV = torch.randn(rows, vocabulary, generator=draw).mul_(3)
    logits_NV[0, 0] += 30
    logprobs_NK, ids_NK = torch.log_softmax(logits_NV, -1).topk(8)
    if tail == "samples":
        weights_NK = torch.rand(rows, 8, generator=draw)
        return SampledTargets(ids_NK.to(device), weights_NK.to(device), torch.rand(rows, generator=draw).to(device))
    logprobs_NK[-1, -1], ids_NK[-1, -1] = -math.inf, 0
    mass_N = torch.log1p(-logprobs_NK.double().exp().sum(-1).clamp(max=1 - 1e-9)).float()
    if tail == "none":
        mass_N = torch.full_like(mass_N, -math.inf)
        logprobs_NK = logprobs_NK - logprobs_NK.logsumexp(-1, keepdim=True)
    latent_NR = None
    shape: FixedTail | LatentTail = FixedTail.uniform(vocabulary)
    if tail == "prior":
        shape = FixedTail.prior(torch.rand(vocabulary, generator=draw) ** 3 + 1e-4)
    elif "latent" in tail:
        latent_NR = torch.randn(rows, 5, generator=draw).to(device)
        weight, base, bias = (
            torch.randn(*size, generator=draw) for size in ((vocabulary, 5), (vocabulary,), (vocabulary,))
        )
        shape = LatentTail(LinearHead(weight, base, cap=2.0 if tail == "capped latent" else 0.0), bias)
    if tail == "latent alone":
        ids_NK, logprobs_NK, mass_N = ids_NK[:, :0], logprobs_NK[:, :0], torch.zeros(rows)
    return Targets(ids_NK.to(device), logprobs_NK.to(device), mass_N.to(device), shape, latent_NR)


TAILS = ("none", "uniform", "prior", "latent", "capped latent", "latent alone", "samples")


def loss_cases(is_small: bool) -> Iterator[tuple[str, Method, str, float]]:
    """Yield every method on logits with the tails and temperatures that it is tried with."""
    for name, method in METHODS.items():
        if method.form != "rows":
            continue
        yield name, method, "latent", 2.0 if method.has_temperature else 1.0
        if is_small:
            continue
        if name != "forward_kl":
            yield name, method, "prior", 1.0
        if name == "forward_kl":
            for tail in TAILS:
                for temperature in (1.0, 2.0) if tail != "samples" else (1.0,):
                    if (tail, temperature) != ("latent", 2.0):
                        yield name, method, tail, temperature


Run = Callable[[torch.device, torch.dtype], dict[str, Tensor]]
"""A function that computes a loss and its gradients somewhere, in some number format."""

COMPARING, A_ROW_THAT_TURNS = ("adaptive_kl", "balanced_kl"), 0.2
"""Losses that weigh a row by a comparison, which noise may turn around for a row; and what that may change."""

WAYS = ("from logits", "from logits in place", "from hidden states", "from hidden states, capped")


def losses(card: Card, sizes: Sizes, dtype: torch.dtype) -> Iterator[Check]:
    """Take every loss on logits with its gradient, in every way, on both."""
    for (name, _, tail, temperature), way in product(loss_cases(card.is_small), WAYS):
        if name != "forward_kl" and way.endswith(("in place", "capped")):
            continue
        what = f"{name}, {tail} tail, T = {temperature:g}, {way}, {_called(dtype)}"
        run: Run = partial(loss_of, name, tail, temperature, way, sizes)
        turns = name in COMPARING and dtype == torch.bfloat16
        yield from tried(what, _run_on_both, what, run, card, dtype, A_ROW_THAT_TURNS if turns else 0.0)
    what = f"rowwise cross-entropy, {_called(dtype)}"
    yield from tried(what, _run_on_both, what, partial(_rowwise, sizes), card, dtype)


def _run_on_both(what: str, run: Run, card: Card, dtype: torch.dtype, least: float = 0.0) -> Iterator[Check]:
    """Compare all parts of a result; a difference of `least` is allowed in any case."""
    truth, own, found = run(CPU, torch.float64), run(CPU, dtype), run(card.device, dtype)
    for part in truth:
        check = near(f"{what}: {part}", truth[part], own[part], found[part], dtype)
        yield replace(check, expected=max(check.expected, least))


def loss_of(
    name: str, tail: str, temperature: float, way: str, sizes: Sizes, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return a loss of rows among positions, half of it cross-entropy, with its gradients."""
    rows, positions, vocabulary = 3 * sizes.rows, 4 * sizes.rows, sizes.loss_vocabulary
    draw = torch.Generator().manual_seed(5)

    def random(*size: int) -> Tensor:
        # numbers that bfloat16 has, so that all formats begin with the same ones
        return torch.randn(*size, generator=draw).bfloat16().to(device, dtype)

    student = vocabulary + 8
    places_N = torch.randperm(positions, generator=draw)[:rows].sort().values.to(device)
    gold_N = torch.randint(vocabulary, (rows,), generator=draw).to(device)
    weights_N = (torch.tensor([1.0, 2.0, 0.0]).repeat(rows // 3) / rows).to(device)
    targets = targets_of(tail, rows, vocabulary, device)
    if name == "forward_kl":
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        loss: Any = distillation_loss(targets, gold_N, alpha=0.5, temperature=temperature, dtype=wide)
    else:
        loss = Criterion.mixed(name, alpha=0.5, temperature=temperature).to(device).row_loss(targets, gold_N, 0.5)
    if way.startswith("from logits"):
        leaf_RV = random(positions, student).mul_(2).requires_grad_()
        logits_RV = leaf_RV * 1
        total, lines_LN = from_logits(loss, logits_RV, places_N, weights_N, in_place=way.endswith("in place"), chunk=64)
        leaves = {"gradient by the logits": leaf_RV}
    else:
        hidden_RD = random(positions, sizes.width).requires_grad_()
        # the weights of a student stay wide, and its products are narrow
        weight_VD, bias_V = random(student, sizes.width).div_(4).float(), random(student).float()
        if dtype == torch.float64:
            weight_VD, bias_V = weight_VD.double(), bias_V.double()
        weight_VD, bias_V = weight_VD.requires_grad_(), bias_V.requires_grad_()
        head = LinearHead(weight_VD, bias_V)
        if way.endswith("capped"):
            head = replace(head, multiplier=0.5, cap=5.0)
        total, lines_LN = from_hidden(loss, hidden_RD, head, places_N, weights_N, dtype=dtype, block=64)
        leaves = {
            "gradient by the hidden states": hidden_RD,
            "gradient by the weight": weight_VD,
            "gradient by the bias": bias_V,
        }
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return {"loss": total, "losses of rows": lines_LN, **dict(zip(leaves, gradients, strict=True))}


def _rowwise(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the cross-entropy of some rows through the kernel for any loss."""
    draw = torch.Generator().manual_seed(6)
    leaf_RV = torch.randn(40, sizes.loss_vocabulary, generator=draw).bfloat16().to(device, dtype).requires_grad_()
    rows_N, gold_N = torch.arange(0, 40, 2, device=device), torch.arange(20, device=device)
    loss_N = rowwise(lambda logits_nV, some: cross_entropy(logits_nV, gold_N[some]), leaf_RV, rows_N, chunk=7)
    (gradient,) = torch.autograd.grad(loss_N.sum(), leaf_RV)
    return {"loss": loss_N, "gradient": gradient}


def large_losses(card: Card, sizes: Sizes) -> Iterator[Check]:
    """Take the forward KL over the whole vocabulary."""
    large = replace(sizes, loss_vocabulary=sizes.vocabulary)
    for tail, dtype in product(("prior", "latent"), NOISE):
        what = f"forward_kl over {sizes.vocabulary:,} tokens, {tail} tail, {_called(dtype)}"
        run = partial(loss_of, "forward_kl", tail, 1.0, "from hidden states", large)
        yield from tried(what, _run_on_both, what, run, card, dtype)


WIDTHS = {"hidden": (6, 10), "final": (6, 10), "query": (12, 24), "key": (6, 12), "value": (6, 12)}
"""Channels of the student's and the teacher's features, by their kind."""


def _sub_classes() -> dict[str, Tensor]:
    """What the teacher's final states of 3 classes are, as `logitstore.train.sidecars.subclasses` says it."""
    return {
        "directions": torch.linalg.qr(torch.randn(3, 10, 6))[0].mT.contiguous(),
        "variance": torch.rand(3, 6) + 0.5,
        "basis": torch.linalg.qr(torch.randn(10, 2))[0].mT.contiguous(),
        "weight": torch.randn(3, 10),
        "bias": torch.randn(3),
        "mean": torch.randn(3, 10),
    }


_GIVEN: dict[str, Callable[[], Any]] = {"means_VD": lambda: torch.randn(30, 10), "subclasses": _sub_classes}
"""What the trainer gives an objective, by the name of its argument."""

SAME_WIDTH = ("SquareHead", "NormDirection", "EmbeddingMse", "EmbeddingCosine", "SimilarityMse")
"""Losses that have no projection."""


def features(card: Card) -> Iterator[Check]:
    """Take every loss on features with its gradients on both."""
    for name, method in METHODS.items():
        if method.form == "features":
            options: dict[str, Any] = {name: _GIVEN[name]() for name in method.given}
            run = partial(_feature_loss, method, options)
            yield from tried(name, _run_on_both, name, run, card, torch.float32)


def _feature_loss(
    method: Method, options: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    kind: Any = method.function
    pairs = kind.pairs(4, 4, **options)
    names = [own for own, _ in pairs], [other for _, other in pairs]
    # a student that is as wide where a loss has no projection
    same_width = method.target.endswith(SAME_WIDTH)
    widths = [
        {name: WIDTHS[name.partition("-")[0]][1 if same_width else side] for name in names[side]} for side in (0, 1)
    ]
    torch.manual_seed(7)
    module = kind(
        Shapes(
            student_layers=4, teacher_layers=4, widths_student=widths[0], widths_teacher=widths[1], heads_student=6,
            heads_teacher=6, key_heads_student=3, key_heads_teacher=3,
        ),
        **options,
    ).to(device, dtype)  # fmt: skip
    draw = torch.Generator().manual_seed(8)
    counts_M, rows = torch.tensor([3, 1, 0, 9], device=device), 13
    sides = [
        {name: torch.randn(rows, width, generator=draw).to(device, dtype) for name, width in each.items()}
        for each in widths
    ]
    leaves = [value.requires_grad_() for value in sides[0].values()] + list(module.parameters())
    loss_N = module(
        Sides(
            student=sides[0], teacher=sides[1], counts_M=counts_M, gold_N=torch.arange(rows, device=device),
            mask_N=torch.arange(rows, device=device) != 5,
        )
    )  # fmt: skip
    gradients = torch.autograd.grad(loss_N.sum(), leaves, allow_unused=True)
    named = {f"gradient {number}": each for number, each in enumerate(gradients) if each is not None}
    return {"loss": loss_N, **named}


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
