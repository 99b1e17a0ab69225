"""Training of adapters: what changes, what is saved, and that it is what peft and a plain loop make of the same batches."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives import forward_kl
from logitstore.train.train import train
from tests.parts.adapters import ALL, peft_logits, plain_logits, saved_adapter, weights_of
from tests.parts.marks import rarely
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import curve, plan_of, started_in
from tests.parts.warm import free_port

# peft asks transformers by names that the next transformers lacks
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")

TOKENS_BT = torch.arange(24).view(2, 12)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def judged(cache: logitstore.Cache, student: Path) -> Any:
    return evaluate(EvaluateSettings(cache=cache.path, student=str(student), holdout=0.2, device="cpu"))


@pytest.fixture(scope="module")
def trained(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter after six steps, with the checkpoint after three."""
    out = tmp_path_factory.mktemp("trained") / "student"
    options: dict[str, Any] = {"max_steps": 6, "save_every": 3, "keep_checkpoints": 2}
    train(plan_of(cache, out, student=str(small_student), lora=f"{ALL},dropout=0.1", **options))
    return out


def test_an_adapter_is_saved_as_peft_does_and_its_model_stays_as_it_was(
    cache: logitstore.Cache, small_student: Path, trained: Path, tmp_path: Path
) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "logitstore.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(small_student)
    before = judged(cache, small_student)
    after = judged(cache, trained)
    assert after.kl < before.kl
    figures = json.loads((trained / "logitstore.json").read_text())
    assert figures["figures"]["eval_kl"] == pytest.approx(after.kl, rel=1e-5)
    assert figures["students"]["student"]["adapter"]
    assert figures["students"]["student"]["trained"] == sum(each.numel() for each in weights_of(trained).values())
    assert AutoTokenizer.from_pretrained(trained) is not None
    with_adapter = peft.AutoPeftModelForCausalLM.from_pretrained(trained)
    base = AutoModelForCausalLM.from_pretrained(small_student).state_dict()
    inside = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in with_adapter.state_dict().items()
        if "lora_" not in name
    }
    assert inside.keys() == base.keys()
    assert all(torch.equal(inside[name], base[name]) for name in base)


def test_an_adapter_resumed_from_a_checkpoint_is_that_of_an_uninterrupted_run(
    cache: logitstore.Cache, small_student: Path, trained: Path, tmp_path: Path
) -> None:
    """With dropout, whose random numbers go on too."""
    out = tmp_path / "stopped"
    shutil.copytree(trained / "checkpoint-3", out / "checkpoint-3")
    options: dict[str, Any] = {"max_steps": 6, "save_every": 3, "resume": True, "student": str(small_student)}
    train(plan_of(cache, out, lora=f"{ALL},dropout=0.1", **options))
    assert curve(out) == curve(trained)
    whole, resumed = weights_of(trained), weights_of(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("changed", [{"lora": None}, {"lora": "r=8,targets=all-linear"}, {"freeze": ["model.norm*"]}])
def test_a_run_is_not_gone_on_with_by_other_weights(
    cache: logitstore.Cache, small_student: Path, trained: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(trained / "checkpoint-3", out / "checkpoint-3")
    options = {"max_steps": 6, "student": str(small_student), "lora": f"{ALL},dropout=0.1"} | changed
    with pytest.raises(BadInput, match=f"began with {next(iter(changed))}"):
        train(plan_of(cache, out, resume=True, **options))


@pytest.mark.parametrize("targets", ["all-linear", "lm_head,q_proj", rarely("embed_tokens,down_proj")])
def test_the_merged_model_answers_as_the_adapter(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, targets: str
) -> None:
    """Also with an adapter on the output layer, which the loss then must not pass by."""
    options: dict[str, Any] = {"student": str(small_student), "max_steps": 4, "lora": f"r=4,targets={targets}"}
    said: list[str] = []
    train(plan_of(cache, tmp_path / "adapter", **options), notice=said.append)
    train(plan_of(cache, tmp_path / "merged", lora_merge=True, **options))
    assert any("loss is taken from the student's logits" in each for each in said) == ("lm_head" in targets)
    found = weights_of(tmp_path / "adapter")
    assert all(value.abs().max() > 0 for value in found.values())
    expected = peft_logits(tmp_path / "adapter", TOKENS_BT)
    assert (expected - plain_logits(small_student, TOKENS_BT)).abs().max() > 0.05
    torch.testing.assert_close(plain_logits(tmp_path / "merged", TOKENS_BT), expected, rtol=1e-4, atol=1e-4)
    assert judged(cache, tmp_path / "adapter").kl == pytest.approx(judged(cache, tmp_path / "merged").kl, rel=1e-5)


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], ["lm_head", "v_proj"]])
def test_an_adapter_is_trained_on_as_by_a_plain_loop_over_the_same_batches(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, targets: list[str]
) -> None:
    """The adapter comes from peft; three steps of plain gradient descent show its gradient."""
    start = saved_adapter(small_student, tmp_path / "start", target_modules=targets)
    before = digests(start)
    model = peft.AutoPeftModelForCausalLM.from_pretrained(start, is_trainable=True, dtype=torch.float32)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.05)
    loader = Loader(cache, batch_size=4, seed=0)
    for number in range(3):
        batch = loader.at(0, number)
        logits_RV = model(**batch.model_inputs()).logits.flatten(0, 1)
        loss = forward_kl(logits_RV[batch.rows], loader.targets(batch))[batch.row_mask].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "expected", save_embedding_layers=False)
    course = {"optim": "sgd", "max_grad_norm": 1e9, "logging_steps": 1}
    plan: dict[str, Any] = {"learning_rate": 0.05, "scheduler": "constant", "warmup": 0.0, "trainer": course}
    plan |= {"holdout": 0.0, "objective": "forward_kl"}
    train(plan_of(cache, tmp_path / "out", student=str(start), batch_size=4, max_steps=3, **plan))
    expected, found, first = (weights_of(folder) for folder in (tmp_path / "expected", tmp_path / "out", start))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        moved = (expected[name] - first[name]).abs().max()
        assert moved > 1e-6
        assert (value - expected[name]).abs().max() < 1e-3 * moved, name
    assert digests(start) == before


@pytest.mark.slow
def test_two_processes_train_the_adapter_that_one_does(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"student": str(small_student), "lora": ALL, "max_steps": 3, "learning_rate": 0.1}
    options["precision"] = "float32"
    options["trainer"] = {"optim": "sgd", "logging_steps": 1}
    train(plan_of(cache, tmp_path / "one", accumulate=2, **options))
    recipe = tmp_path / "recipe.yaml"
    plan = plan_of(cache, tmp_path / "two", **options)
    recipe.write_text(json.dumps({"train": plan.model_dump(mode="json")}))
    # with a folder of its own the second process shows what it writes
    other, port = tmp_path / "other", str(free_port())
    ranks = [("--config", recipe, "--save-every", 2), ("--config", recipe, "--save-every", 2, "--out", other)]
    started = [started_in(2, *each, only=rank, MASTER_PORT=port)[0] for rank, each in enumerate(ranks)]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert not [path for path in other.rglob("*") if path.is_file() and not path.name.startswith("rng_state")]
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=1e-5)
    assert all(value.abs().max() > 1e-3 for value in one.values())
    assert all((two[name] - value).abs().max() < 1e-4 * value.abs().max() for name, value in one.items())


def test_students_trained_together_have_the_adapters_that_they_have_alone(
    cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"lora": ALL, "max_steps": 2, "holdout": 0.0}
    train(plan_of(cache, tmp_path / "both", student=[str(small_student), str(teacher)], **options))
    for student in (small_student, teacher):
        train(plan_of(cache, tmp_path / student.name, student=str(student), **options))
        alone, together = weights_of(tmp_path / student.name), weights_of(tmp_path / "both" / student.name)
        assert all(torch.equal(together[name], value) for name, value in alone.items())


@pytest.mark.parametrize(
    "trainer", [{"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}} for reentrant in (True, False)]
)
def test_activations_that_are_computed_again_give_the_same_adapter(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, trainer: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"student": str(small_student), "lora": ALL, "max_steps": 2}
    train(plan_of(cache, tmp_path / "kept", **options))
    train(plan_of(cache, tmp_path / "again", trainer={"gradient_checkpointing": True, **trainer}, **options))
    kept, again = weights_of(tmp_path / "kept"), weights_of(tmp_path / "again")
    assert all(torch.equal(again[name], value) for name, value in kept.items())


def test_an_adapter_on_tied_weights_is_not_added_to_both(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = save_model(tmp_path / "tied", tokenizer, VOCABULARY, num_hidden_layers=1, tie_word_embeddings=True)
    options: dict[str, Any] = {"student": str(student), "lora": "r=2,targets=lm_head", "max_steps": 2}
    with pytest.raises(BadInput, match=r"--lora-merge: lm_head of .* shares its weight"):
        train(plan_of(cache, tmp_path / "out", lora_merge=True, **options))
    train(plan_of(cache, tmp_path / "out", **options))
    expected = peft_logits(tmp_path / "out", TOKENS_BT)
    assert (expected - plain_logits(student, TOKENS_BT)).abs().max() > 1e-3
    assert judged(cache, tmp_path / "out").kl != judged(cache, student).kl
    train(plan_of(cache, tmp_path / "whole", student=str(student), lora="r=2", lora_merge=True, max_steps=2))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "whole").config.tie_word_embeddings


def test_features_are_compared_through_an_adapter_where_it_changes_them(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    tapped = dump(plan_for(teacher, texts, tmp_path / "cache", hidden="all", limit=6))
    options: dict[str, Any] = {"student": str(teacher), "lora": "r=4,targets=q_proj,v_proj", "max_steps": 2}
    term = {"name": "match", "options": {"layers": "1:1"}}
    with pytest.raises(BadInput, match=r"hidden-0 of .*, which no weight that is trained changes"):
        train(plan_of(tapped, tmp_path / "no", terms=[term | {"options": {"layers": "0:0,1:1"}}], **options))
    train(plan_of(tapped, tmp_path / "out", terms=[term], **options))
    assert all(value.abs().max() > 0 for value in weights_of(tmp_path / "out").values())


def test_an_adapter_is_not_loaded_where_it_is_cut_off(cache: logitstore.Cache, trained: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained, tmp_path / "cut")
    (out / "adapter_model.safetensors").write_bytes((trained / "adapter_model.safetensors").read_bytes()[:-9])
    with pytest.raises(ModelError, match="the weights of the adapter cannot be loaded"):
        judged(cache, out)
