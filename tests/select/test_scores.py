"""Scores of samples, and caches that hold nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.report.summary import summarise
from logitstore.select.scores import scores_of
from logitstore.settings.convert import RecodeSettings
from logitstore.store.checks.verify import verify
from logitstore.text.stored import TextSamples
from logitstore.train.train import train
from tests.parts.commands import Command, Refused
from tests.parts.selections import training
from tests.parts.texts import plan_for
from tests.parts.training import curve


def test_a_cache_of_scores_has_the_samples_of_a_full_one_byte_for_byte_and_no_rows(
    cache: logitstore.Cache, teacher_scores: logitstore.Cache
) -> None:
    assert verify(teacher_scores.path) == []
    for number in cache.part_numbers:
        ours, theirs = (each.part(number).folder / "samples.arrow" for each in (teacher_scores, cache))
        assert ours.read_bytes() == theirs.read_bytes()
        rows = [path for path in (teacher_scores.part(number).folder / "rows.zarr").rglob("*") if path.is_file()]
        assert [path.name for path in rows] == ["zarr.json"]
    assert teacher_scores.manifest.bytes_per_row == 0
    summary = summarise(teacher_scores)
    assert summary["gold_cross_entropy"] == pytest.approx(summarise(cache)["gold_cross_entropy"])
    assert summary["fidelity"] is None


def test_an_nll_that_is_no_number_is_found(teacher_scores: logitstore.Cache, tmp_path: Path) -> None:
    part = teacher_scores.part(0)
    part.samples.nll_S, kept = (
        np.where(np.arange(len(part.samples)) == 3, np.nan, part.samples.nll_S),
        part.samples.nll_S,
    )
    found = list(TextSamples().problems(part.samples, part.record, teacher_scores.manifest))
    part.samples.nll_S = kept
    assert "an nll is negative or NaN" in found


def test_what_needs_rows_refuses_a_cache_of_scores_in_one_line(
    refused: Refused,
    teacher_scores: logitstore.Cache,
    teacher: Path,
    small_student: Path,
    tmp_path: Path,
) -> None:
    path = teacher_scores.path
    for arguments in (
        ["train", path, "--student", small_student, "--out", tmp_path / "out"],
        ["evaluate", path, "--student", small_student],
        ["recode", path, "--layout", "archive", "--out", tmp_path / "archive"],
        ["inspect", path, "--sample", 0],
        ["select", path, "--method", "top", "--score", "entropy", "--ratio", 0.5, "--out", tmp_path / "file"],
    ):
        line = refused(*arguments)
        assert f"{path} keeps scores only" in line
        assert "Dump with another preset" in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="keeps scores only"):
        logitstore.open(path).loader().decoder  # noqa: B018


def test_settings_of_rows_are_refused_for_scores(refused: Refused, teacher: Path, texts: Path, tmp_path: Path) -> None:
    line = refused(
        "dump",
        "--teacher",
        teacher,
        "--data",
        texts,
        "--out",
        tmp_path / "o",
        "--preset",
        "scores",
        "-k",
        3,
        "--max-length",
        512,
    )
    assert "-k 3: it changes nothing" in line


def test_a_student_trains_on_gold_tokens_from_a_cache_of_scores_as_from_any_other(
    cache: logitstore.Cache, teacher_scores: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    outs = []
    for number, each in enumerate((cache, teacher_scores)):
        outs.append(tmp_path / str(number))
        figures = train(training(each, outs[-1], small_student, alpha=0.0, max_steps=4))
        assert figures["eval_cross_entropy"] > 0
        assert ("eval_kl" in figures) == (each is cache)
    assert curve(outs[0]) == curve(outs[1])


def test_scores_are_means_over_the_rows_of_each_sample(cache: logitstore.Cache) -> None:
    found = {name: scores_of(cache, name) for name in ("nll", "entropy", "confidence", "rows", "tokens")}
    for index in (0, 1, 57, len(cache) - 1):
        each = cache[index]
        gold = -each.answer["gold_logprob"].astype(np.float64).mean()
        assert found["nll"][index] == pytest.approx(gold, rel=1e-6)
        assert found["entropy"][index] == pytest.approx(each.answer["entropy"].astype(np.float64).mean())
        assert found["confidence"][index] == pytest.approx(np.exp(each.answer["logprobs"][:, 0].astype(float)).mean())
        assert (found["rows"][index], found["tokens"][index]) == (each.sample.rows, len(each.sample.tokens_T))


def test_a_cache_without_listed_tokens_has_no_confidence(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "some words to read"}\n')
    sampled = dump(plan_for(teacher, data, tmp_path / "sampled", preset="sampled", k=None, domain_column=None))
    with pytest.raises(BadInput, match="does not list its most probable tokens"):
        scores_of(sampled, "confidence")
    assert np.isfinite(scores_of(sampled, "entropy")).all()


@pytest.mark.parametrize("logprobs", ["levels-8", "levels-6", "levels-5", "float16"])
def test_select_says_by_how_much_a_cache_rounds_the_confidence(
    cache: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, logprobs: str
) -> None:
    rounded = recode(RecodeSettings(cache=cache.path, out=tmp_path / "rounded", logprobs=logprobs))
    options = ["--method", "llkd", "--out", tmp_path / "out.arrow", "--json"]
    assert command("select", rounded.path, *options) == 0
    said = json.loads(capsys.readouterr().out)["rounding"]
    off = [
        np.abs(
            np.exp(a.answer["logprobs"][:, 0].astype(float)) - np.exp(b.answer["logprobs"][:, 0].astype(float))
        ).max()
        for a, b in zip(cache, rounded, strict=True)
    ]
    if logprobs == "float16":
        assert said == 0
    else:
        assert said / 4 < max(off) <= said + 1e-4
        assert command("select", rounded.path, *options[:-2], tmp_path / "again.arrow") == 0
        assert f"up to {said:.3f} off" in capsys.readouterr().out.replace("\n", " ")
