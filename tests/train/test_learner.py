"""Two means in one loss: the pulls towards the teacher over the rows, the cross-entropy over all gold tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.dump.dump import dump
from logitstore.integrations.distiller import Distiller
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.loop.batches import row_counts, row_weights
from logitstore.train.train import train
from tests.parts.marks import often
from tests.parts.texts import plan_for
from tests.parts.training import curve, plan_of

ALPHA = 0.7


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """The cache of the fixtures with a quarter of its rows."""
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("chosen") / "cache", positions="entropy:0.25"))


def distiller_of(cache: logitstore.Cache, student: Path, **options: Any) -> Distiller:
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    return Distiller(model, cache, batch_size=4, holdout=0.2, **options)


def gradient_of(loss: Tensor, distiller: Distiller) -> Tensor:
    distiller.student.zero_grad()
    loss.backward()
    return torch.cat([each.grad.flatten().double() for each in distiller.student.parameters() if each.grad is not None])


def reference(distiller: Distiller, batches: list[Batch], alpha: float) -> Tensor:
    """Both means in float64, sample by sample, from the model's whole logits and the cache's samples."""
    student: Any = distiller.student.double()
    kl, gold = [], []
    for batch in batches:
        for number in batch.samples.tolist():
            found: Any = distiller.cache[number]
            tokens_T = torch.from_numpy(found.sample.tokens_T.astype(np.int64))
            student_TV = torch.log_softmax(student(tokens_T[None]).logits[0], -1)
            part, place = distiller.cache.locate(number)
            fields = {name: torch.from_numpy(np.array(value)) for name, value in part.stored(place).items()}
            teacher_NV = dense(decoder_of(distiller.cache)(fields)).double()  # type: ignore[arg-type]
            own_NV = student_TV[torch.from_numpy(found.sample.positions_N), : teacher_NV.shape[1]]
            kl.append(torch.where(teacher_NV > 0, teacher_NV * (teacher_NV.log() - own_NV), 0.0).sum(1))
            asked = np.flatnonzero(found.sample.mask_T if found.sample.gold_T is None else found.sample.gold_T)
            gold.append(-student_TV[torch.from_numpy(asked), tokens_T[torch.from_numpy(asked) + 1]])
    return alpha * torch.cat(kl).mean() + (1 - alpha) * torch.cat(gold).mean()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_loss_and_gradient_are_those_of_the_two_means(
    fused: bool, packed: bool, chosen: logitstore.Cache, small_student: Path
) -> None:
    distiller = distiller_of(chosen, small_student, alpha=ALPHA, packed=packed, objective="forward_kl")
    if not fused:
        distiller.learner.head = None
    batches = next(distiller.steps(2))
    assert all(len(batch.unanswered["rows"]) > 2 * len(batch.rows) for batch in batches)
    rows = distiller.rows(batches)
    losses = torch.stack([distiller.loss(batch, rows) for batch in batches])
    gradient = gradient_of(losses.sum(), distiller)
    expected = reference(distiller, batches, ALPHA)
    torch.testing.assert_close(losses.sum().double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, gradient_of(expected, distiller), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "objective",
    often(["skew_forward_kl", "dist", "reverse_kl", "taid", "dkd", "sinkhorn"], lambda name: name == "dist"),
)
def test_any_objective_is_over_the_rows_and_cross_entropy_over_all(
    objective: str, chosen: logitstore.Cache, small_student: Path
) -> None:
    """Also where rows are compared with each other, so that the last of them stand in a group that is not full."""
    mixed, alone = (distiller_of(chosen, small_student, objective=objective, alpha=alpha) for alpha in (ALPHA, 1.0))
    batch = next(iter(mixed.train))
    found = mixed.loss(batch)
    gradient = gradient_of(found, mixed)
    pulled = alone.loss(batch)
    expected = ALPHA * gradient_of(pulled, alone)
    gold = reference(mixed, [batch], 0.0)
    torch.testing.assert_close(found.double(), ALPHA * pulled.double() + (1 - ALPHA) * gold, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected + (1 - ALPHA) * gradient_of(gold, mixed), rtol=1e-3, atol=1e-6)


def test_the_losses_of_two_processes_are_that_of_one(chosen: logitstore.Cache, small_student: Path) -> None:
    """Gradients of processes are averaged. A batch that only fills up a step does not count."""
    whole = distiller_of(chosen, small_student, alpha=ALPHA)
    one, two = next(whole.steps(2))
    no_gold = one.unanswered | {"mask": torch.zeros_like(one.unanswered["mask"])}
    filler = replace(one, row_mask=torch.zeros_like(one.row_mask), unanswered=no_gold)
    expected = torch.stack([whole.loss(batch, whole.rows([one, two])) for batch in (one, two)]).sum()
    ranks = [distiller_of(chosen, small_student, alpha=ALPHA, rank=rank, world_size=2) for rank in (0, 1)]
    for given in ([one, two], [one, filler]):
        rows = ranks[0].rows(given)
        losses = torch.stack([each.loss(batch, rows) for each, batch in zip(ranks, given, strict=True)])
        torch.testing.assert_close(losses.mean(), expected if given[1] is two else whole.loss(one))
    assert float(losses[1].detach()) == 0


def test_a_filler_batch_counts_no_gold_token(chosen: logitstore.Cache) -> None:
    count = len(chosen) // 3 * 3 + (len(chosen) % 3 == 0) * -3 + 1
    loader = Loader(chosen, batch_size=1, samples=np.arange(count), rank=2, world_size=3, shuffle=False)
    last = loader.at(0, len(loader) - 1)
    assert row_counts(last).tolist() == [0, 0]
    assert last.samples.tolist() == [-1]


def test_the_weights_of_a_selection_are_those_of_all_gold_tokens(chosen: logitstore.Cache) -> None:
    weights_S = np.linspace(0.5, 2.0, len(chosen)).astype(np.float32)
    batch = Loader(chosen, batch_size=5, weights=weights_S).at(0, 0)
    weights_A, scale_A = row_weights(batch, row_counts(batch), processes=1)
    assert scale_A is not None
    rows, golds = row_counts(batch).tolist()
    assert len(weights_A) == golds
    owners = torch.repeat_interleave(batch.samples, batch.counts)
    torch.testing.assert_close(weights_A[:rows], torch.from_numpy(weights_S)[owners] / rows)
    others = [chosen[number].sample for number in batch.samples.tolist()]
    owners = torch.repeat_interleave(
        batch.samples, torch.tensor([int((each.gold_T & ~each.mask_T).sum()) for each in others])
    )
    torch.testing.assert_close((weights_A * scale_A)[rows:], torch.from_numpy(weights_S)[owners] / golds)


def test_without_a_choice_nothing_is_added_to_a_batch(cache: logitstore.Cache, chosen: logitstore.Cache) -> None:
    batch = next(iter(Loader(cache)))
    assert not batch.unanswered
    assert not any(name.startswith("unanswered") for name in batch.tensors())
    assert row_weights(batch, row_counts(batch), processes=1)[1] is None
    other = next(iter(Loader(chosen)))
    again = Batch(other.tensors()).to("cpu")
    assert again.unanswered.keys() == {"rows", "gold", "mask"}
    ids = other.inputs["input_ids"].flatten()
    assert torch.equal(ids[other.unanswered["rows"] + 1], other.unanswered["gold"])
    places = torch.cat([other.rows, other.unanswered["rows"]])
    assert len(places.unique()) == len(places)


def test_a_run_on_gold_tokens_alone_is_that_of_the_cache_of_all_rows(
    cache: logitstore.Cache, chosen: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    curves = []
    for name, each in {"all": cache, "chosen": chosen}.items():
        settings = plan_of(each, tmp_path / name, student=str(small_student), alpha=0.0, max_steps=3, accumulate=2)
        figures = train(settings)
        curves.append(curve(tmp_path / name) | {0: figures["eval_cross_entropy"], -1: figures["eval_top5_accuracy"]})
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_a_run_logs_both_means_and_its_first_loss_is_the_two_together(
    chosen: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"alpha": ALPHA, "max_steps": 1, "batch_size": 4, "objective": "forward_kl"}
    settings = plan_of(chosen, tmp_path / "run", student=str(small_student), **options)
    figures = train(settings)
    distiller = distiller_of(chosen, small_student, alpha=ALPHA, objective="forward_kl")
    batch = distiller.train.at(0, 0)
    assert figures["train_loss"] == pytest.approx(float(reference(distiller, [batch], ALPHA).detach()), rel=1e-5)


@pytest.mark.parametrize("alpha", [1.0, ALPHA])
def test_a_run_that_learns_nothing_of_positions_without_a_row_says_so(
    alpha: float, chosen: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    settings = plan_of(chosen, tmp_path / "run", student=str(small_student), alpha=alpha, max_steps=1, batch_size=4)
    train(settings, notice=said.append)
    share = chosen.manifest.text[1].positions
    warned = [text for text in said if f"({share})" in text and "--alpha 0.5 takes their gold tokens" in text]
    assert len(warned) == (alpha == 1)


def test_figures_on_gold_tokens_are_over_all_of_them_and_those_on_the_teacher_over_the_rows(
    chosen: logitstore.Cache, small_student: Path
) -> None:
    distiller = distiller_of(chosen, small_student)
    found = distiller.evaluate()
    assert distiller.held_out is not None
    batches = list(distiller.held_out)
    student: Any = distiller.student
    rows, nats, right, teacher, probable = 0, [], [], [], []
    for number in torch.cat([batch.samples for batch in batches]).tolist():
        each: Any = chosen[number]
        tokens_T = torch.from_numpy(each.sample.tokens_T.astype(np.int64))
        with torch.no_grad():
            logprobs_TV = torch.log_softmax(student(tokens_T[None]).logits[0].double(), -1)
        asked = torch.from_numpy(np.flatnonzero(each.sample.gold_T))
        nats += (-logprobs_TV[asked, tokens_T[asked + 1]]).tolist()
        right += (logprobs_TV[asked].argmax(1) == tokens_T[asked + 1]).tolist()
        probable += logprobs_TV[asked].amax(1).exp().tolist()
        teacher += (-each.answer["gold_logprob"].astype(np.float64)).tolist()
        rows += each.sample.rows
    bins = np.clip(np.ceil(np.array(probable) * 15), 1, 15)
    error = sum(abs((np.array(probable) - right)[bins == place].sum()) for place in range(1, 16)) / len(right)
    assert found["rows"] == rows < len(nats) / 3
    assert found["cross_entropy"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right), abs=1e-9)
    assert found["teacher_cross_entropy"] == pytest.approx(np.mean(teacher), rel=1e-5)
    assert found["calibration_error"] == pytest.approx(error, rel=1e-4)
    expected = reference(distiller, batches, 1.0).detach()
    assert found["kl"] == pytest.approx(float(expected), rel=1e-4)
