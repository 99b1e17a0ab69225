"""What every sparsifier keeps, through its codec and back, and the losses on it, against dense float64 references."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM as Auto
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from logitstore.chance import DRAWS, uniform
from logitstore.codecs.codebook import lloyd_max
from logitstore.decode import Decoder
from logitstore.errors import BadInput, ModelError
from logitstore.fields import RowInfo
from logitstore.head import Head
from logitstore.keep import Keep, sparsifier_of
from logitstore.models import load_config
from logitstore.objectives import forward_kl, jensen_shannon, lumped_kl, renormalised_kl, reverse_kl
from logitstore.pilot import whole_head
from logitstore.presets import row_of
from logitstore.score import RowChunk, collate
from logitstore.sparsify.sketch import TailPilot, allocate, project
from logitstore.tails import FixedTail, LatentTail
from logitstore.targets import AnyTargets, SampledTargets, Targets, dense_logprobs, temper
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.types import ModelRef, Sample

EXACT: dict[str, Any] = {"logprobs": "float32", "tail": "uniform", "tail_mass": "float32"}
SPARSIFIERS = ["topk", "topp", "sampled", "hybrid", "dense", "hidden"]
TAILS = ["none", "uniform", "prior", "latent", "head"]
TEMPERATURES = [1.0, 2.0, 4.0]
LOGITS: dict[str, Any] = {
    "rows": st.integers(1, 4),
    "vocabulary": st.integers(2, 30),
    "padding": st.integers(0, 5),
    "seed": st.integers(0, 1000),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}


def row_for(sparsifier: str, vocabulary: int, width: int | None = 3, **chosen: Any) -> RowInfo:
    """A row of a sparsifier, with as little rounding as there is."""
    usual = EXACT if sparsifier in ("topk", "topp") else {} if sparsifier == "hidden" else {"logprobs": "float32"}
    return row_of("archive", {"sparsifier": sparsifier} | usual | chosen, vocabulary, width)


def teacher_logits(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random logits with ties, and here and there a token that cannot come."""
    generator = torch.Generator().manual_seed(seed)
    logits = (8 * torch.randn(rows, columns, generator=generator)).round() / 2
    logits[:, 1:][torch.rand(rows, columns - 1, generator=generator) < 0.1 * (seed % 3)] = -torch.inf
    return logits.to(dtype)


def numbers_for(row: RowInfo, rows: int) -> Tensor | None:
    """Uniform numbers of as many samples as rows."""
    draws = row.sparsifier.draws
    return (
        torch.from_numpy(np.concatenate([uniform(f"{i:032x}", 1, draws, DRAWS) for i in range(rows)]))
        if draws
        else None
    )


def through(row: RowInfo, kept: dict[str, Tensor], shared: dict[str, Tensor] | None = None) -> AnyTargets:
    """What was kept, encoded and decoded."""
    decoder = Decoder(row, shared or {})
    stored = decoder.codec.encode({name: value.numpy() for name, value in kept.items()})
    return decoder({name: torch.from_numpy(value) for name, value in stored.items()})


def listed_targets(row: RowInfo, kept: dict[str, Tensor], shared: dict[str, Tensor] | None = None) -> Targets:
    found = through(row, kept, shared)
    assert isinstance(found, Targets)
    return found


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
@given(k=st.integers(1, 30), **LOGITS)
def test_what_is_kept_is_true(
    sparsifier: str, k: int, rows: int, vocabulary: int, padding: int, seed: int, dtype: torch.dtype
) -> None:
    chosen = {"k": min(k, vocabulary)} if sparsifier in ("topk", "topp", "hybrid") else {}
    row = row_for(sparsifier, vocabulary, **chosen)
    logits = teacher_logits(rows, vocabulary + padding, seed, dtype)
    gold = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(seed))
    found = sparsifier_of(row)(logits, gold, numbers_for(row, rows))
    true = torch.log_softmax(logits[:, :vocabulary].double(), -1)

    def close(found: Tensor, wanted: Tensor, within: float = 2e-6) -> None:
        torch.testing.assert_close(found.double(), wanted, atol=within, rtol=1e-6)

    close(found["gold_logprob"], true.gather(1, gold[:, None])[:, 0])
    # a float32 sum of logits around 20; it is stored in float16
    close(found["entropy"], -torch.xlogy(true.exp(), true.exp()).sum(1), within=1e-5)
    close(true.gather(1, found["top1"][:, None])[:, 0], true.max(1).values)
    if "ids" not in found:
        close(found.get("logprobs", true), true)
        assert found["gold_listed"].all()
        return
    here = torch.where(torch.isneginf(found["logprobs"]), -torch.inf, true.gather(1, found["ids"]))
    close(found["logprobs"], here)
    full = torch.isfinite(found["logprobs"])
    for ids, full_K, token, is_listed in zip(found["ids"], full, gold, found["gold_listed"], strict=True):
        assert len(set(ids[full_K].tolist())) == int(full_K.sum())
        assert int(ids.max()) < vocabulary
        assert not full_K[ids == token].any() or is_listed
    if "tail_logmass" in found:
        assert (found["logprobs"].diff() <= 0)[full[:, 1:]].all()
        close(here.exp().sum(1) + found["tail_logmass"].exp(), torch.ones(rows).double())


@pytest.mark.parametrize("sparsifier", ["topk", "topp", "dense"])
@given(**LOGITS)
def test_with_every_token_kept_nothing_is_lost(
    sparsifier: str, rows: int, vocabulary: int, padding: int, seed: int, dtype: torch.dtype
) -> None:
    chosen = {"topk": {"k": vocabulary}, "topp": {"k": vocabulary, "top_p": 1.0}, "dense": {}}[sparsifier]
    row = row_for(sparsifier, vocabulary, **chosen)
    logits = teacher_logits(rows, vocabulary + padding, seed, dtype)
    kept = sparsifier_of(row)(logits, torch.zeros(rows, dtype=torch.int64))
    found = dense_logprobs(listed_targets(row, kept)).double()
    true = torch.log_softmax(logits[:, :vocabulary].double(), -1)
    torch.testing.assert_close(found.exp(), true.exp(), atol=1e-6, rtol=1e-5)
    if sparsifier != "topp":  # which drops what float32 cannot add to 1
        torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("cap", [0.0, 5.0])
@given(seed=st.integers(0, 1000))
def test_hidden_states_give_the_dense_distribution_up_to_their_bytes(cap: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = Head(torch.randn(50, 8, generator=generator), torch.randn(50, generator=generator), 0.5, cap)
    hidden = torch.randn(20, 8, generator=generator) * torch.linspace(0.1, 10, 8) + 1
    row, shared, logits = row_for("hidden", 50, width=8), whole_head(head, hidden), head.logits(hidden)
    kept = sparsifier_of(row)(logits, torch.zeros(20, dtype=torch.int64)) | {"latent": hidden}
    found = dense_logprobs(listed_targets(row, kept, shared)).double()
    half_ND = shared["std"] * ((hidden - shared["mean"]) / shared["std"]).abs().max(1, keepdim=True).values / 254
    apart_NV = (half_ND * 1.001) @ (0.5 * head.weight_VD).abs().T
    true = torch.log_softmax(logits.double(), -1)
    # a logit moves by its own bound, the normaliser by the largest one at most
    assert ((found - true).abs() <= apart_NV + apart_NV.max(1, keepdim=True).values + 1e-4).all()
    assert (true.exp() * (true - found)).sum(1).mean() < 5e-3


def test_of_tokens_that_tie_at_rank_k_the_lowest_ids_are_kept() -> None:
    found = sparsifier_of(row_for("topk", 30, k=9))(torch.zeros(1, 30), torch.tensor([0]))
    assert found["ids"].tolist() == [list(range(9))]


@given(k=st.integers(1, 30), top_p=st.floats(0.05, 1.0), sharpness=st.floats(0.1, 5), seed=st.integers(0, 1000))
def test_the_nucleus_is_the_fewest_tokens_that_reach_the_mass(
    k: int, top_p: float, sharpness: float, seed: int
) -> None:
    logits = sharpness * torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
    probs = torch.softmax(logits[0].double(), -1).tolist()
    ranked = sorted(range(30), key=lambda token: -probs[token])
    sums = list(itertools.accumulate(probs[token] for token in ranked))
    assume(all(abs(total - top_p) > 1e-6 for total in sums))
    wanted = ranked[: min(k, 1 + sum(total < top_p for total in sums))]
    gold = ranked[seed % 30]
    found = sparsifier_of(row_for("topp", 30, k=k, top_p=top_p))(logits, torch.tensor([gold]))
    assert found["ids"][0].tolist() == wanted + [0] * (k - len(wanted))
    assert torch.isneginf(found["logprobs"][0]).tolist() == [place >= len(wanted) for place in range(k)]
    dropped = sum(probs[token] for token in set(range(30)) - set(wanted))
    assert found["tail_logmass"].exp().item() == pytest.approx(dropped, abs=1e-6)
    assert found["gold_listed"].item() == (gold in wanted)


def sample(k: int, exponent: float) -> tuple[SampledTargets, Targets, Tensor]:
    """Many random samples of one row, the same with the listed logprobs renormalised, and the true probabilities."""
    row = row_for("hybrid" if k else "sampled", 12, draws=4, exponent=exponent, **({"k": k} if k else {}))
    rows = 5000
    logits = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(7)).expand(rows, -1)
    kept = sparsifier_of(row)(logits, torch.zeros(rows, dtype=torch.int64), numbers_for(row, rows))
    found = through(row, kept)
    assert isinstance(found, SampledTargets)
    renormalised = torch.log_softmax(kept["logprobs"], -1)
    naive = Targets(kept["ids"], renormalised, torch.full((rows,), -torch.inf), FixedTail.uniform(12))
    return found, naive, torch.softmax(logits[0].double(), -1)


def deviations(values_NF: Tensor, true_F: Tensor) -> Tensor:
    """How many standard errors the means are from where they should be."""
    error_F = values_NF.std(0) / math.sqrt(len(values_NF))
    return ((values_NF.mean(0) - true_F) / error_F.clamp(min=1e-7)).abs()


@pytest.mark.parametrize("exponent", [1.0, 0.7])
@pytest.mark.parametrize("k", [0, 3])
def test_samples_and_their_gradients_are_right_on_average_and_renormalised_ones_are_not(
    k: int, exponent: float
) -> None:
    found, naive, probs_V = sample(k, exponent)
    functions_FV = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    functions_FV[0], functions_FV[1] = probs_V.log(), 1.0
    student_V = 2 * functions_FV[2]
    for targets, weights_NK, is_right in ((found, found.weights_NK, True), (naive, naive.logprobs_NK.exp(), False)):
        values_NF = (weights_NK.double() * functions_FV[:, found.ids_NK]).sum(-1).T
        assert (deviations(values_NF, functions_FV @ probs_V).max().item() < 4) == is_right
        student_NV = student_V.repeat(len(found), 1).requires_grad_()
        (gradient_NV,) = torch.autograd.grad(forward_kl(student_NV, targets).sum(), student_NV)
        assert (deviations(gradient_NV, torch.softmax(student_V, -1) - probs_V).max().item() < 4) == is_right


def test_samples_are_refused_where_they_say_nothing() -> None:
    targets, _, _ = sample(0, 1.0)
    student = torch.zeros(len(targets), 12)
    with pytest.raises(BadInput, match="temperature 2"):
        forward_kl(student, targets, temperature=2.0)
    for objective in (reverse_kl, jensen_shannon):
        with pytest.raises(BadInput, match="random samples"):
            objective(student, targets)


@given(order=st.permutations(range(4)), chunk=st.integers(1, 9))
def test_draws_depend_on_the_sample_and_not_on_its_batch(order: list[int], chunk: int) -> None:
    keep = Keep.of(row_for("hybrid", 20, k=2, draws=3), {}, None)
    logits = [teacher_logits(rows, 20, seed=rows) for rows in (1, 4, 2, 3)]
    samples = [
        Sample(key=f"{index + 40:032x}", tokens_T=np.zeros(rows + 1), mask_T=np.arange(rows + 1) < rows, document=0)
        for index, rows in enumerate(map(len, logits))
    ]

    def kept_of(some: list[int], chunk: int) -> dict[int, Tensor]:
        batch = collate(samples, some)
        logits_NV = torch.cat([logits[index] for index in some])
        spans = [slice(first, min(first + chunk, len(logits_NV))) for first in range(0, len(logits_NV), chunk)]
        found = [
            keep(batch, RowChunk(span=span, logits_nV=logits_NV[span], hidden_nD=None, gold_n=batch.gold_N[span]))
            for span in spans
        ]
        return dict(zip(some, torch.cat([each["ids"] for each in found]).split(batch.counts), strict=True))

    together = kept_of(order, chunk)
    assert all(torch.equal(together[index], kept_of([index], 100)[index]) for index in range(4))


def kl_of_sketches(head: Head, sizes: list[int]) -> tuple[list[float], float]:
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
        Head(weight, bias * torch.randn(200, generator=generator), multiplier, cap), [1, 2, 4, 8, 12]
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


TINY: dict[str, Any] = {
    "vocab_size": 70, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = [
    LlamaConfig(**TINY),
    Gemma2Config(**TINY | {"final_logit_softcapping": 3.0}),
    CohereConfig(**TINY | {"logit_scale": 0.25}),
    GraniteConfig(**TINY | {"logits_scaling": 6.0}),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_head_gives_the_logits_of_the_model(config: Any, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    Auto.from_config(config).save_pretrained(tmp_path)
    ref = ModelRef.parse(str(tmp_path))
    teacher = CausalTeacher(ref, load_config(ref), dtype, "cpu")
    logits, hidden = teacher.logits_and_hidden(
        {"input_ids": torch.randint(0, 70, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    )
    head = teacher.head(64).matching(teacher.name, hidden.flatten(0, 1), logits.flatten(0, 1))
    found, own = head.logits(hidden.flatten(0, 1)), logits.flatten(0, 1)[:, :64].float()
    tolerance = {"float32": 1e-5, "bfloat16": 2**-6}[dtype]
    assert (found - own).abs().max() <= tolerance * own.abs().max()


class Odd(LlamaForCausalLM):
    """A real model that bends its logits in a way of its own."""

    def forward(self, *args: Any, **options: Any) -> CausalLMOutputWithPast:
        output: CausalLMOutputWithPast = super().forward(*args, **options)
        assert output.logits is not None
        output.logits = output.logits + 0.01 * output.logits.sin()
        return output


def test_a_head_that_does_something_unknown_is_refused_by_name() -> None:
    torch.manual_seed(0)
    model = Odd(CONFIGS[0]).eval()
    seen: list[Tensor] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = model(torch.randint(0, 70, (2, 9))).logits
    with pytest.raises(ModelError, match="Odd: its logits differ"):
        Head.of(model, model.config, 64).matching("Odd", seen[0].flatten(0, 1), logits.flatten(0, 1))
    model.set_output_embeddings(torch.nn.Bilinear(1, 1, 1))
    with pytest.raises(ModelError, match="Odd: its output layer is Bilinear"):
        Head.of(model, model.config, 64)


def targets_of(tail: str, seed: int, rows: int = 4, k: int = 3, vocabulary: int = 17) -> tuple[Targets, Tensor]:
    """Targets with a tail, and float64 logprobs [N, V] of the distribution they stand for."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 5, generator=generator)
    weight, base, bias = (
        torch.randn(*shape, generator=generator) for shape in ((vocabulary, 5), (vocabulary,), (vocabulary,))
    )
    prior = torch.rand(vocabulary, generator=generator) + 0.01
    shapes = {"prior": FixedTail.prior(prior), "latent": LatentTail(weight, base, bias, 2.0)}
    shapes["head"] = LatentTail(weight, base, torch.zeros(vocabulary))
    shape = shapes.get(tail, FixedTail.uniform(vocabulary))
    linear = latent.double() @ weight.double().T + base.double()
    logits = {
        "prior": prior.double().log().expand(rows, -1),
        "latent": 2 * torch.tanh(linear / 2) + bias,
        "head": linear,
    }
    tail_NV = logits.get(tail, torch.zeros(rows, vocabulary, dtype=torch.float64))
    if tail == "head":
        none = torch.zeros(rows, 0)
        return Targets(none.long(), none, torch.zeros(rows), shape, latent), torch.log_softmax(tail_NV, -1)
    full = torch.log_softmax(3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64), -1)
    listed, ids = full.topk(k)
    mass = torch.full((rows,), -torch.inf).double() if tail == "none" else full.scatter(1, ids, -torch.inf).logsumexp(1)
    listed = torch.log_softmax(listed, -1) if tail == "none" else listed
    stored = torch.log_softmax(tail_NV.scatter(1, ids, -torch.inf), -1) + mass[:, None]
    targets = Targets(ids, listed.float(), mass.float(), shape, latent if tail == "latent" else None)
    return targets, stored.scatter(1, ids, listed)


def kl_of(p: Tensor, q: Tensor) -> Tensor:
    """KL of logprobs [N, V], nats."""
    return torch.where(p > -torch.inf, p.exp() * (p.clamp(min=-1e3) - q), 0.0).sum(-1)


@pytest.mark.parametrize("tail", TAILS)
@given(seed=st.integers(0, 1000), first=st.floats(0.5, 4), second=st.floats(0.5, 4))
def test_temperatures_compose(tail: str, seed: int, first: float, second: float) -> None:
    targets, stored = targets_of(tail, seed)
    both, true = dense_logprobs(targets, first * second), torch.log_softmax(stored / (first * second), -1)
    torch.testing.assert_close(
        both, torch.log_softmax(dense_logprobs(targets, first) / second, -1), atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(both.double(), true, atol=1e-4, rtol=1e-5)
    if isinstance(targets.tail, FixedTail):
        tempered = temper(targets, first * second)
        torch.testing.assert_close(tempered.logprobs_NK, true.gather(1, targets.ids_NK), atol=1e-5, rtol=1e-5)
        rest = true.scatter(1, targets.ids_NK, -torch.inf).logsumexp(1)
        torch.testing.assert_close(tempered.tail_logmass_N, rest, atol=1e-5, rtol=1e-5)


def jensen_shannon_of(p: Tensor, q: Tensor) -> Tensor:
    middle = torch.logaddexp(p.clamp(min=-1e3), q) - math.log(2)
    return (kl_of(p, middle) + kl_of(q, middle)) / 2


REFERENCES: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    forward_kl: kl_of,
    reverse_kl: lambda p, s: kl_of(s, p),
    jensen_shannon: jensen_shannon_of,
}


@pytest.mark.parametrize("objective", REFERENCES, ids=lambda objective: objective.__name__)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_every_divergence_and_its_gradient_are_the_dense_ones(objective: Any, tail: str, temperature: float) -> None:
    targets, stored = targets_of(tail, seed=5)
    student = torch.randn(4, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = objective(student, targets, temperature=temperature)
    if objective is reverse_kl and tail == "none":
        assert torch.isposinf(found).all()
        return
    teacher = torch.log_softmax(stored / temperature, -1)
    wanted = temperature**2 * REFERENCES[objective](teacher, torch.log_softmax(student / temperature, -1))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(loss.sum(), student)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    at_home = objective(stored.clamp(min=-1e3), targets, temperature=temperature)
    torch.testing.assert_close(at_home, torch.zeros(4).double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("tail", [tail for tail in TAILS if tail != "head"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_losses_on_the_list_are_the_dense_ones(tail: str, temperature: float) -> None:
    targets, stored = targets_of(tail, seed=5)
    student = torch.randn(4, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    ids, logprobs = targets.ids_NK, torch.log_softmax(student / temperature, -1)
    listed = torch.log_softmax(stored.gather(1, ids) / temperature, -1)
    found = renormalised_kl(student, targets, temperature=temperature)
    pairs = [(found, temperature**2 * kl_of(listed, logprobs.gather(1, ids)))]
    if temperature == 1:
        rest = [whole.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True) for whole in (stored, logprobs)]
        lumped = [torch.cat([whole.gather(1, ids), rest[i]], 1) for i, whole in enumerate((stored, logprobs))]
        pairs.append((lumped_kl(student, targets), kl_of(*lumped)))
        torch.testing.assert_close(lumped_kl(stored, targets), torch.zeros(4).double(), rtol=0, atol=1e-5)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        gradients = [torch.autograd.grad(loss.sum(), student, retain_graph=True)[0] for loss in (found, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [-torch.inf, -300.0])
def test_the_reverse_kl_has_a_gradient_where_the_student_gives_no_mass(padding: float) -> None:
    targets, _ = targets_of("prior", seed=5)
    student = torch.nn.functional.pad(torch.randn(4, 17), (0, 2), value=padding).requires_grad_()
    found = reverse_kl(student, targets)
    assert torch.isfinite(found).all()
    assert torch.isfinite(torch.autograd.grad(found.sum(), student)[0]).all()
