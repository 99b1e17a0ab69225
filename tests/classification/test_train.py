"""Students learn from classified texts: in the cache's tokens, or in their own from the texts that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import logitstore
from logitstore.classification.train import ClassifiedTraining
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.integrations.distiller import Distiller
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.classification.test_dump import PAIRS, said, save_gpt
from tests.parts.classes import CLASSES, classes_plan, labelled_rows, save_bert, save_distilbert, save_rows, wordpiece
from tests.parts.commands import Refused
from tests.parts.marks import often
from tests.parts.texts import train_tokenizer
from tests.parts.training import plan_of

OBJECTIVES = [
    "adaptive_kl", "balanced_kl", "dist", "dkd", "forward_kl", "jensen_shannon", "lumped_kl", "one_for_all", "plackett_luce",
    "reverse_kl", "sinkhorn", "skew_forward_kl", "skew_reverse_kl", "standardised_kl", "symmetric_kl", "total_variation",
]  # fmt: skip


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)


def judged(cache: logitstore.Cache, student: Path) -> Any:
    settings = {"cache": cache.path, "student": str(student), "samples": "all", "device": "cpu", "dtype": "float32"}
    return evaluate(EvaluateSettings(**settings))


def test_students_of_any_kind_come_nearer_to_the_teacher(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    tokenizer = train_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    students = {
        "bert": save_bert(tmp_path / "bert", wordpiece(), seed=1, num_hidden_layers=1),
        "bare": save_bert(tmp_path / "bare", None, seed=1, num_hidden_layers=1),
        "distil": save_distilbert(tmp_path / "distil", wordpiece()),
        "gpt": save_gpt(tmp_path / "gpt", tokenizer, id2label=dict(enumerate(CLASSES))),
    }
    for name, place in students.items():
        before, out = judged(class_cache, place), tmp_path / "out" / name
        train(plan_of(class_cache, out, student=str(place), max_steps=30, holdout=0.1))
        assert judged(class_cache, out).kl < 0.8 * before.kl, name
        saved = AutoModelForSequenceClassification.from_pretrained(out).config
        assert [saved.id2label[number] for number in range(3)] == CLASSES
        assert len(AutoTokenizer.from_pretrained(out)) == (320 if name == "gpt" else 400)


def test_a_fresh_student_has_the_shape_of_the_teacher_but_for_what_is_asked(
    class_cache: logitstore.Cache, tmp_path: Path
) -> None:
    train(plan_of(class_cache, tmp_path / "out", layers=1, hidden_size=16, heads=2, max_steps=2))
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (1, 16, 2)
    assert [config.id2label[number] for number in range(3)] == CLASSES


def test_a_batch_shows_a_student_what_its_own_tokenizer_makes_of_the_texts(
    judge: Path, student: Path, tmp_path: Path
) -> None:
    """In its own tokens where they are others, and in the cache's otherwise, with types where it takes them."""
    data = save_rows(tmp_path / "pairs.jsonl", [{"text": a, "text_pair": b} for a, b in PAIRS])
    cache = dump(classes_plan(judge, data, tmp_path / "cache"))
    tokenizer = wordpiece(200)
    other = save_bert(tmp_path / "other", tokenizer, vocab_size=220, max_position_embeddings=32)
    distil = save_distilbert(tmp_path / "distil", wordpiece())
    firsts, seconds = map(list, zip(*PAIRS, strict=True))
    for place, length in ((student, 64), (other, 32), (distil, 64)):
        model = AutoModelForSequenceClassification.from_pretrained(place).eval()
        expected = said(place, firsts, seconds, length)
        figures = judged(cache, place)
        teacher_NC = said(judge, firsts, seconds)
        kl = (teacher_NC.exp() * (teacher_NC - expected)).sum(1).mean()
        assert figures.kl == pytest.approx(float(kl), rel=3e-3), model.config.model_type
    bare = dump(classes_plan(judge, data, tmp_path / "bare", texts=False))
    with pytest.raises(CacheMismatch, match=r"keeps no texts\. Choose a student with the teacher's tokenizer"):
        judged(bare, other)
    assert judged(bare, student).kl == pytest.approx(judged(cache, student).kl)


def test_students_that_do_not_fit_are_refused(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    short = save_bert(tmp_path / "short", wordpiece(), max_position_embeddings=32)
    with pytest.raises(CacheMismatch, match="it takes at most 32 tokens"):
        judged(class_cache, short)
    few = save_bert(tmp_path / "few", None, vocab_size=300)
    with pytest.raises(CacheMismatch, match="it takes token ids below 300"):
        judged(class_cache, few)
    others = save_bert(tmp_path / "others", wordpiece(), classes=["a", "b", "c"])
    with pytest.raises(CacheMismatch, match="class 0 is 'a' there and 'short'"):
        judged(class_cache, others)
    two = save_bert(tmp_path / "two", wordpiece(), classes=["short", "long"])
    with pytest.raises(CacheMismatch, match="it has 2 classes"):
        judged(class_cache, two)


def test_labels_are_learnt_where_there_are_some(
    class_cache: logitstore.Cache, judge: Path, student: Path, refused: Refused, tmp_path: Path
) -> None:
    settings = {"student": str(student), "max_steps": 30, "alpha": 0.0, "holdout": 0.0}
    train(plan_of(class_cache, tmp_path / "out", **settings))
    before, after = judged(class_cache, student), judged(class_cache, tmp_path / "out")
    assert after.cross_entropy < before.cross_entropy
    assert after.accuracy > before.accuracy
    with pytest.raises(BadInput, match="2 of its texts have no label, and dkd needs one for every text"):
        train(plan_of(class_cache, tmp_path / "dkd", student=str(student), objective="dkd"))
    data = save_rows(tmp_path / "texts.jsonl", [{"text": "a"}, {"text": "b"}])
    bare = dump(classes_plan(judge, data, tmp_path / "cache"))
    with pytest.raises(BadInput, match=r"so there is no cross-entropy\. Give --alpha 1"):
        train(plan_of(bare, tmp_path / "none", student=str(student), alpha=0.5))
    line = refused("train", bare.path, "--student", student, "--out", tmp_path / "no", "--packed")
    assert line.endswith("it means nothing to " + str(bare.path) + ", a cache of classified texts. Leave it out.")


@pytest.mark.parametrize("objective", often(OBJECTIVES, {"dist", "dkd", "forward_kl", "sinkhorn"}.__contains__))
def test_objectives_on_logits_train_on_classified_texts(
    judge: Path, student: Path, tmp_path: Path, objective: str
) -> None:
    rows = [row for row in labelled_rows() if row["label"]]
    plan = classes_plan(
        judge, save_rows(tmp_path / "texts.jsonl", rows), tmp_path / "cache", sparsifier="dense", k=None
    )
    cache = dump(plan.model_copy(update={"preset": None}))
    train(plan_of(cache, tmp_path / "out", student=str(student), objective=objective, max_steps=25))
    assert judged(cache, tmp_path / "out").kl < judged(cache, student).kl


def test_features_of_the_output_layer_are_matched(judge: Path, labelled: Path, student: Path, tmp_path: Path) -> None:
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache", hidden="final"))
    terms = [{"name": "match", "weight": 0.1}]
    settings = plan_of(cache, tmp_path / "out", student=str(student), max_steps=4)
    train(TrainSettings(**settings.model_dump() | {"terms": terms}))
    assert judged(cache, tmp_path / "out").rows == 44


def test_a_run_that_is_resumed_ends_in_the_same_student(
    class_cache: logitstore.Cache, student: Path, tmp_path: Path
) -> None:
    whole = plan_of(class_cache, tmp_path / "whole", student=str(student), max_steps=6, save_every=3)
    train(whole)
    halves = whole.model_copy(
        update={"out": tmp_path / "halves", "max_steps": 3, "scheduler": "constant", "warmup": 0.0}
    )
    again = whole.model_copy(update={"out": tmp_path / "again", "scheduler": "constant", "warmup": 0.0})
    train(again)
    train(halves)
    train(halves.model_copy(update={"max_steps": 6, "resume": True}))
    names = ["model.safetensors", "config.json", "tokenizer.json"]
    for name in names:
        assert (tmp_path / "halves" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_several_students_share_batches_if_they_read_alike(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    one = save_bert(tmp_path / "one", wordpiece(), seed=1, num_hidden_layers=1)
    two = save_distilbert(tmp_path / "two", wordpiece())
    train(plan_of(class_cache, tmp_path / "out", student=[str(one), str(two)], max_steps=3))
    assert (tmp_path / "out" / "one" / "config.json").is_file()
    other = save_bert(tmp_path / "other", train_tokenizer(), vocab_size=330)
    with pytest.raises(BadInput, match="read the texts in different ways"):
        train(plan_of(class_cache, tmp_path / "no", student=[str(one), str(other)]))


def test_a_task_that_does_not_follow_a_selection_is_refused(
    class_cache: logitstore.Cache, student: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A task of another package may name the option and forget it."""
    chosen, opened = tmp_path / "few.arrow", ClassifiedTraining.open
    select(SelectSettings(cache=class_cache.path, method="random", ratio=0.2, out=chosen))

    def forgetful(self: ClassifiedTraining, settings: Any, cache: Any, ref: Any, selection: Any, *more: Any) -> Any:
        return opened(self, settings, cache, ref, None, *more)

    monkeypatch.setattr(ClassifiedTraining, "open", forgetful)
    with pytest.raises(BadInput, match="Repair the task"):
        train(plan_of(class_cache, tmp_path / "out", student=str(student), select=chosen, max_steps=3))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_selection_decides_which_texts_are_read(class_cache: logitstore.Cache, student: Path, tmp_path: Path) -> None:
    selection = tmp_path / "half.arrow"
    select(SelectSettings(cache=class_cache.path, method="top", score="entropy", ratio=0.5, out=selection))
    train(plan_of(class_cache, tmp_path / "out", student=str(student), select=selection, max_steps=3))
    assert json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]


def test_a_loader_gives_labels_and_padding(class_cache: logitstore.Cache) -> None:
    batch = next(iter(class_cache.loader(batch_size=44, shuffle=False)))
    assert batch.gold[-4:].tolist() == [2, 2, -1, -1]
    assert batch.inputs["input_ids"].shape == (44, 64)
    assert torch.equal(batch.inputs["attention_mask"].sum(1), torch.tensor(class_cache.column("lengths")))
    assert (batch.inputs["input_ids"][batch.inputs["attention_mask"] == 0] == 0).all()


def test_the_best_student_is_known_by_figures_of_classes(
    class_cache: logitstore.Cache, student: Path, tmp_path: Path
) -> None:
    """All of them are logged, and more is better."""
    for name in ("macro_f1", "matthews", "probability_loyalty"):
        settings = plan_of(
            class_cache,
            tmp_path / name,
            student=str(student),
            max_steps=4,
            evaluate_every=2,
            save_every=2,
            trainer={"load_best_model_at_end": True, "metric_for_best_model": name},
        )
        figures = train(settings)
        log = json.loads((tmp_path / name / "logitstore.json").read_text())["log"]
        seen = [entry[f"eval_{name}"] for entry in log if f"eval_{name}" in entry]
        assert figures[f"eval_{name}"] == max(seen)
    assert set(Distiller(str(student), class_cache).evaluate()) - {"rows"} <= set(
        Distiller(str(student), class_cache).figures
    )


def test_scores_alone_train_on_labels_where_nothing_is_held_out(
    judge: Path, labelled: Path, student: Path, tmp_path: Path
) -> None:
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache", preset="scores", k=None))
    usual: dict[str, Any] = {"student": str(student), "max_steps": 2, "alpha": 0}
    with pytest.raises(BadInput, match=r"--holdout 0.2: .* keeps scores only .* Give --holdout 0"):
        train(plan_of(cache, tmp_path / "out", **usual))
    assert not (tmp_path / "out").exists()
    train(plan_of(cache, tmp_path / "out", **usual, holdout=0))
