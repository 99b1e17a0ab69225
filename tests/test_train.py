"""Training and judging students: the loss, resuming, students of every kind, several processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

import logitstore
from logitstore.batch import Batch
from logitstore.criterion import Criterion, RowTerm
from logitstore.distill_trainer import DistillTrainer
from logitstore.dump import dump
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.evaluate import evaluate
from logitstore.learner import Learner
from logitstore.loader import Loader
from logitstore.methods import METHODS, check_method
from logitstore.objectives import forward_kl
from logitstore.plans import EvaluatePlan, TrainPlan
from logitstore.presets import row_of
from logitstore.pulls import criterion_of
from logitstore.schedule import Schedule
from logitstore.students.build import copied, fresh, parse_layers
from logitstore.students.output_head import output_head
from logitstore.students.packing import check_packing
from logitstore.train import train
from logitstore.types import ModelRef
from tests.conftest import PADDED_VOCABULARY, VOCABULARY, logitstore_command, plan_for, save_model, tree


def plan_of(cache: logitstore.Cache, out: Path, **changes: Any) -> TrainPlan:
    usual: dict[str, Any] = {
        "cache": cache.path,
        "out": out,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "holdout": 0.2,
        "device": "cpu",
        "trainer": {"logging_steps": 1},
    }
    return TrainPlan(**usual | changes)


def curve(out: Path) -> dict[int, float]:
    """The training loss at every step, as logged."""
    log = json.loads((out / "logitstore.json").read_text())["log"]
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


@pytest.fixture(scope="module")
def trained(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "student"
    train(plan_of(cache, out, student=str(small_student), epochs=2, accumulate=2, save_every=3, precision="bfloat16"))
    return out


def test_a_trained_student_is_nearer_to_the_teacher_and_usable(
    cache: logitstore.Cache, small_student: Path, trained: Path
) -> None:
    before = evaluate(EvaluatePlan(cache=cache.path, student=str(small_student), holdout=0.2, device="cpu"))
    after = evaluate(EvaluatePlan(cache=cache.path, student=str(trained), holdout=0.2, device="cpu"))
    assert after.kl < 0.8 * before.kl
    assert after.agreement > before.agreement
    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model(**tokenizer("hello", return_tensors="pt")).logits.shape[-1] == VOCABULARY
    logged = json.loads((trained / "logitstore.json").read_text())
    assert logged["figures"]["eval_kl"] == pytest.approx(after.kl, rel=0.02)  # judged in bfloat16 there, float32 here
    assert logged["cache"] == cache.manifest.identity


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_resumed_from_a_checkpoint_repeats_the_uninterrupted_curve(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, precision: str
) -> None:
    """Stopped in the middle of the second epoch, with gradient accumulation."""
    options = {"student": str(small_student), "epochs": 2.0, "accumulate": 2, "save_every": 3, "precision": precision}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    at_once = train(plan_of(cache, whole, **options, trainer={"logging_steps": 1, "save_total_limit": None}))
    steps = sorted(curve(whole))
    resume_at = max(step for step in steps if step % 3 == 0 and step < steps[-1])
    assert resume_at > steps[-1] / 2
    shutil.copytree(whole / f"checkpoint-{resume_at}", stopped / f"checkpoint-{resume_at}")
    assert train(plan_of(cache, stopped, **options, resume=True)) == at_once
    assert curve(stopped) == curve(whole)
    assert at_once["train_loss"] == pytest.approx(np.mean(list(curve(whole).values())))
    first, second = (AutoModelForCausalLM.from_pretrained(out).state_dict() for out in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_log_of_few_lines_misses_no_step_where_a_run_is_gone_on_with(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = {"student": str(small_student), "max_steps": 8, "save_every": 3}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    at_once = train(plan_of(cache, whole, **options, trainer={"logging_steps": 5, "save_total_limit": None}))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    figures = train(plan_of(cache, stopped, **options, trainer={"logging_steps": 5}, resume=True))
    assert sorted(curve(whole)) == [3, 5, 6, 8]
    assert curve(stopped) == curve(whole)
    assert figures == at_once
    losses = curve(whole)
    expected = (3 * losses[3] + 2 * losses[5] + losses[6] + 2 * losses[8]) / 8
    assert figures["train_loss"] == pytest.approx(expected)
    log = json.loads((stopped / "logitstore.json").read_text())["log"]
    assert [entry["train_loss"] for entry in log if "train_loss" in entry] == [figures["train_loss"]]


def trainer_of(cache: logitstore.Cache, student: Path, tmp_path: Path, **changes: Any) -> DistillTrainer:
    pulls = {name: changes.pop(name) for name in ("alpha", "temperature") if name in changes}
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    loader = Loader(cache, batch_size=4)
    learner = Learner(student=model, criterion=Criterion.mixed(**pulls), **changes)
    return DistillTrainer(learners=[learner], args=arguments, train_loader=loader, held_out_loader=None)


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


def test_models_that_mix_packed_samples_are_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    check_packing(AutoModelForCausalLM.from_pretrained(small_student), "the student")
    mamba = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2))
    with pytest.raises(ModelError, match="see each other"):
        check_packing(mamba, "mamba")
    train(plan_of(cache, tmp_path / "out", student=str(small_student), packed=True, max_steps=2))


def test_a_fresh_student_has_the_shape_asked_for_and_the_cache_s_tokenizer(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    train(plan_of(cache, out, layers=1, hidden_size=16, intermediate_size=24, heads=2, kv_heads=1, max_steps=2))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (1, 16, 328)
    text = "Grüße, 你好"
    assert (
        AutoTokenizer.from_pretrained(out)(text)["input_ids"]
        == AutoTokenizer.from_pretrained(teacher)(text)["input_ids"]
    )


def test_fresh_students_with_impossible_shapes_are_refused(cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput):
        fresh(cache.manifest.teacher.config, {"hidden_size": 30, "num_attention_heads": 4})
    with pytest.raises(BadInput, match="no 'wings'"):
        fresh(cache.manifest.teacher.config, {"wings": 2})


def test_copied_layers_keep_their_weights(tmp_path: Path) -> None:
    source = save_model(tmp_path / "source", None, 40, num_hidden_layers=5)
    weights = AutoModelForCausalLM.from_pretrained(source).state_dict()
    model = copied(ModelRef.parse(str(source)), "0,3")
    kept = model.state_dict()
    assert model.config.num_hidden_layers == 2
    assert torch.equal(kept["model.layers.1.mlp.up_proj.weight"], weights["model.layers.3.mlp.up_proj.weight"])
    assert torch.equal(kept["model.embed_tokens.weight"], weights["model.embed_tokens.weight"])
    everything = copied(ModelRef.parse(str(source)), "5")
    tokens = torch.arange(10)[None]
    expected = AutoModelForCausalLM.from_pretrained(source)(tokens).logits
    torch.testing.assert_close(everything(tokens).logits, expected)


def test_a_pruned_student_is_as_narrow_as_asked_for_and_nearer_to_its_teacher_than_a_fresh_one(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    """The teacher itself with fewer neurons and heads, before it learns anything worth the name."""
    shape = {"intermediate_size": 40, "heads": 2, "kv_heads": 1, "layers": None}
    options = {"max_steps": 1, "learning_rate": 1e-9}
    pruned = train(
        plan_of(cache, tmp_path / "pruned", student=str(teacher), prune=True, prune_samples=20, **shape, **options)
    )
    made = train(plan_of(cache, tmp_path / "fresh", **shape | {"layers": 2}, **options))
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (40, 2, 1)
    assert pruned["eval_kl"] < made["eval_kl"]
    with pytest.raises(BadInput, match="--prune needs --hidden-size"):
        train(plan_of(cache, tmp_path / "other", student=str(teacher), prune=True))
    stages: list[str] = []
    plan = plan_of(cache, tmp_path / "other", student=str(teacher), prune=True, hidden_size=30)
    with pytest.raises(BadInput, match="not a multiple of the number of attention heads"):
        train(plan, lambda step: stages.append(step.stage))
    assert "prune" not in stages


def test_layers_are_named_or_spread() -> None:
    assert parse_layers("5", 30) == [0, 7, 14, 22, 29]
    assert parse_layers("1", 30) == [0]
    assert parse_layers("0, 4,29", 30) == [0, 4, 29]
    for text in ("", "x", "0,0", "3,1", "0,30", "0", "31"):
        with pytest.raises(BadInput):
            parse_layers(text, 30)


def test_students_too_short_for_the_samples_are_refused(
    cache: logitstore.Cache, tokenizer: Any, tmp_path: Path
) -> None:
    short = save_model(tmp_path / "short", tokenizer, VOCABULARY, max_position_embeddings=32)
    with pytest.raises(CacheMismatch, match="takes at most 32"):
        train(plan_of(cache, tmp_path / "out", student=str(short)))


@torch.no_grad()
def test_the_figures_of_evaluate_are_those_of_a_dense_float64_reference(
    cache: logitstore.Cache, small_student: Path
) -> None:
    found = evaluate(
        EvaluatePlan(cache=cache.path, student=str(small_student), samples="all", device="cpu", batch_size=7)
    )
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32).eval()
    prior = load_file(cache.path / str(cache.manifest.tail.file))["prior"].double()
    sums = dict.fromkeys(("cross_entropy", "teacher_cross_entropy", "kl", "agreement", "acceptance"), 0.0)
    right, sure = [], []
    for each in cache:
        logits = model(torch.from_numpy(each.sample.tokens_T.astype(np.int64))[None]).logits[0].double()
        student = torch.log_softmax(logits, -1)[each.sample.positions_N]
        ids = torch.from_numpy(each.answer["ids"].astype(np.int64))
        listed = torch.from_numpy(each.answer["logprobs"].astype(np.float64)).exp()
        mass = torch.from_numpy(each.answer["tail_logmass"].astype(np.float64)).exp()
        listed = listed / listed.sum(1, keepdim=True) * (1 - mass)[:, None]
        spread = prior.expand(len(ids), -1).scatter(1, ids, 0.0)
        teacher = (spread / spread.sum(1, keepdim=True) * mass[:, None]).scatter(1, ids, listed)
        gold = torch.from_numpy(each.sample.gold_N.astype(np.int64))
        sums["cross_entropy"] -= float(student.gather(1, gold[:, None]).sum())
        sums["teacher_cross_entropy"] -= float(each.answer["gold_logprob"].astype(np.float64).sum())
        sums["kl"] += float((teacher * (teacher.log() - student)).sum())
        sums["agreement"] += float((student.argmax(1) == ids[:, 0]).sum())
        sums["acceptance"] += float(torch.minimum(student.exp(), teacher).sum())
        sure.append(student.exp().max(1).values)
        right.append(student.argmax(1) == gold)
    for name, total in sums.items():
        assert getattr(found, name) == pytest.approx(total / cache.rows, rel=1e-5), name
    confidence, correct = torch.cat(sure), torch.cat(right).double()
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        error += abs(float((confidence[inside] - correct[inside]).sum()))
    assert found.calibration_error == pytest.approx(error / cache.rows, rel=1e-5)
    assert found.kl_lower_bound < found.kl
    assert found.rows == cache.rows


def test_the_teacher_judged_against_its_own_cache_has_almost_no_kl(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    """Without its padding rows: a student's padding counts as tokens that the teacher never says."""
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(VOCABULARY)
    model.save_pretrained(tmp_path)
    found = evaluate(EvaluatePlan(cache=cache.path, student=str(tmp_path), samples="all", device="cpu"))
    assert found.agreement == 1
    assert found.cross_entropy == pytest.approx(found.teacher_cross_entropy, abs=1e-3)
    assert 0 <= found.kl_lower_bound < 1e-2


def test_without_a_tail_there_is_no_lower_bound_of_the_kl(
    teacher: Path, small_student: Path, texts: Path, tmp_path: Path
) -> None:
    cut = dump(plan_for(teacher, texts, tmp_path / "cut", tail="none", limit=8))
    found = evaluate(EvaluatePlan(cache=cut.path, student=str(small_student), samples="all", device="cpu"))
    assert np.isnan(found.kl_lower_bound)
    assert np.isfinite([found.kl, found.agreement, found.acceptance]).all()
    asked = ["evaluate", cut.path, "--student", small_student, "--samples", "all", "--device", "cpu"]
    shown = logitstore_command(*asked).stdout
    assert re.search(r"kl_lower_bound +unknown", shown)
    assert json.loads(logitstore_command(*asked, "--json").stdout)["kl_lower_bound"] is None


@pytest.mark.slow
def test_two_processes_repeat_what_one_does_with_twice_the_accumulation(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    train(plan_of(cache, tmp_path / "one", student=str(small_student), accumulate=2, max_steps=4))
    recipe = tmp_path / "recipe.yaml"
    plan = plan_of(cache, tmp_path / "two", student=str(small_student), max_steps=4)
    recipe.write_text(json.dumps({"train": plan.model_dump(mode="json")}))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29617"]
    done = subprocess.run(
        [*command, "-m", "logitstore", "train", "--config", str(recipe)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [two[step] for step in one] == pytest.approx(list(one.values()), rel=1e-3)


def test_batches_move_between_forms_without_loss(cache: logitstore.Cache) -> None:
    for packed in (False, True):
        batch = next(iter(Loader(cache, batch_size=3, packed=packed)))
        again = Batch.of(batch.to("cpu").tensors())
        assert all(again.tensors()[name] is value for name, value in batch.tensors().items())


def test_students_trained_together_are_those_trained_alone(
    cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    """Clipped hard, which would couple them if it went by their common norm; and resumed from a checkpoint."""
    options: dict[str, Any] = {"max_steps": 5, "save_every": 3, "trainer": {"logging_steps": 1, "max_grad_norm": 0.01}}
    both = [str(small_student), str(teacher)]
    train(plan_of(cache, tmp_path / "both", student=both, **options))
    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "both" / "checkpoint-3", stopped / "checkpoint-3")
    train(plan_of(cache, stopped, student=both, resume=True, **options))
    log = json.loads((tmp_path / "both" / "logitstore.json").read_text())["log"]
    for student in (small_student, teacher):
        alone = tmp_path / student.name
        train(plan_of(cache, alone, student=str(student), **options))
        found = [
            AutoModelForCausalLM.from_pretrained(folder).state_dict()
            for folder in (alone, tmp_path / "both" / student.name, stopped / student.name)
        ]
        assert all(torch.equal(found[0][name], other[name]) for other in found[1:] for name in found[0])
        own = {entry["step"]: entry[f"{student.name}/loss"] for entry in log if f"{student.name}/loss" in entry}
        assert own == curve(alone)
        assert AutoTokenizer.from_pretrained(tmp_path / "both" / student.name) is not None


def test_students_are_called_by_any_name_that_can_be_a_folder_s(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """Also by those of attributes of PyTorch's modules."""
    both = [str(shutil.copytree(small_student, tmp_path / name)) for name in ("half", "train")]
    options: dict[str, Any] = {"student": both, "objective": "taid", "max_steps": 2, "save_every": 1}
    train(plan_of(cache, tmp_path / "out", **options))
    kept = load_file(tmp_path / "out" / "checkpoint-1" / "criterion.safetensors")
    assert sorted(name.split(".")[0] for name in kept if name.endswith(".t")) == ["student-half", "student-train"]
    assert (tmp_path / "out" / "half" / "model.safetensors").is_file()


def test_several_students_that_cannot_be_trained_together_are_refused_before_anything_is_written(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    a, b, checkpoint = (str(shutil.copytree(small_student, models / name)) for name in ("a", "b", "checkpoint-5"))
    (models / "link").symlink_to(models / "a", target_is_directory=True)
    before = tree(models)
    for students, changes, said in (
        ([a, b], {"out": models}, f"{models}/a is the cache or a student itself"),
        ([b, f"{a}::x.gguf"], {"out": models}, f"{models}/b is the cache or a student itself"),
        ([str(models / "link"), b], {"out": models}, f"{models}/link is the cache or a student itself"),
        ([a, f"{tmp_path}/{cache.path.name}"], {"out": cache.path.parent}, "is the cache or a student itself"),
        ([a, b], {"precision": "float16"}, "several --student with --precision float16: that is for one student only"),
        ([a, b], {"trainer": {"gradient_checkpointing": True}}, "several --student with gradient_checkpointing"),
        ([a, checkpoint], {}, "'checkpoint-5' cannot be one there"),
        ([a, "/"], {}, "'' cannot be one there"),
    ):
        with pytest.raises(BadInput, match=re.escape(said)):
            train(plan_of(cache, **{"out": tmp_path / "out", "student": students} | changes))
    assert tree(models) == before
    assert not (tmp_path / "out").exists()


def test_evaluation_runs_during_training(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(plan_of(cache, out, student=str(small_student), max_steps=4, evaluate_every=2))
    log = json.loads((out / "logitstore.json").read_text())["log"]
    assert [entry["step"] for entry in log if "eval_kl" in entry] == [2, 4]


def test_a_run_is_gone_on_with_under_the_same_options_only(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"student": str(small_student), "max_steps": 4, "save_every": 2}
    train(plan_of(cache, out, **options))
    with pytest.raises(BadInput, match="a run is there already"):
        train(plan_of(cache, out, **options))
    with pytest.raises(BadInput, match="is finished"):
        train(plan_of(cache, out, **options, resume=True))
    summary = json.loads((out / "logitstore.json").read_text())
    del summary["figures"]
    (out / "logitstore.json").write_text(json.dumps(summary))
    with pytest.raises(BadInput, match="began with batch_size = 8, not 4"):
        train(plan_of(cache, out, **options, batch_size=4, resume=True))
    (out / "logitstore.json").write_text(json.dumps(summary | {"cache": "another"}))
    with pytest.raises(BadInput, match="began with cache = another"):
        train(plan_of(cache, out, **options, resume=True))


def test_a_checkpoint_that_was_cut_short_is_passed_over(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"student": str(small_student), "max_steps": 4, "save_every": 2}
    train(plan_of(cache, tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", out / "checkpoint-2")
    (out / "checkpoint-4").mkdir()
    train(plan_of(cache, out, **options, resume=True))
    assert curve(out) == curve(tmp_path / "whole")


def test_options_that_cannot_work_are_refused_before_anything_is_written(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in small_student.iterdir()}
    for changes in (
        {"out": small_student},
        {"out": cache.path},
        {"precision": "float16"},
        {"trainer": {"learning_rate": 1.0}},
        {"prune_samples": 20},
    ):
        with pytest.raises(BadInput):
            train(plan_of(cache, **{"out": tmp_path / "out", "student": str(small_student)} | changes))
    assert {path: path.read_bytes() for path in small_student.iterdir()} == before


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


def test_the_log_tells_what_the_loss_is_made_of(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(plan_of(cache, out, student=str(small_student), max_steps=3, alpha=0.25, temperature=2.0))
    logged = [entry for entry in json.loads((out / "logitstore.json").read_text())["log"] if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.25 * entry["kl"] + 0.75 * entry["cross_entropy"], rel=1e-4)


@pytest.mark.parametrize(
    "objective", [name for name, method in METHODS.items() if name != "forward_kl" and method.form == "rows"]
)
def test_every_objective_trains_and_falls(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, objective: str
) -> None:
    """From the head's own loss, mixed with cross-entropy; the log names it."""
    options = {
        "student": str(small_student),
        "objective": objective,
        "alpha": 0.9,
        "epochs": 2.0,
        "precision": "bfloat16",
        "options": {"start": 1.0} if objective == "taid" else {},  # else its target runs away from the student
    }
    train(plan_of(cache, tmp_path / "out", **options))
    logged = [
        entry for entry in json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"] if "loss" in entry
    ]
    first, last = (np.mean([entry[objective] for entry in some]) for some in (logged[:5], logged[-5:]))
    assert last < first
    assert all("cross_entropy" in entry for entry in logged)


@pytest.mark.parametrize("objective", [name for name, method in METHODS.items() if method.form == "rows"])
def test_every_objective_trains_a_student_whose_head_is_padded(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, objective: str
) -> None:
    """With as many rows as the teacher's head, of which the cache knows those of the tokenizer."""
    student = save_model(tmp_path / "student", tokenizer, PADDED_VOCABULARY, seed=1, num_hidden_layers=1)
    options = {"objective": objective, "max_steps": 3, "holdout": 0.0}
    train(plan_of(cache, tmp_path / "out", student=str(student), **options))
    logged = json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]
    assert all(np.isfinite(entry["loss"]) for entry in logged if "loss" in entry)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["lm_head.weight"].shape[0] == PADDED_VOCABULARY
    assert all(value.isfinite().all() for value in weights.values())


def test_taid_goes_on_in_time_and_a_checkpoint_keeps_it(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "student": str(small_student),
        "objective": "taid",
        "options": {"step": 0.05},
        "epochs": 2.0,
        "save_every": 10,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    figures = train(plan_of(cache, whole, **options, trainer={"logging_steps": 1, "save_total_limit": None}))
    times = [
        load_file(folder / "criterion.safetensors")["student.states.taid.t"].item()
        for folder in sorted(whole.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    ]
    assert times == sorted(times)
    assert times[0] > 0.4
    assert times[-1] == pytest.approx(1.0)
    before = evaluate(EvaluatePlan(cache=cache.path, student=str(small_student), holdout=0.2, device="cpu"))
    assert figures["eval_kl"] < before.kl
    shutil.copytree(whole / "checkpoint-20", stopped / "checkpoint-20")
    train(plan_of(cache, stopped, **options, resume=True))
    assert curve(stopped) == curve(whole)


def test_pulls_of_the_same_name_are_told_apart_and_keep_their_own(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    terms = [{"name": "taid", "options": {"start": 0.7}}, {"name": "forward_kl"}, {"name": "taid", "weight": 2.0}]
    plan = plan_of(
        cache, tmp_path / "out", student=str(small_student), objective="taid", alpha=0.5, terms=terms, max_steps=2
    )
    criterion = criterion_of(plan, cache, {"num_hidden_layers": 1}, {})
    assert [term.label for term in criterion.rows] == ["taid", "cross_entropy", "taid_2", "forward_kl", "taid_3"]
    assert [float(state.t) for state in criterion.states.values()] == pytest.approx([0.4, 0.7, 0.4])
    train(plan)
    for entry in json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]:
        if "loss" in entry:
            parts = (0.5, "taid"), (0.5, "cross_entropy"), (1, "taid_2"), (1, "forward_kl"), (2, "taid_3")
            assert entry["loss"] == pytest.approx(sum(weight * entry[name] for weight, name in parts), rel=1e-4)


def test_a_criterion_whose_labels_do_not_differ_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="labels must differ"):
        Criterion.mixed("taid", rows=[RowTerm(name="taid", label="taid", weight=Schedule.of(1.0))])


def test_objectives_that_a_cache_does_not_serve_are_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    plan = plan_of(cache, tmp_path / "out", student=str(small_student))
    with pytest.raises(BadInput, match="Did you mean 'reverse_kl'"):
        train(plan.model_copy(update={"objective": "revers_kl"}))
    with pytest.raises(BadInput, match="exists at temperature 1 only"):
        train(plan.model_copy(update={"objective": "lumped_kl", "temperature": 2.0}))
    samples = row_of("sampled", {}, VOCABULARY, 32)
    with pytest.raises(BadInput, match="holds random samples"):
        check_method("total_variation", samples, 1.0)
    bare = row_of("topk", {"tail": "none"}, VOCABULARY, 32)
    with pytest.raises(BadInput, match="has no tail"):
        check_method("reverse_kl", bare, 1.0)
    check_method("skew_reverse_kl", bare, 1.0)
    assert not (tmp_path / "out").exists()


def test_a_student_that_learns_faults_is_announced(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """The teacher of these tests knows no language: for who learned some text, every step towards it is one away."""
    train(plan_of(cache, tmp_path / "text", student=str(small_student), epochs=3.0, alpha=0.0))
    said: list[str] = []
    plan = plan_of(cache, tmp_path / "out", student=str(tmp_path / "text"), epochs=1.0, evaluate_every=4)
    train(plan, notice=said.append)
    assert sum("cross-entropy on held-out gold tokens rises" in text for text in said) == 1


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


def test_the_help_names_every_objective() -> None:
    described = TrainPlan.model_fields["objective"].description or ""
    assert all(name in described for name in METHODS)
