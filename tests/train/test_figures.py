"""The figures of every sample that `evaluate --figures` writes, and what `select` does with them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.store.index.figures import FIGURES
from logitstore.train.evaluate import evaluate
from tests.parts.classes import save_bert, wordpiece
from tests.parts.commands import Command, Refused
from tests.parts.texts import plan_for


def figures_of(cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    settings: dict[str, Any] = {"samples": "all", "device": "cpu", "batch_size": 7} | changes
    found = evaluate(EvaluateSettings(cache=cache.path, student=str(student), figures=out, **settings))
    return found, [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@torch.no_grad()
def test_the_figures_of_texts_are_those_of_a_float64_reference(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    found, lines = figures_of(cache, small_student, tmp_path / "figures.jsonl")
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32).eval()
    assert [line["sample"] for line in lines] == list(range(len(cache)))
    for line, each in zip(lines, cache, strict=True):
        logits = model(torch.from_numpy(each.sample.tokens_T.astype(np.int64))[None]).logits[0].double()
        student = torch.log_softmax(logits, -1)[each.sample.positions_N]
        gold = torch.from_numpy(each.sample.gold_N.astype(np.int64))
        best = student.exp().sort(-1, descending=True).values
        first = torch.from_numpy(each.answer["ids"][:, 0].astype(np.int64))
        expected = {
            "cross_entropy": -student.gather(1, gold[:, None]),
            "accuracy": (student.argmax(1) == gold).double(),
            "agreement": (student.argmax(1) == first).double(),
            "entropy": -(student.exp() * student).sum(1),
            "confidence": best[:, 0],
            "margin": best[:, 0] - best[:, 1],
        }
        assert (line["key"], line["document"]) == (each.sample.key, each.sample.document)
        for name, value in expected.items():
            assert line[name] == pytest.approx(float(value.mean()), rel=1e-4, abs=1e-6), name
    rows = cache.row_counts()
    for name in ("kl", "cross_entropy", "agreement"):
        whole = sum(line[name] * count for line, count in zip(lines, rows.tolist(), strict=True)) / rows.sum()
        assert whole == pytest.approx(getattr(found, name), rel=1e-5), name


def test_only_samples_that_are_judged_have_a_line(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    _, lines = figures_of(cache, small_student, tmp_path / "figures.jsonl", samples="heldout", holdout=0.2)
    assert 0 < len(lines) < len(cache)
    chosen = SelectSettings(
        cache=cache.path,
        method="top",
        score="figure:entropy",
        figures=tmp_path / "figures.jsonl",
        samples=len(lines) + 1,
        out=tmp_path / "a",
    )
    samples_M = select(chosen).selection.samples_M
    assert {line["sample"] for line in lines} < set(samples_M.tolist())  # the one without a figure comes last


def test_a_class_without_a_label_has_no_figures_of_labels(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    student = save_bert(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)
    found, lines = figures_of(class_cache, student, tmp_path / "figures.jsonl")
    assert [line["cross_entropy"] for line in lines[-2:]] == [None, None]
    golds = [line["accuracy"] for line in lines if line["accuracy"] is not None]
    assert np.mean(golds) == pytest.approx(found.accuracy)
    assert np.mean([line["kl"] for line in lines]) == pytest.approx(found.kl, rel=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(student).eval()
    sample = class_cache[3].sample
    with torch.no_grad():
        logits_C = model(input_ids=torch.from_numpy(sample.tokens_T.astype(np.int64))[None]).logits[0].double()
    best = logits_C.softmax(-1).sort(descending=True).values
    assert lines[3]["margin"] == pytest.approx(float(best[0] - best[1]), rel=1e-4)


def test_images_have_figures_of_their_first_view(
    image_cache: logitstore.Cache, classifier: Path, tmp_path: Path
) -> None:
    found, lines = figures_of(image_cache, classifier, tmp_path / "figures.jsonl")
    assert [line["sample"] for line in lines] == list(range(image_cache.manifest.samples))
    assert np.mean([line["kl"] for line in lines]) == pytest.approx(found.kl, rel=1e-5)
    assert set(lines[0]) == {"sample", "document", "key", *FIGURES}


def test_mistakes_of_a_student_are_chosen(
    cache: logitstore.Cache, small_student: Path, command: Command, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.jsonl"
    judged = ["evaluate", cache.path, "--student", small_student, "--samples", "all", "--device", "cpu"]
    assert command(*judged, "--figures", figures) == 0
    worst = [line["cross_entropy"] for line in map(json.loads, figures.read_text().splitlines())]
    asked = ["select", cache.path, "--method", "top", "--score", "figure:cross_entropy", "--figures", figures]
    assert command(*asked, "--samples", 5, "--out", tmp_path / "worst.arrow") == 0
    found = select(
        SelectSettings(
            cache=cache.path,
            method="top",
            score="figure:cross_entropy",
            figures=figures,
            samples=5,
            out=tmp_path / "b",
        )
    )
    assert set(found.selection.samples_M.tolist()) == set(np.argsort(worst)[-5:].tolist())


def test_figures_of_a_sampled_cache_and_of_one_without_a_list(
    teacher: Path, small_student: Path, texts: Path, tmp_path: Path
) -> None:
    drawn = dump(plan_for(teacher, texts, tmp_path / "c", sparsifier="sampled", tail=None, draws=8, k=None, limit=4))
    _, lines = figures_of(drawn, small_student, tmp_path / "drawn.jsonl")
    assert all(line["agreement"] is None for line in lines)
    assert math.isfinite(lines[0]["kl"])
    whole = dump(plan_for(teacher, texts, tmp_path / "whole", preset="exact", k=None, limit=4))
    found, lines = figures_of(whole, small_student, tmp_path / "whole.jsonl")
    rows = whole.row_counts()
    agreement = sum(line["agreement"] * count for line, count in zip(lines, rows.tolist(), strict=True)) / rows.sum()
    assert agreement == pytest.approx(found.agreement)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]\n", "line 1 is no JSON object"),
        ("{}\n", "line 1: `sample` is None, not the number"),
        ('{"sample": 0, "x": 1}\n{"sample": 0}\n', "line 2: `sample` is 0, not the number of a sample that no other"),
        ('{"sample": 0, "x": "a"}\n', "line 1: `x` is 'a', not a number or null"),
        ('{"sample": 0, "xy": 1}\n', "has no such figure. Did you mean 'xy'? Known: xy."),
    ],
)
def test_a_file_that_is_none_of_figures_is_refused(
    text: str, said: str, cache: logitstore.Cache, tmp_path: Path
) -> None:
    file = tmp_path / "figures.jsonl"
    file.write_text(text)
    plan = {"cache": cache.path, "method": "top", "ratio": 0.5, "out": tmp_path / "out"}
    with pytest.raises(BadInput) as caught:
        select(SelectSettings(score="figure:x", figures=file, **plan))
    assert said in str(caught.value)


def test_figures_of_other_samples_are_refused(cache: logitstore.Cache, refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "figures.jsonl"
    asked = {"cache": cache.path, "method": "top", "score": "figure:x", "ratio": 0.5, "out": tmp_path / "out"}
    for line in ({"sample": 0, "key": "another", "x": 1}, {"sample": len(cache), "x": 1}):
        file.write_text(json.dumps(line))
        with pytest.raises(CacheMismatch, match="line 1: it is about another sample than number"):
            select(SelectSettings(figures=file, **asked))
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        select(SelectSettings(figures=tmp_path / "none", **asked))
    common = ["select", cache.path, "--method", "top", "--ratio", 0.5, "--out", tmp_path / "out"]
    assert "--score figure:x needs --figures" in refused(*common, "--score", "figure:x")
    assert "say which one counts, with --score figure:NAME" in refused(*common, "--figures", file)
    judged = ["evaluate", cache.path, "--student", "none", "--figures"]
    assert "something stands there already" in refused(*judged, file)
    assert "text that is cut anew has other samples" in refused(*judged, tmp_path / "new", "--text")
