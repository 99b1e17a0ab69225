"""The loss that a trainer takes, from logits and with the head in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    TrainingArguments,
)

import logitstore
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives import forward_kl
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.students.output_head import output_head
from logitstore.train.train import train
from logitstore.train.trainer import DistillTrainer
from tests.parts.texts import VOCABULARY
from tests.parts.training import plan_of, trainer_of


def test_the_loss_is_the_mean_over_rows_of_the_mixed_objective(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path, alpha=0.3, temperature=2.0)
    loader = Loader(cache, batch_size=4)
    batch = next(iter(loader))
    found = trainer.compute_loss(trainer.model, batch.tensors())
    logits = trainer.model(**batch.model_inputs()).logits.flatten(0, 1)[batch.rows].double()
    distilled = forward_kl(logits, loader.targets(batch), temperature=2.0)
    gold = -torch.log_softmax(logits, -1)[torch.arange(len(logits)), batch.gold]
    torch.testing.assert_close(found.double(), (0.3 * distilled + 0.7 * gold).mean(), rtol=1e-5, atol=1e-6)


def test_without_distillation_it_is_the_loss_of_transformers(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path, alpha=0.0)
    whole = np.array([index for index in range(len(cache)) if cache[index].sample.mask_T[:-1].all()])
    batch = next(iter(Loader(cache, batch_size=4, samples=whole)))
    assert batch.attention_mask is not None
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    expected = trainer.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch.tensors()), expected)


def test_a_batch_whose_rows_do_not_count_has_no_loss_and_no_gradient(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path)
    tensors = next(iter(Loader(cache, batch_size=4))).tensors()
    loss = trainer.compute_loss(trainer.model, tensors | {"row_mask": torch.zeros_like(tensors["row_mask"])})
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in trainer.model.parameters())


def test_in_bfloat16_the_logits_stay_narrow_and_the_loss_is_taken_in_float32(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    loader = Loader(cache, batch_size=4)
    batch = next(iter(loader))
    trainer = trainer_of(cache, small_student, tmp_path, autocast=torch.bfloat16)
    loss, output = trainer.compute_loss(trainer.model, batch.tensors(), return_outputs=True)
    assert output.logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    rows = output.logits.detach().flatten(0, 1)[batch.rows].double()
    torch.testing.assert_close(loss.double(), forward_kl(rows, loader.targets(batch)).mean(), rtol=1e-5, atol=1e-6)


def test_packed_samples_give_the_loss_of_padded_ones(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path)
    chosen = np.arange(12)
    losses = [
        trainer.compute_loss(
            trainer.model,
            next(iter(Loader(cache, batch_size=12, samples=chosen, shuffle=False, packed=packed))).tensors(),
        )
        for packed in (False, True)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


HEADS: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "gemma 2": (Gemma2Config, {"final_logit_softcapping": 5.0, "head_dim": 8}),
    "cohere": (CohereConfig, {"logit_scale": 0.3}),
    "granite": (GraniteConfig, {"logits_scaling": 4.0}),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_with_the_head_in_the_loss_it_is_the_same_loss_and_gradient(
    cache: logitstore.Cache, tmp_path: Path, kind: str, autocast: torch.dtype | None
) -> None:
    """Real architectures: the trainer with the output layer in the loss against the trainer that sees logits."""
    torch.manual_seed(0)
    config, changes = HEADS[kind]
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3}
    model = AutoModelForCausalLM.from_config(config(**shape | changes))
    batch = next(iter(Loader(cache, batch_size=4)))
    head = output_head(model, batch.input_ids[:1, :9])
    assert head.cap == changes.get("final_logit_softcapping", 0.0)
    found = []
    for known in (None, head):
        trainer = DistillTrainer(
            learners=[
                Learner(
                    student=model,
                    criterion=Criterion.mixed(alpha=0.4, temperature=2.0),
                    head=known,
                    autocast=autocast,
                )
            ],
            args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True),
            train_loader=Loader(cache, batch_size=4),
            held_out_loader=None,
        )
        model.zero_grad()
        assert trainer.head_is_whole
        loss = trainer.compute_loss(model, batch.tensors())
        loss.backward()
        found.append((loss.detach(), {name: each.grad.clone() for name, each in model.named_parameters()}))
    close = {"rtol": 5e-2, "atol": 2e-2} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found[1][0], found[0][0], **close)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, **close)


def test_a_head_that_is_not_linear_is_told_and_trained_from_logits(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    train(plan_of(cache, tmp_path / "known", student=str(small_student), max_steps=2), notice=said.append)
    assert any("its logits never exist whole" in text for text in said)
    monkeypatch.setattr(LlamaForCausalLM, "get_output_embeddings", lambda self: torch.nn.Identity())
    train(plan_of(cache, tmp_path / "other", student=str(small_student), max_steps=2), notice=said.append)
    assert any("the loss is taken from the student's logits (LlamaForCausalLM" in text for text in said)
    logs = [json.loads((tmp_path / name / "logitstore.json").read_text())["log"] for name in ("known", "other")]
    for one, other in zip(*logs, strict=True):
        for name in ("loss", "kl", "cross_entropy"):
            if name in one:
                assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_after_a_loss_that_is_not_finite_the_log_goes_on(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path, alpha=0.0)
    batches = [batch.tensors() for batch in Loader(cache, batch_size=4)][:2]
    loss = trainer.compute_loss(trainer.model, batches[0])
    trainer.learners[0].sums["loss"] = trainer.learners[0].sums["loss"] + torch.inf
    trainer.log({"loss": float("nan")})
    assert trainer.state.log_history[-1]["loss"] == float("inf")
    loss = trainer.compute_loss(trainer.model, batches[1])
    trainer.log({"loss": float("nan")})
    assert trainer.state.log_history[-1]["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_batches_go_to_the_device_without_waiting_for_it(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path)
    tensors = next(iter(Loader(cache, batch_size=4))).tensors()
    sent = []

    def note(value: torch.Tensor, device: torch.device) -> torch.Tensor:
        sent.append(device)
        return value

    monkeypatch.setattr("logitstore.train.trainer.sent", note)
    given = trainer._prepare_inputs(tensors)
    assert given == tensors
    assert sent == [trainer.args.device] * sum(isinstance(value, torch.Tensor) for value in tensors.values())
    _, rows = trainer.get_batch_samples(iter([tensors]), 1, trainer.args.device)
    assert rows == int(tensors["row_mask"].sum())
    assert sent[-1] == trainer.args.device
