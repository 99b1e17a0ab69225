"""Caches of classified texts become other caches: cut, packed, and the mean of two teachers with different tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.store.checks.verify import verify
from logitstore.train.train import train
from tests.classification.test_dump import said, stored
from tests.parts.classes import classes_plan, labelled_rows, save_bert, save_rows, wordpiece
from tests.parts.files import tree
from tests.parts.training import plan_of


@pytest.fixture(scope="module")
def other_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the same classes with another tokenizer and more positions."""
    folder = tmp_path_factory.mktemp("other") / "teacher"
    return save_bert(folder, wordpiece(250), seed=7, hidden_size=48, vocab_size=260, max_position_embeddings=96)


@pytest.fixture(scope="module")
def other_cache(tmp_path_factory: pytest.TempPathFactory, other_judge: Path, labelled: Path) -> logitstore.Cache:
    folder = tmp_path_factory.mktemp("other") / "cache"
    return dump(classes_plan(other_judge, labelled, folder, samples_per_part=16))


def test_the_mean_of_two_teachers_is_the_mean_of_their_probabilities(
    class_cache: logitstore.Cache, other_cache: logitstore.Cache, judge: Path, other_judge: Path, tmp_path: Path
) -> None:
    settings = MergeSettings(
        caches=[class_cache.path, other_cache.path], out=tmp_path / "mean", weights="1,3", preset="topk", k=3
    )
    mean = merge(settings)
    texts = [row["text"] for row in labelled_rows()]
    expected = (said(judge, texts).exp() + 3 * said(other_judge, texts, length=96).exp()) / 4
    torch.testing.assert_close(stored(mean).exp(), expected, rtol=3e-3, atol=3e-3)
    assert verify(mean.path) == []
    assert mean[43].sample.tokens_T.tolist() == class_cache[43].sample.tokens_T.tolist()
    whole = tree(mean.path)
    (mean.path / "parts" / "00002" / "part.json").unlink()
    assert tree(merge(settings).path) == whole
    student = save_bert(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)
    train(plan_of(mean, tmp_path / "out", student=str(student), max_steps=4))


def test_texts_with_other_labels_or_classes_are_not_merged(
    class_cache: logitstore.Cache, judge: Path, labelled: Path, tmp_path: Path
) -> None:
    rows = labelled_rows()
    rows[3]["label"] = "long"
    other = dump(classes_plan(judge, save_rows(tmp_path / "rows.jsonl", rows), tmp_path / "labels"))
    renamed = save_bert(tmp_path / "renamed", wordpiece(), classes=["small", "middle", "large"])
    named = dump(classes_plan(renamed, labelled, tmp_path / "named", labels=False))
    for cache, line in ((other, "so the texts or their labels differ"), (named, "its classes have other names")):
        with pytest.raises(CacheMismatch, match=line):
            merge(MergeSettings(caches=[class_cache.path, cache.path], out=tmp_path / "mean", preset="topk", k=3))


def test_a_cache_is_cut_and_packed_without_the_teacher(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    packed = recode(RecodeSettings(cache=class_cache.path, out=tmp_path / "packed", layout="archive"))
    torch.testing.assert_close(stored(packed), stored(class_cache))
    assert verify(packed.path) == []
    cut = recode(RecodeSettings(cache=class_cache.path, out=tmp_path / "cut", k=2))
    assert len(cut[0].answer["ids"][0]) == 2
    assert verify(cut.path) == []
