"""Students learn from vectors: in the cache's tokens or their own, of the teacher's width or another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

import logitstore
from logitstore.errors import BadInput
from logitstore.models.pooling.described import read_pooling
from logitstore.models.pooling.encoder import PooledEncoder
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.classes import save_bert, save_distilbert, wordpiece
from tests.parts.commands import Command
from tests.parts.training import curve, plan_of

OBJECTIVES = ["embedding_mse", "embedding_cosine", "relational_distance", "similarity_kl", "similarity_mse"]


def judged(cache: logitstore.Cache, student: Path) -> Any:
    settings = {"cache": cache.path, "student": str(student), "samples": "all", "device": "cpu", "dtype": "float32"}
    return evaluate(EvaluateSettings(**settings))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twenty_steps_bring_a_narrower_student_nearer(
    vector_cache: logitstore.Cache, tmp_path: Path, objective: str
) -> None:
    student = save_bert(
        tmp_path / "student", wordpiece(), seed=1, hidden_size=16, num_attention_heads=2, num_hidden_layers=1
    )
    out = tmp_path / "out"
    train(
        plan_of(vector_cache, out, student=str(student), objective=objective, max_steps=20, batch_size=16, holdout=0.0)
    )
    losses = curve(out)
    assert sum(losses[step] for step in (18, 19, 20)) < 0.8 * sum(losses[step] for step in (1, 2, 3))
    described = read_pooling(str(out))
    assert described is not None
    pooling, _ = described
    assert (pooling.way, pooling.normalised, pooling.max_length) == ("mean", True, 64)
    by_channel = objective.startswith("embedding")
    assert [each.outputs for each in pooling.dense] == [32] * by_channel
    before, after = judged(vector_cache, student), judged(vector_cache, out)
    assert after.similarity_spearman > before.similarity_spearman or by_channel
    assert (after.cosine > 0.5) == by_channel
    assert after.teacher_gold_spearman == before.teacher_gold_spearman


def test_students_of_other_kinds_fresh_ones_and_resumed_runs(
    vector_cache: logitstore.Cache, tmp_path: Path, command: Command
) -> None:
    students: dict[str, dict[str, Any]] = {
        "distil": {"student": str(save_distilbert(tmp_path / "distil", wordpiece(200), vocab_size=220))},
        "fresh": {"layers": 1, "hidden_size": 16, "heads": 2},
    }
    for name, settings in students.items():
        out = tmp_path / "out" / name
        figures = train(plan_of(vector_cache, out, max_steps=6, **settings))
        assert {"eval_cosine", "eval_neighbour_agreement", "eval_similarity_spearman"} <= figures.keys()
        assert len(AutoTokenizer.from_pretrained(out)) == (200 if name == "distil" else 400)
        model = PooledEncoder.from_pretrained(out, config=AutoConfig.from_pretrained(out))
        assert model.width == 32
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    usual = {**students["fresh"], "save_every": 2, "scheduler": "constant", "warmup": 0.0}
    train(plan_of(vector_cache, whole, max_steps=4, **usual))
    train(plan_of(vector_cache, halved, max_steps=2, **usual))
    train(plan_of(vector_cache, halved, max_steps=4, resume=True, **usual))
    ends = [PooledEncoder.from_pretrained(each, config=AutoConfig.from_pretrained(each)) for each in (whole, halved)]
    torch.testing.assert_close(ends[0].state_dict(), ends[1].state_dict(), rtol=0, atol=0)
    assert command("evaluate", vector_cache.path, "--student", whole, "--device", "cpu", "--samples", "all") == 0


def test_objectives_that_do_not_exist_for_vectors_are_refused(
    vector_cache: logitstore.Cache, judge: Path, tmp_path: Path
) -> None:
    for changes, said in (
        ({"objective": "reverse_kl"}, "it compares distributions"),
        ({"objective": "similarity"}, "it compares rows within a text"),
        ({"lora": "r=2"}, "Add --lora-merge"),
        ({"own_answers": 2}, "most probable tokens or classes"),
        ({"objective": "similarity_kl", "batch_size": 1}, "compares the texts of a batch with each other"),
        ({"objective": "relational_distance", "batch_size": 1}, "compares the texts of a batch with each other"),
    ):
        with pytest.raises(BadInput, match=said):
            train(plan_of(vector_cache, tmp_path / "out", student=str(judge), **changes))


@pytest.mark.parametrize("recipe", ["compress", "jasper", "rkd", "sentence_mse"])
def test_a_recipe_of_vectors_trains(vector_cache: logitstore.Cache, tmp_path: Path, recipe: str) -> None:
    changes = {"cache": vector_cache.path, "out": tmp_path / "out", "layers": 1, "max_steps": 20, "batch_size": 16}
    changes |= {"learning_rate": 3e-3, "holdout": 0.0, "device": "cpu", "trainer": {"logging_steps": 1}}
    asked = load(TrainSettings, "train", None, changes, named=recipe)
    train(asked)
    losses = curve(tmp_path / "out")
    assert sum(losses[step] for step in (18, 19, 20)) < sum(losses[step] for step in (1, 2, 3))
