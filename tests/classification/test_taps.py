"""Features of every token of a classified text: stored, checked, and compared without the padding around them."""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import logitstore
from logitstore.dump.add import add
from logitstore.dump.dump import dump, planned
from logitstore.dump.taps import tap_bytes
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.sealed import seal
from logitstore.format.tap import TapInfo, TapPlan
from logitstore.settings.dump import AddSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.store.checks.verify import verify
from logitstore.store.writer import StagedPart
from logitstore.train.train import train
from tests.parts.classes import classes_plan, save_bert, save_distilbert, wordpiece
from tests.parts.marks import often
from tests.parts.training import curve, plan_of

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
EXACT = {"tap_codec": "float32"}


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, judge: Path, labelled: Path) -> logitstore.Cache:
    """A cache with every feature of its teacher at every token; do not change it."""
    plan = classes_plan(judge, labelled, tmp_path_factory.mktemp("tapped") / "cache", hidden="all", qkv="2", **EXACT)
    return dump(plan)


@functools.cache
def loaded(teacher: Path) -> tuple[Any, Any]:
    """A BERT and its tokenizer."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(teacher)
    return model.eval(), AutoTokenizer.from_pretrained(teacher)


def told(teacher: Path, text: str, length: int = 64) -> dict[str, Tensor]:
    """What a BERT computes of one text alone, by name of the feature, [T, D]."""
    model, tokenizer = loaded(teacher)
    inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True)
        own = model.bert.encoder.layer[1].attention.self
        before = found.hidden_states[1][0]
        inner = {"query-2": own.query(before), "key-2": own.key(before), "value-2": own.value(before)}
    return inner | {f"hidden-{layer}": value[0] for layer, value in enumerate(found.hidden_states)}


def test_every_token_has_what_the_teacher_computes_of_the_text_alone(tapped: logitstore.Cache, judge: Path) -> None:
    names = ["hidden-0", "hidden-1", "hidden-2", "query-2", "key-2", "value-2"]
    assert sorted(tapped.taps) == sorted([*names, "final"])
    assert tapped.taps["hidden-1"].info.places == "tokens"
    assert tapped.taps["final"].info.places is None
    loader = tapped.loader(batch_size=7, taps=[*names, "final"])
    batch = loader.at(0, 0)
    features, starts = loader.features(batch), dict.fromkeys(names, 0)
    assert features["final"].shape == (7, 32)
    for place, sample in enumerate(batch.samples.tolist()):
        expected = told(judge, tapped[sample].sample.text)
        for name in names:
            count = int(batch.features[f"{name}/counts"][place])
            assert count == tapped[sample].sample.length
            found = features[name][starts[name] : starts[name] + count]
            assert torch.allclose(found, expected[name], atol=1e-5), name
            starts[name] += count


def test_a_tap_of_tokens_is_verified_and_added_to_the_same_bytes(
    tapped: logitstore.Cache, judge: Path, labelled: Path, tmp_path: Path
) -> None:
    assert verify(tapped.path) == []
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache"))
    add(AddSettings(cache=cache.path, hidden="1", tap_codec="float32", device="cpu"))
    added = cache.path / "taps" / "hidden-1"
    for file in sorted(path for path in added.rglob("*") if path.is_file()):
        other = tapped.path / "taps" / "hidden-1" / file.relative_to(added)
        assert file.read_bytes() == other.read_bytes(), file
    values = next(added.glob("parts/00000/rows.zarr/values/c/0/0"))
    values.write_bytes(values.read_bytes()[:-4])
    assert "hidden-1" in str(verify(cache.path)[0])


def test_a_part_with_another_count_of_tokens_is_found(judge: Path, labelled: Path, tmp_path: Path) -> None:
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache", hidden="1", limit=10, **EXACT))
    info = TapInfo.model_validate(cache.taps["hidden-1"].info.model_dump() | {"name": "hidden-2"})
    storage = cache.storage.within("taps/hidden-2")
    storage.put_first("tap.json", seal(info))
    samples = [cache[number].sample for number in range(10)]
    counts = [sample.length for sample in samples]
    counts[3] -= 1
    with StagedPart(storage, TapPlan(info=info, manifest=cache.manifest), 0, samples, counts) as staged:
        for number, count in enumerate(counts):
            staged.write(number, {"values": np.zeros((count, 32), np.float32)})
        staged.commit()
    (problem,) = verify(cache.path)
    assert f"it has {sum(counts):,} rows, that of the cache {sum(counts) + 1}" in str(problem)


def test_the_size_of_taps_is_known_before_the_teacher_is_asked(
    tapped: logitstore.Cache, judge: Path, labelled: Path, tmp_path: Path
) -> None:
    settings = classes_plan(judge, labelled, tmp_path / "cache", hidden="1,final", **EXACT)
    prepared = planned(settings)
    tokens = sum(tapped[number].sample.length for number in range(len(tapped)))
    assert tap_bytes(settings, prepared.config, prepared.places) == math.ceil(tokens / 44 * 4 * 32 + 4 * 32)


@pytest.mark.parametrize("codec", often(["bfloat16", "int8", "pca-4"], "int8".__eq__))
def test_tokens_are_stored_by_every_codec(judge: Path, labelled: Path, tmp_path: Path, codec: str) -> None:
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache", hidden="1", tap_codec=codec, limit=12))
    loader = cache.loader(batch_size=12, shuffle=False, taps=["hidden-1"])
    batch = loader.at(0, 0)
    exact = torch.cat([told(judge, cache[sample].sample.text)["hidden-1"] for sample in batch.samples.tolist()])
    apart = (loader.features(batch)["hidden-1"] - exact).square().mean() / exact.square().mean()
    assert apart < {"bfloat16": 1e-5, "int8": 1e-3, "pca-4": 0.7}[codec]


def trained(cache: logitstore.Cache, out: Path, student: Path, terms: list[dict[str, Any]], **changes: Any) -> float:
    """Train on features alone; return the mean loss over the steps."""
    settings = plan_of(cache, out, student=str(student), max_steps=1, learning_rate=1e-12, holdout=0.0, batch_size=44)
    changed = settings.model_dump() | {"objective": "none", "terms": terms} | changes
    return train(TrainSettings(**changed))["train_loss"]


TERMS = {
    "match": {"options": {"layers": "all"}},
    "square_head": {},
    "similarity": {"options": {"layers": "all"}},
    "relations": {"options": {"layers": "2:2"}},
    "attention": {},
}


def test_a_student_that_is_its_teacher_has_no_loss(tapped: logitstore.Cache, judge: Path, tmp_path: Path) -> None:
    same = shutil.copytree(judge, tmp_path / "same")
    config = json.loads((same / "config.json").read_text())
    (same / "config.json").write_text(json.dumps(config | CALM))
    for name, more in TERMS.items():
        loss = trained(tapped, tmp_path / name, same, [{"name": name, **more}])
        assert loss == pytest.approx(0, abs=1e-6), name


def relation_kl64(student_TD: Tensor, teacher_TD: Tensor, heads: int) -> float:
    """KL(teacher || student) of softmax(x x' / sqrt(c)) head by head, in NumPy, the mean over heads and tokens."""
    found = []
    for student, teacher in zip(
        np.split(student_TD.double().numpy(), heads, 1), np.split(teacher_TD.double().numpy(), heads, 1), strict=True
    ):
        both = []
        for rows in (student, teacher):
            scores = np.exp(rows @ rows.T / np.sqrt(rows.shape[1]))
            both.append(scores / scores.sum(1, keepdims=True))
        found.append((both[1] * np.log(both[1] / both[0])).sum(1).mean())
    return float(np.mean(found))


def test_the_relations_of_a_text_leave_out_padding_and_look_both_ways(
    tapped: logitstore.Cache, judge: Path, tmp_path: Path
) -> None:
    """Against a loop over texts in float64, each without padding: the mean over its tokens, and then over the texts."""
    other = save_bert(tmp_path / "other", wordpiece(), seed=5, **CALM)
    expected = []
    for number in range(len(tapped)):
        text = tapped[number].sample.text
        student, teacher = told(other, text), told(judge, text)
        expected.append(
            sum(relation_kl64(student[f"{kind}-2"], teacher[f"{kind}-2"], 4) for kind in ("query", "key", "value"))
        )
    found = trained(tapped, tmp_path / "out", other, [{"name": "relations", "options": {"layers": "last-1"}}])
    assert found == pytest.approx(float(np.mean(expected)), rel=1e-4)


RECIPES = ["minilm", "minilm_v2", "distilbert", "mlkd", "distiller", "minitron", "tinybert"]


@pytest.mark.parametrize("recipe", often(RECIPES, {"minilm", "distilbert", "tinybert"}.__contains__))
def test_recipes_on_features_train_a_classifier(tapped: logitstore.Cache, tmp_path: Path, recipe: str) -> None:
    student = save_distilbert(tmp_path / "student", wordpiece())
    flags = {"cache": tapped.path, "out": tmp_path / "out", "student": str(student), "max_steps": 20, "batch_size": 8}
    flags |= {"device": "cpu", "holdout": 0.0, "learning_rate": 3e-3, "trainer": {"logging_steps": 1}}
    train(load(TrainSettings, "train", None, flags, named=recipe))
    losses = list(curve(tmp_path / "out").values())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_run_does_not_go_on_with_other_features(judge: Path, labelled: Path, tmp_path: Path) -> None:
    """Where only `final` was there, the last layer's states are compared as soon as they are added."""
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache", hidden="final"))
    terms = [{"name": "match", "options": {"layers": "last-1"}}]
    settings = plan_of(cache, tmp_path / "out", student=str(judge), max_steps=2, save_every=1, holdout=0.0)
    plan = TrainSettings(**settings.model_dump() | {"terms": terms})
    train(plan)
    add(AddSettings(cache=cache.path, hidden="2", device="cpu"))
    with pytest.raises(BadInput, match="compares final, and would now compare hidden-2, which"):
        train(plan.model_copy(update={"resume": True, "max_steps": 3}))


def test_a_student_with_other_tokens_is_refused(tapped: logitstore.Cache, tmp_path: Path) -> None:
    other = save_bert(tmp_path / "other", wordpiece(200), vocab_size=220)
    with pytest.raises(CacheMismatch, match="its tokens are others than those of hidden-2"):
        trained(tapped, tmp_path / "out", other, [{"name": "match", "options": {"layers": "last-1"}}])


def test_layers_that_are_not_there_are_refused(
    class_cache: logitstore.Cache, judge: Path, labelled: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="--hidden 3: the teacher has 0 to 2; 3 is not there"):
        dump(classes_plan(judge, labelled, tmp_path / "cache", hidden="3"))
    with pytest.raises(BadInput, match="takes --hidden and --qkv"):
        add(AddSettings(cache=class_cache.path, device="cpu"))
