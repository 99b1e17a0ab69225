"""A Trainer of transformers with a cache in it does what `logitstore train` does, and refuses what would change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

import logitstore
from logitstore.errors import BadInput, CacheMismatch
from logitstore.integrations.trainer import CachedTeacherMixin
from logitstore.train.train import train
from tests.parts.loops import ARGUMENTS, STEPS, assert_same, loaded, losses_of, trained, weights_of
from tests.parts.marks import rarely
from tests.parts.training import curve, plan_of


class Mine(CachedTeacherMixin, Trainer):
    """What a user writes."""


def mine(student: object, out: Path, cache: object, changes: dict[str, Any] | None = None, **options: Any) -> Mine:
    return Mine(student, TrainingArguments(str(out), **ARGUMENTS | (changes or {})), cache=cache, **options)  # type: ignore[arg-type]


def test_it_trains_as_train_does_keeps_the_best_and_resumes_within_an_epoch(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    expected = trained(cache, small_student, tmp_path / "run")
    judged = {"eval_strategy": "steps", "eval_steps": 4, "save_steps": 4, "load_best_model_at_end": True}
    trainer = mine(str(small_student), tmp_path / "mine", cache.path, judged, alpha=0.7, holdout=0.2)
    trainer.train()
    assert losses_of(trainer.state.log_history) == expected.losses
    assert_same(weights_of(trainer.model), expected.weights)
    figures = [entry for entry in trainer.state.log_history if "eval_kl" in entry]
    assert [entry["step"] for entry in figures] == [4, 8, 12, 16]
    assert {name: figures[-1][name] for name in expected.figures if name.startswith("eval")} == {
        name: value for name, value in expected.figures.items() if name.startswith("eval")
    }
    assert trainer.state.best_metric == min(entry["eval_kl"] for entry in figures)
    again = mine(loaded(small_student), tmp_path / "mine", cache, alpha=0.7, holdout=0.2)
    again.train(resume_from_checkpoint=str(tmp_path / "mine" / "checkpoint-4"))
    assert_same(weights_of(again.model), expected.weights)
    assert (tmp_path / "mine" / "checkpoint-4" / "tokenizer.json").is_file()
    with pytest.raises(BadInput, match="eval_dataset: it has no effect here"):
        again.evaluate([1])
    other = mine(loaded(small_student), tmp_path / "mine", cache, alpha=0.6, holdout=0.2)
    with pytest.raises(BadInput, match=r"began with alpha = 0\.7, not 0\.6"):
        other.train(resume_from_checkpoint=True)
    windowed = mine(loaded(small_student), tmp_path / "mine", cache, alpha=0.7, holdout=0.2, window_parts=1)
    kept = tmp_path / "mine" / "checkpoint-16" / "logitstore.json"
    for summary in (kept.read_text(), kept.read_text().replace('"window_parts": null', '"before": 0')):
        kept.write_text(summary)
        with pytest.raises(BadInput, match="began with window_parts = None, not 1"):
            windowed.train(resume_from_checkpoint=True)
    (tmp_path / "mine" / "checkpoint-16" / "logitstore.json").unlink()
    with pytest.raises(BadInput, match="did not learn from a cache"):
        other.train(resume_from_checkpoint=True)


def test_a_classifier_is_trained_as_train_does(image_cache: logitstore.Cache, classifier: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"batch_size": 8, "max_steps": 4, "scheduler": "linear", "warmup": 0.0, "seed": 3}
    train(plan_of(image_cache, tmp_path / "run", student=str(classifier), alpha=0.5, views_per_step=2, **changes))
    arguments = {"max_steps": 4, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "data_seed": 3}
    trainer = mine(str(classifier), tmp_path / "mine", image_cache, arguments, alpha=0.5, holdout=0.2, views_per_step=2)
    trainer.train()
    assert losses_of(trainer.state.log_history) == list(curve(tmp_path / "run").values())
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert_same(weights_of(trainer.model), weights_of(saved))
    assert trainer.model.config.id2label == saved.config.id2label
    trainer.save_model(str(tmp_path / "saved"))
    name = "preprocessor_config.json"
    assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("distilbert", {}),
        rarely("minitron", {}),
        rarely("taid", {}),
        rarely("hinton", {"precision": "bfloat16"}),
        rarely("hinton", {"packed": True}),
    ],
)
def test_a_recipe_trains_as_with_train(
    tapped: Path, small_student: Path, tmp_path: Path, recipe: str, changes: dict[str, Any]
) -> None:
    """Features, what objectives learn themselves, and objectives that change by their own loss."""
    cache = logitstore.open(tapped)
    file = Path(logitstore.__file__).parent / "settings" / "recipes" / f"{recipe}.yaml"
    plan: dict[str, Any] = yaml.safe_load(file.read_text())["train"] | {"learning_rate": 3e-3}
    expected = trained(cache, small_student, tmp_path / "run", max_steps=4, **plan | changes)
    bf16 = changes.pop("precision", None) == "bfloat16"
    trainer = mine(
        str(small_student),
        tmp_path / "mine",
        cache,
        {"max_steps": 4, "bf16": bf16},
        recipe=recipe,
        holdout=0.2,
        **changes,
    )
    trainer.train()
    assert losses_of(trainer.state.log_history) == expected.losses
    assert_same(weights_of(trainer.model), expected.weights)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "misspelt": ({"alhpa": 0.1}, {}, "alhpa: no such setting. Did you mean 'alpha'?"),
    "of the arguments": ({"epochs": 3}, {}, "epochs: give num_train_epochs of the training arguments instead."),
    "of train alone": ({"prune": True}, {}, "prune: only `logitstore train` does this."),
    "a data set": ({"train_dataset": [1]}, {}, "train_dataset: it has no effect here"),
    "a loss": ({"compute_loss_func": print}, {}, "compute_loss_func: it has no effect here"),
    "a recipe of train alone": ({"recipe": "ddk"}, {}, "recipe ddk: it sets reweight_domains = 1000"),
    "no recipe": ({"recipe": "ddkk"}, {}, "no recipe named 'ddkk'. Did you mean 'ddk'?"),
    "an impossible value": ({"holdout": 2}, {}, "--holdout 2: "),
    "smoothing": ({}, {"label_smoothing_factor": 0.5}, "label_smoothing_factor=0.5: it has no effect here"),
    "no such figure": ({}, {"metric_for_best_model": "eval_kll"}, "metric_for_best_model=kll: no such figure."),
    "nothing held out": ({"holdout": 0}, {"eval_strategy": "epoch"}, "eval_strategy='epoch' with holdout=0"),
    "no tap": ({"recipe": "distilbert"}, {}, "it has no final. Run: logitstore add"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_change_nothing_is_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, case: str
) -> None:
    options, changes, line = REFUSED[case]
    with pytest.raises(BadInput) as caught:
        mine(str(small_student), tmp_path / "mine", cache, changes, **options)
    assert line in str(caught.value)


def test_a_student_with_another_tokenizer_is_refused(
    cache: logitstore.Cache, small_student: Path, other_student: Path, tmp_path: Path
) -> None:
    for student in (str(other_student), loaded(other_student)):
        with pytest.raises(CacheMismatch, match="its tokenizer is not the cache's"):
            mine(student, tmp_path / "mine", cache)


def test_a_figure_of_which_more_is_better_is_judged_so(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = mine(str(small_student), tmp_path / "mine", cache, {"metric_for_best_model": "agreement"})
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("eval_agreement", True)
    assert trainer.args.max_steps == STEPS
