"""Every recipe trains from one cache; the names are known; a feature is recorded on the student as it is on the teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

import logitstore
from logitstore.core.methods import METHODS
from logitstore.core.schedule import Schedule
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.models.hooks import recording
from logitstore.models.load import config_from, describe
from logitstore.models.shape import shape_of
from logitstore.settings.recipe import about, load, named_recipe, recipe_names
from logitstore.settings.train import TrainSettings
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.features.feature import Shapes, Sides
from logitstore.train.objectives.features.relations import Relations
from logitstore.train.students.build import fresh
from logitstore.train.train import train
from tests.parts.commands import logitstore_command
from tests.parts.marks import often
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import train_in_two

STEPS = 16


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache with everything that any recipe asks for; its teacher has two layers."""
    out = tmp_path_factory.mktemp("tapped") / "cache"
    return dump(
        plan_for(teacher, texts, out, preset="small", k=None, hidden="all", qkv="all", tap_codec="float32", limit=12)
    )


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """As deep as the teacher, with as many heads, and narrower."""
    return save_model(tmp_path_factory.mktemp("recipes"), tokenizer, VOCABULARY, seed=2, hidden_size=24, head_dim=8)


def train_plan(recipe: str, cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> TrainSettings:
    usual: dict[str, Any] = {
        "cache": cache.path,
        "student": str(student),
        "out": out,
        "max_steps": STEPS,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "device": "cpu",
        "holdout": 0,
        "trainer": {"logging_steps": 1},
    }
    return load(TrainSettings, "train", None, usual | changes, named=recipe)


OF_OTHERS = {
    "tests/image": {"fkd", "hybrid"},
    "tests/classification/test_lelp.py": {"lelp"},
    "tests/train/test_sequences.py": {"dpo", "ipo", "simpo", "redi", "rwr"},
    "tests/embedding/test_train.py": {"jasper", "sentence_mse", "compress", "rkd"},
    "tests/train/students/test_recovered.py": {"clone"},
    "tests/ranking/test_recipes.py": {"margin_mse", "ranknet", "dear"},
}
"""Recipes that need images, other tasks, scores of texts, or the logits of every token, by the tests that train with them."""


OFTEN = {"hinton", "minilm", "ddk", "taid", "distilbert", "squarehead", "miniplm", "tinyvit", "minitron", "distillm"}
"""Recipes that between them have every part of a run: several terms, features, schedules, domains, two sizes, rates."""


@pytest.mark.parametrize(
    "recipe",
    often(
        [name for name in recipe_names() if name not in set().union(*OF_OTHERS.values())], lambda name: name in OFTEN
    ),
)
def test_every_recipe_trains(recipe: str, tapped: logitstore.Cache, student: Path, tmp_path: Path) -> None:
    # to re-weight domains, samples of each must be held out; a rate for 512 samples would be too small to see
    changes: dict[str, Any] = {"ddk": {"holdout": 0.4}, "tinyvit": {"learning_rate_batch": 4}}.get(recipe, {})
    asked = train_plan(recipe, tapped, student, tmp_path / "out", **changes)
    train(asked)
    log = [each for each in json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"] if "loss" in each]
    assert [each["step"] for each in log] == list(range(1, STEPS + 1))
    names = [term.name for term in asked.terms]
    assert all(name in log[0] for name in names)
    for entry in log:
        assert all(torch.isfinite(torch.tensor(value)) for value in entry.values())
    if recipe == "taid":
        return  # its target goes away from the student while it learns
    for name in names if asked.objective == "none" else ["loss"]:
        assert sum(each[name] for each in log[-5:]) < sum(each[name] for each in log[:5])


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_says_what_it_is_and_names_what_there_is(recipe: str) -> None:
    said = about(recipe)
    assert set(said) - {"left_out"} == {"method", "paper", "needs", "advice"}
    assert named_by(recipe) <= {"none", *METHODS}


def test_the_recipe_of_kd_plus_plus_warms_up_the_kl_and_nothing_else() -> None:
    asked = load(TrainSettings, "train", None, {"cache": "c", "out": "o"}, named="kd_plus_plus")
    kl, direction = asked.terms
    assert (kl.name, direction.name) == ("forward_kl", "norm_direction")
    assert asked.alpha == 0  # cross-entropy weighs 1 all along
    assert [Schedule.of(kl.weight).at(done) for done in (0.0, 20 / 240, 1.0)] == pytest.approx([0.0, 1.0, 1.0])
    assert Schedule.of(direction.weight).span == (2.0, 2.0)


def named_by(recipe: str) -> set[str]:
    """The objectives that a recipe trains by."""
    told = yaml.safe_load(named_recipe(recipe).read_text())["train"]
    return {told.get("objective", "forward_kl"), *(term["name"] for term in told.get("terms", ()))}


def test_every_objective_but_three_stands_in_a_recipe() -> None:
    named = set().union(*map(named_by, recipe_names()))
    assert [name for name in METHODS if name not in named] == ["symmetric_kl", "skew_forward_kl", "score_mse"]
    assert "skew_forward_kl" in about("distillm")["advice"]


def test_a_teacher_that_calls_its_layers_otherwise_serves_features_and_fresh_students(
    tokenizer: PreTrainedTokenizerFast, texts: Path, tmp_path: Path
) -> None:
    """GPT-2: n_layer, n_embd and n_head."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128))
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    cache = dump(plan_for(tmp_path / "teacher", texts, tmp_path / "cache", hidden="all", limit=12))
    usual = {"cache": cache.path, "max_steps": 2, "device": "cpu", "terms": [{"name": "match"}]}
    train(TrainSettings(**usual, out=tmp_path / "narrow", layers=1, hidden_size=16))
    train(TrainSettings(**usual, out=tmp_path / "same"))
    configs = [AutoConfig.from_pretrained(tmp_path / name) for name in ("narrow", "same")]
    assert [(each.model_type, each.n_layer, each.n_embd) for each in configs] == [("gpt2", 1, 16), ("gpt2", 2, 32)]


def test_a_teacher_whose_text_model_is_one_of_its_parts_is_as_large_as_that() -> None:
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    text = {"vocab_size": 50, "intermediate_size": 24, "layer_types": ["full_attention"] * 3, **shape}
    _, plain = describe(Gemma3Config(text_config=text))
    assert "num_hidden_layers" not in plain
    assert shape_of(config_from(plain)) == shape
    made = fresh(describe(config_from(plain).get_text_config())[1], {"num_hidden_layers": 2})
    assert shape_of(made.config) == shape | {"num_hidden_layers": 2}
    with pytest.raises(ModelError, match=r"the teacher is of the kind xgpt, which"):
        config_from({"model_type": "xgpt"})


def test_features_are_not_looked_for_on_several_gpus_in_one_process(
    tapped: logitstore.Cache, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the student is copied to each of them, and what is recorded on a copy never comes back."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(BadInput, match=r"2 GPUs in one process.* torchrun --nproc-per-node 2, .* CUDA_VISIBLE_DEVICES"):
        train(train_plan("minilm_v2", tapped, student, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.json"))


@pytest.mark.exhaustive
def test_pulls_on_features_alone_train_in_two_processes(
    tapped: logitstore.Cache, student: Path, tmp_path: Path
) -> None:
    """Nothing pulls on the logits, and the student's output layer is its own: yet both processes wait for its gradient."""
    one = train_plan("minilm_v2", tapped, student, tmp_path / "one", max_steps=4, accumulate=2)
    train(one)
    two = one.model_copy(update={"out": tmp_path / "two", "accumulate": 1})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"train": two.model_dump(mode="json")}))
    train_in_two(recipe)
    logs = [json.loads((tmp_path / name / "logitstore.json").read_text())["log"] for name in ("one", "two")]
    curves = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert len(curves[0]) == 4
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


def test_flags_and_the_user_s_own_recipe_override_a_named_one(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("train: {cache: c, out: o, alpha: 0.25, temperature: 3}")
    asked = load(TrainSettings, "train", own, {"temperature": "4"}, named="hinton")
    assert (asked.objective, asked.alpha, asked.temperature) == ("forward_kl", 0.25, 4.0)


def test_recipes_are_listed_and_shown_and_the_nearest_name_is_suggested() -> None:
    listed = logitstore_command("recipes")
    assert all(name in listed.stdout for name in recipe_names())
    shown = logitstore_command("recipes", "show", "taid")
    assert shown.stdout == named_recipe("taid").read_text()
    wrong = logitstore_command("train", "cache", "--out", "o", "--recipe", "tiad")
    assert wrong.returncode == 2
    assert "Did you mean 'taid'?" in wrong.stderr
    assert logitstore_command("recipes", "shwo").returncode == 2


def test_a_missing_field_names_the_command_that_adds_it(cache: logitstore.Cache, student: Path, tmp_path: Path) -> None:
    for recipe, command in (
        ("squarehead", "--hidden 1,final"),
        ("minilm_v2", "--qkv 2"),
        ("kd_plus_plus", "--hidden final"),
    ):
        with pytest.raises(BadInput, match=f"logitstore add .*{command}"):
            train(train_plan(recipe, cache, student, tmp_path / "out"))


def test_strict_refuses_what_is_not_exact(tapped: logitstore.Cache, student: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--strict: reverse_kl is an approximation"):
        train(train_plan("minillm", tapped, student, tmp_path / "out", strict=True))
    said: list[str] = []
    train(train_plan("minillm", tapped, student, tmp_path / "out", max_steps=1), notice=said.append)
    assert (
        sum("reverse_kl is an approximation on this cache: the tail is modelled (sketch)" in each for each in said) == 1
    )
    train(train_plan("minilm_v2", tapped, student, tmp_path / "strict", strict=True, max_steps=1))


@pytest.mark.parametrize("codec", ["int8", "pca-8"])
def test_strict_refuses_features_that_were_stored_with_a_loss(
    codec: str, teacher: Path, texts: Path, student: Path, tmp_path: Path
) -> None:
    cache = dump(
        plan_for(teacher, texts, tmp_path / "cache", preset="exact", k=None, hidden="final", tap_codec=codec, limit=12)
    )
    own = tmp_path / "own.yaml"
    own.write_text("train: {terms: [{name: match, options: {layers: last-1}}]}")
    usual = {"cache": cache.path, "student": str(student), "device": "cpu", "max_steps": 1, "holdout": 0}
    asked = load(TrainSettings, "train", own, usual | {"out": tmp_path / "out", "strict": True})
    with pytest.raises(
        BadInput, match=f"--strict: match is an approximation on .* stored as {codec}. Keep them as bfl"
    ):
        train(asked)
    said: list[str] = []
    train(asked.model_copy(update={"strict": False}), notice=said.append)
    assert f"note: match is an approximation on this cache: its features are stored as {codec}." in said


def test_strict_refuses_a_ranking_of_some_tokens(tapped: logitstore.Cache, student: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"plackett_luce is biased .* listed tokens count\. Take another objective, or"):
        train(train_plan("pld", tapped, student, tmp_path / "out", strict=True))


def test_the_loss_of_minilm_from_the_cache_is_that_of_the_live_teacher(
    tapped: logitstore.Cache, teacher: Path, student: Path
) -> None:
    """The teacher is asked again about the batch, padded as the student sees it."""
    names = Relations.pairs(2, 2)
    loader = Loader(tapped, batch_size=5, taps=[other for _, other in names])
    batch = loader.at(0, 1)
    own, live = (AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (student, teacher))
    found = {}
    for model, side in ((own, [name for name, _ in names]), (live, [name for _, name in names])):
        with torch.no_grad(), recording(model, side) as seen:
            model(**batch.model_inputs())
        found[model] = {name: value.flatten(0, 1)[batch.rows] for name, value in seen.items()}
    told = loader.features(batch)
    shapes = Shapes(
        student_layers=2,
        teacher_layers=2,
        widths_student={name: value.shape[1] for name, value in found[own].items()},
        widths_teacher={name: value.shape[1] for name, value in told.items()},
        heads_student=4,
        heads_teacher=4,
        key_heads_student=2,
        key_heads_teacher=2,
    )
    relations = Relations(shapes)
    losses = [
        relations(
            Sides(
                student=found[own],
                teacher=teacher_side,
                counts_M=batch.counts,
                gold_N=batch.gold,
                mask_N=batch.row_mask,
            )
        )
        for teacher_side in (told, found[live])
    ]
    assert losses[0].mean() > 0
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-6)
