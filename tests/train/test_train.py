"""Training: resuming, several students, several processes, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

import logitstore
from logitstore.errors import BadInput
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.train import train
from tests.parts.files import tree
from tests.parts.texts import VOCABULARY
from tests.parts.training import curve, plan_of, train_in_two
from tests.parts.warm import free_port


@pytest.fixture(scope="module")
def trained(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "student"
    train(plan_of(cache, out, student=str(small_student), epochs=2, accumulate=2, save_every=3, precision="bfloat16"))
    return out


def test_a_trained_student_is_nearer_to_the_teacher_and_usable(
    cache: logitstore.Cache, small_student: Path, trained: Path
) -> None:
    before = evaluate(EvaluateSettings(cache=cache.path, student=str(small_student), holdout=0.2, device="cpu"))
    after = evaluate(EvaluateSettings(cache=cache.path, student=str(trained), holdout=0.2, device="cpu"))
    assert after.kl < 0.9 * before.kl
    assert after.acceptance > before.acceptance
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
    at_once = train(plan_of(cache, whole, **options, keep_checkpoints=99))
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
    at_once = train(plan_of(cache, whole, **options, keep_checkpoints=99, trainer={"logging_steps": 5}))
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


def torchrun(recipe: Path) -> None:
    """Train in two processes that PyTorch starts."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    done = subprocess.run(
        [*command, "-m", "logitstore", "train", "--config", str(recipe)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("in_two", [train_in_two, pytest.param(torchrun, marks=pytest.mark.exhaustive)])
def test_two_processes_repeat_what_one_does_with_twice_the_accumulation(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, in_two: Callable[[Path], None]
) -> None:
    train(plan_of(cache, tmp_path / "one", student=str(small_student), accumulate=2, max_steps=4))
    recipe = tmp_path / "recipe.yaml"
    plan = plan_of(cache, tmp_path / "two", student=str(small_student), max_steps=4)
    recipe.write_text(json.dumps({"train": plan.model_dump(mode="json")}))
    in_two(recipe)
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [two[step] for step in one] == pytest.approx(list(one.values()), rel=1e-3)


def test_a_cache_that_is_not_complete_is_said(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    part = logitstore.open(shutil.copytree(cache.path, tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache" / "parts" / "00001")
    said: list[str] = []
    train(plan_of(part, tmp_path / "out", student=str(small_student), max_steps=1), notice=said.append)
    whole = cache.manifest.parts
    assert any(f"has {whole - 1} of its {whole} parts so far" in each for each in said)


def test_batches_move_between_forms_without_loss(cache: logitstore.Cache) -> None:
    for packed in (False, True):
        batch = next(iter(Loader(cache, batch_size=3, packed=packed)))
        again = Batch(batch.to("cpu").tensors())
        assert all(again.tensors()[name] is value for name, value in batch.tensors().items())


def test_students_trained_together_are_those_trained_alone(
    cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    """Clipped hard, which would couple them if it went by their common norm; and resumed from a checkpoint."""
    options: dict[str, Any] = {
        "max_steps": 5,
        "save_every": 3,
        "keep_checkpoints": 2,
        "trainer": {"logging_steps": 1, "max_grad_norm": 0.01},
    }
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
    options: dict[str, Any] = {
        "student": both,
        "objective": "taid",
        "max_steps": 2,
        "save_every": 1,
        "keep_checkpoints": 2,
    }
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
    options = {"student": str(small_student), "max_steps": 4, "save_every": 2, "keep_checkpoints": 2}
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
