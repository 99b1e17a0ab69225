"""The command `select`: what it chooses, prints and refuses."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.select.scores import scores_of
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.store.selection import read_selection
from tests.parts.broken import truncate
from tests.parts.commands import Command, Refused
from tests.parts.texts import plan_for


def test_difference_keeps_the_samples_that_the_teacher_gains_most_on(
    teacher_scores: logitstore.Cache, reference_scores: logitstore.Cache, half: Path
) -> None:
    teacher_nll, reference_nll = teacher_scores.nll().tolist(), reference_scores.nll().tolist()
    gains = [b - a for a, b in zip(teacher_nll, reference_nll, strict=True)]
    best = sorted(range(len(gains)), key=lambda s: (-gains[s], s))[: (len(gains) + 1) // 2]
    found = read_selection(half)
    assert found.samples_M.tolist() == sorted(best)
    info = found.info
    assert (info.method, info.arguments, info.samples) == ("difference", {"ratio": 0.5}, len(teacher_scores))
    assert (info.cache, info.reference) == (teacher_scores.manifest.identity, reference_scores.manifest.identity)
    assert info.chosen.rows == sum(teacher_scores[int(s)].sample.rows for s in found.samples_M)


def test_the_summary_counts_what_was_chosen(cache: logitstore.Cache, tmp_path: Path) -> None:
    found = select(SelectSettings(cache=cache.path, method="bottom", samples=20, out=tmp_path / "a"))
    nll = scores_of(cache, "nll")
    chosen = found.selection.samples_M
    assert found.mean_chosen == pytest.approx(nll[chosen].mean())
    assert found.mean_left == pytest.approx(np.delete(nll, chosen).mean())
    names = [cache[int(s)].sample.domain for s in chosen]
    assert {each.name: each.chosen for each in found.domains if each.chosen} == Counter(names)
    assert sum(each.all for each in found.domains) == len(cache)


def test_bounds_choose_what_lies_between_them(cache: logitstore.Cache, tmp_path: Path) -> None:
    nll = scores_of(cache, "nll")
    low, high = np.quantile(nll, [0.3, 0.6])
    plan = SelectSettings(cache=cache.path, method="top", at_least=low, at_most=high, out=tmp_path / "a")
    found = select(plan).selection.samples_M
    assert found.tolist() == np.flatnonzero((nll >= low) & (nll <= high)).tolist()
    with pytest.raises(BadInput, match="no sample"):
        select(SelectSettings(cache=cache.path, method="top", at_least=1e9, out=tmp_path / "b"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "top"], "say how much to choose"),
        (["--ratio", 0.5], "needs --reference"),
        (["--ratio", 0.5, "--samples", 3, "--method", "top"], "give one of them"),
        (["--ratio", 0, "--method", "top"], "--ratio 0"),
        (["--ratio", 1.1, "--method", "top"], "--ratio 1.1"),
        (["--ratio", 0.5, "--method", "random", "--at-least", 1], "name it with --score"),
        (["--ratio", 0.5, "--method", "best"], "--method best"),
        (["--method", "llkd", "--score", "nll"], "has its own here"),
        (["--ratio", 0.5, "--method", "top", "--seed", 0], "--seed 0: the method 'top' draws nothing"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    refused: Refused,
    cache: logitstore.Cache,
    tmp_path: Path,
    options: list[object],
    expected: str,
) -> None:
    assert expected in refused("select", cache.path, "--out", tmp_path / "file", *options)
    assert not (tmp_path / "file").exists()


def test_caches_of_other_samples_are_refused_with_the_reason(
    refused: Refused,
    teacher_scores: logitstore.Cache,
    teacher: Path,
    other_student: Path,
    texts: Path,
    tmp_path: Path,
) -> None:
    shorter = dump(plan_for(teacher, texts, tmp_path / "shorter", preset="scores", k=None, max_length=64))
    other = dump(plan_for(other_student, texts, tmp_path / "other", preset="scores", k=None))
    arguments = ["select", teacher_scores.path, "--ratio", 0.5, "--out", tmp_path / "file", "--reference"]
    assert "differ. Dump both with the same" in refused(*arguments, shorter.path)
    assert "different tokenizers" in refused(*arguments, other.path)


def test_a_cache_that_is_not_complete_is_refused(cache: logitstore.Cache, half: Path, tmp_path: Path) -> None:
    part = shutil.copytree(cache.path, tmp_path / "cache")
    shutil.rmtree(part / "parts" / "00001")
    with pytest.raises(CacheMismatch, match="not all of its parts"):
        select(SelectSettings(cache=part, method="random", ratio=0.5, out=tmp_path / "file"))
    with pytest.raises(CacheMismatch, match="has not all of its parts"):
        read_selection(half).check(logitstore.open(part), half)


def test_what_is_no_whole_cache_is_named(refused: Refused, cache: logitstore.Cache, tmp_path: Path) -> None:
    rest = ["--method", "random", "--ratio", 0.5, "--out", tmp_path / "file"]
    assert f"{tmp_path}: no cache.json in it" in refused("select", tmp_path, *rest)
    spoilt = Path(shutil.copytree(cache.path, tmp_path / "cache"))
    truncate(spoilt / "parts" / "00001" / "samples.arrow")
    assert f"{spoilt}: parts/00001/samples.arrow has" in refused("select", spoilt, *rest)
    line = refused("select", cache.path, "--reference", spoilt, "--ratio", 0.5, "--out", tmp_path / "file")
    assert f"{spoilt}: parts/00001/samples.arrow has" in line
    (tmp_path / "file").write_text("two years of work")
    assert "something stands there already" in refused("select", cache.path, *rest)
    assert (tmp_path / "file").read_text() == "two years of work"
    absent = tmp_path / "absent" / "folder" / "file"
    assert select(SelectSettings(cache=cache.path, method="random", samples=1, out=absent)).selection.checksum
    assert read_selection(absent).samples_M.size == 1


def test_the_command_prints_what_was_chosen(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    cache: logitstore.Cache,
    tmp_path: Path,
) -> None:
    assert command("select", cache.path, "--method", "prune", "--ratio", 0.1, "--out", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert "suggested: train --alpha 0.89" in shown
    assert "topic 1" in shown
    assert command("select", cache.path, "--method", "llkd", "--out", tmp_path / "b", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["selection"]["method"] == "llkd"
    assert found["score"] == "confidence"
    assert command("select", cache.path, "--method", "llkd", "--out", tmp_path / "b") == 2


def test_a_cache_is_no_reference_for_itself(teacher_scores: logitstore.Cache, refused: Refused, tmp_path: Path) -> None:
    copy = shutil.copytree(teacher_scores.path, tmp_path / "copy")
    asked = ("select", teacher_scores.path, "--method", "difference", "--ratio", 0.5, "--out", tmp_path / "chosen")
    for reference in (teacher_scores.path, copy):
        assert "it is the cache itself, or a copy" in refused(*asked, "--reference", reference)
