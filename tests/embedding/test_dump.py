"""Texts with vectors: what is stored of them is what the teacher says, whatever the pooling, the columns and the codec."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import logitstore
from logitstore.convert.merge import merge
from logitstore.core.types import ModelRef
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.models.load import load_config
from logitstore.models.pooling.encoder import PooledEncoder
from logitstore.settings.convert import MergeSettings
from logitstore.store.checks.verify import verify
from tests.parts.classes import save_bert, wordpiece
from tests.parts.commands import Command, Refused
from tests.parts.files import tree
from tests.parts.vectors import scored_rows, vectors_plan


def said(teacher: Path, texts: list[str], way: str, normalised: bool) -> torch.Tensor:
    """What a plain model of transformers says of texts, one at a time and without padding, as float32[N, D]."""
    tokenizer, model = AutoTokenizer.from_pretrained(teacher), AutoModel.from_pretrained(teacher).eval()
    found = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            hidden_TD = model(**inputs).last_hidden_state[0]
        found.append({"first": hidden_TD[0], "mean": hidden_TD.mean(0), "last": hidden_TD[-1]}[way])
    vectors_ND = torch.stack(found)
    return vectors_ND / vectors_ND.norm(dim=1, keepdim=True) if normalised else vectors_ND


def stored(cache: logitstore.Cache) -> torch.Tensor:
    tap = cache.taps["final"]
    parts = [{name: torch.from_numpy(np.array(each)) for name, each in tap.part(n).items()} for n in tap.part_numbers]
    return torch.cat([tap.codec.decode(fields) for fields in parts])


TEXTS = [text for row in scored_rows() for text in (row["sentence1"], row["sentence2"])]


def test_every_row_is_the_vector_of_the_text_alone(vector_cache: logitstore.Cache, judge: Path) -> None:
    torch.testing.assert_close(stored(vector_cache), said(judge, TEXTS, "mean", True), rtol=2e-3, atol=2e-3)
    cosine_N = torch.cosine_similarity(stored(vector_cache), said(judge, TEXTS, "mean", True), dim=1)
    assert (1 - cosine_N).max() < 1e-6
    samples = [vector_cache[number].sample for number in range(44)]
    assert [each.text for each in samples] == TEXTS
    assert [each.document for each in samples] == [number // 2 for number in range(44)]
    assert [each.score for each in samples[:42]] == [float(number // 2 % 5) for number in range(42)]
    assert np.isnan(samples[42].score)
    assert verify(vector_cache.path) == []


@pytest.mark.parametrize(
    ("way", "codec", "error"),
    [("first", "int8", 1e-3), ("last", "float32", 1e-6), ("mean", "pca-31", 0.1), ("mean", "bfloat16", 1e-4)],
)
def test_a_codec_of_taps_keeps_the_direction(
    judge: Path, pairs: Path, tmp_path: Path, way: str, codec: str, error: float
) -> None:
    cache = dump(vectors_plan(judge, pairs, tmp_path / "cache", pooling=way, tap_codec=codec, pair_column="sentence2"))
    cosine_N = torch.cosine_similarity(stored(cache), said(judge, TEXTS, way, False), dim=1)
    assert (1 - cosine_N).max() < error
    found = audit(cache, str(judge), 0.3, device="cpu")
    assert found.passed
    assert found.stored < 1e-4


def test_a_folder_of_the_library_says_how_it_pools_and_other_weights_are_told(
    judge: Path, pairs: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = PooledEncoder.from_pretrained(
        judge, config=load_config(ModelRef.parse(str(judge))), output_loading_info=True
    )
    model.settle(model.pooling)
    model.project(12)
    model.save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(judge).save_pretrained(tmp_path / "teacher")
    cache = dump(vectors_plan(tmp_path / "teacher", pairs, tmp_path / "cache"))
    expected = said(judge, TEXTS, "mean", False) @ model.dense[0].weight.detach().T
    torch.testing.assert_close(stored(cache), expected, rtol=2e-3, atol=2e-3)
    assert (cache.manifest.teacher.width, cache.manifest.teacher.vocabulary) == (12, 1)
    assert command("verify", cache.path, "--against-teacher", tmp_path / "teacher", "--device", "cpu") == 0
    assert "of 1 - cosine" in " ".join("".join(capsys.readouterr()).split())
    assert command("inspect", cache.path) == 0
    shown = capsys.readouterr().out
    assert "vector a" in shown  # a narrow screen puts "text" into the next line
    assert "entropy" not in shown
    assert not audit(cache, str(judge), 0.3, device="cpu").passed


def test_a_dump_that_lost_a_part_or_its_vectors_is_finished_with_the_same_bytes(
    vector_cache: logitstore.Cache, judge: Path, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    shutil.copytree(vector_cache.path, out)
    shutil.rmtree(out / "parts" / "00001")
    shutil.rmtree(out / "taps" / "final" / "parts" / "00003")
    dump(vectors_plan(judge, pairs, out, score_columns="score", normalise=True))
    kept = {name: content for name, content in tree(out).items() if "sidecars" not in str(name)}
    assert kept == {
        name: content for name, content in tree(Path(vector_cache.path)).items() if "sidecars" not in str(name)
    }


def test_what_means_nothing_is_refused(
    refused: Refused, judge: Path, pairs: Path, vector_cache: logitstore.Cache, tmp_path: Path
) -> None:
    usual = [
        "dump",
        "--task",
        "embedding",
        "--teacher",
        judge,
        "--data",
        pairs,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    assert "a row of this task is a vector" in refused(*usual, "--preset", "small")
    assert "only the vectors themselves" in refused(*usual, "--hidden", "1")
    assert "there are no pairs" in refused(*usual, "--column", "sentence1", "--score-columns", "score")
    assert "Name one column" in refused(*usual, "--score-columns", "score,other")
    assert "means nothing" in refused(*usual, "--label-column", "score")


def test_a_mean_of_teachers_is_the_mean_of_their_vectors(
    vector_cache: logitstore.Cache, pairs: Path, refused: Refused, tmp_path: Path
) -> None:
    others = {
        "second": save_bert(tmp_path / "teacher", wordpiece(), seed=3),
        "narrow": save_bert(tmp_path / "teacher of the narrow", wordpiece(), hidden_size=16),
    }
    second, narrow = (
        dump(vectors_plan(each, pairs, tmp_path / name, score_columns="score", normalise=True, samples_per_part=16))
        for name, each in others.items()
    )
    paths = [vector_cache.path, second.path]
    found = merge(MergeSettings(caches=paths, weights="3,1", out=tmp_path / "mean"))
    expected = stored(vector_cache) * 0.75 + stored(second) * 0.25
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(stored(found), expected, rtol=2e-3, atol=2e-3)
    assert verify(found.path) == []
    assert [found[0].sample.score, found[43].sample.text] == [0.0, TEXTS[43]]
    shutil.rmtree(tmp_path / "mean" / "taps" / "final" / "parts" / "00002")
    again = merge(MergeSettings(caches=paths, weights="3,1", out=tmp_path / "mean"))
    torch.testing.assert_close(stored(again), stored(found), rtol=0, atol=0)
    out = ["--out", tmp_path / "no"]
    assert "have 16 channels" in refused("merge", vector_cache.path, narrow.path, *out)
    assert "it is about distributions" in refused("merge", *paths, "--by", "confidence", *out)
