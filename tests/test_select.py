"""Selecting samples: every method against a plain reference, the file, training on what was chosen, and curricula."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

import logitstore
from logitstore.batch import Batch
from logitstore.cache.order import held_out
from logitstore.cache.verify import _sample_invariants, verify
from logitstore.dump import dump
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.evaluate import evaluate
from logitstore.loader import Loader
from logitstore.plans import EvaluatePlan, SelectPlan, TrainPlan
from logitstore.reading import loaders
from logitstore.report import summarise
from logitstore.reweighting import Reweighting
from logitstore.select import select
from logitstore.selection.choice import Amount, Candidates
from logitstore.selection.curricula import Curriculum, paced, share_of
from logitstore.selection.difference import difference
from logitstore.selection.domains import DomainOrder, behind, first_shares, next_shares
from logitstore.selection.drawn import drawn
from logitstore.selection.file import Selection, read_selection, write_selection
from logitstore.selection.llkd import sure
from logitstore.selection.prune import pruned, suggested_alpha
from logitstore.selection.ranked import bottom, top
from logitstore.selection.scores import scores_of
from logitstore.selection.stratified import shares, stratified
from logitstore.text import encoded_anew
from logitstore.text_loader import TextLoader
from logitstore.train import train
from logitstore.types import ModelRef
from tests.conftest import VOCABULARY, Command, Refused, plan_for, save_model, train_tokenizer
from tests.golden import make_selection
from tests.test_train import curve, trainer_of
from tests.test_wrong_inputs import truncate

SPECIFICATION = Path(__file__).parents[1] / "docs" / "format.md"

SCORES = st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0, np.inf, -np.inf, np.nan]), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def teacher_scores(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("scores") / "teacher", preset="scores", k=None))


@pytest.fixture(scope="module")
def reference_scores(tmp_path_factory: pytest.TempPathFactory, small_student: Path, texts: Path) -> logitstore.Cache:
    folder = tmp_path_factory.mktemp("scores") / "reference"
    return dump(plan_for(small_student, texts, folder, preset="scores", k=None, samples_per_part=31))


@pytest.fixture(scope="module")
def other_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose tokenizer is not the teacher's."""
    rows = VOCABULARY + 80
    return save_model(tmp_path_factory.mktemp("other"), train_tokenizer(rows), rows, seed=2, num_hidden_layers=1)


@pytest.fixture(scope="module")
def half(
    tmp_path_factory: pytest.TempPathFactory, teacher_scores: logitstore.Cache, reference_scores: logitstore.Cache
) -> Path:
    """MiniPLM's half of the data."""
    out = tmp_path_factory.mktemp("selection") / "half.arrow"
    select(SelectPlan(cache=teacher_scores.path, reference=reference_scores.path, ratio=0.5, out=out))
    return out


def training(cache: logitstore.Cache, out: Path, student: Path, **changes: Any) -> TrainPlan:
    usual: dict[str, Any] = {
        "cache": cache.path,
        "student": str(student),
        "out": out,
        "learning_rate": 3e-3,
        "holdout": 0.2,
        "device": "cpu",
        "trainer": {"logging_steps": 1},
    }
    return TrainPlan(**usual | changes)


def candidates(score: list[float] | None, domains: list[int] | None = None, count: int | None = None) -> Candidates:
    size = len(score) if score is not None else len(domains or []) or int(count or 0)
    return Candidates(
        score_S=None if score is None else np.array(score, np.float64),
        domain_S=np.zeros(size, np.int64) if domains is None else np.array(domains),
        allowed_S=np.ones(size, np.bool_),
    )


# scores


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
    found = list(_sample_invariants(part, part.record, 320))
    part.samples.nll_S = kept
    assert ("samples.arrow", "an nll is negative or NaN") in found


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
        "dump", "--teacher", teacher, "--data", texts, "--out", tmp_path / "o", "--preset", "scores", "-k", 3
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


# methods


@given(score=SCORES, ratio=st.floats(0.01, 1))
def test_top_and_bottom_are_those_of_a_plain_sort(score: list[float], ratio: float) -> None:
    count = max(int(ratio * len(score) + 0.5), 1)
    numbers = range(len(score))
    highest = sorted(numbers, key=lambda s: (np.isnan(score[s]), 0 if np.isnan(score[s]) else -score[s], s))[:count]
    lowest = sorted(numbers, key=lambda s: (np.isnan(score[s]), 0 if np.isnan(score[s]) else score[s], s))[:count]
    amount = Amount(ratio=ratio)
    assert top(candidates(score), amount).samples_M.tolist() == sorted(highest)
    assert bottom(candidates(score), amount).samples_M.tolist() == sorted(lowest)


def test_the_ends_of_an_amount() -> None:
    assert Amount(ratio=1.0).of(7) == 7
    assert Amount(ratio=1e-9).of(7) == 1
    assert Amount(ratio=0.5).of(5) == 3
    assert Amount(samples=9).of(7) == 7
    assert Amount().of(7) == 7
    assert Amount(ratio=0.3).of(1) == 1


def test_the_difference_is_the_reference_s_nll_less_the_teacher_s() -> None:
    found = difference(np.array([1.0, 3.0, np.inf, 2.0], np.float32), np.array([2.0, 1.0, np.inf, np.inf], np.float32))
    np.testing.assert_array_equal(found, [1.0, -2.0, np.nan, np.inf])


def test_random_samples_depend_on_the_seed_alone_and_smaller_amounts_are_nested() -> None:
    some = candidates(None, count=1000)
    found = drawn(some, Amount(samples=300, seed=5)).samples_M
    assert found.tolist() == drawn(some, Amount(samples=300, seed=5)).samples_M.tolist()
    assert set(drawn(some, Amount(samples=100, seed=5)).samples_M) <= set(found)
    assert len(set(drawn(some, Amount(samples=300, seed=6)).samples_M) & set(found)) < 150
    assert len(set(found)) == 300
    assert 100 < (found < 500).sum() < 200


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum), ratio=st.floats(0.01, 1))
def test_shares_sum_to_the_total_and_miss_no_domain_by_a_whole_sample(counts: list[int], ratio: float) -> None:
    total = max(round(ratio * sum(counts)), 1)
    found = shares(np.array(counts), total)
    assert found.sum() == total
    assert (np.abs(found - np.array(counts) * total / sum(counts)) < 1).all()


def test_stratified_takes_the_best_of_every_domain_also_where_one_is_empty() -> None:
    score = [9.0, 8, 7, 6, 1, 2, 3, 4]
    domains = [0, 0, 0, 0, 2, 2, 2, 2]  # nothing is of domain 1
    assert stratified(candidates(score, domains), Amount(ratio=0.5)).samples_M.tolist() == [0, 1, 6, 7]
    found = stratified(candidates(None, domains), Amount(ratio=0.5, seed=1)).samples_M
    assert ((found < 4).sum(), (found >= 4).sum()) == (2, 2)


def test_llkd_keeps_what_is_above_its_domain_s_threshold_and_weighs_it_by_confidence() -> None:
    confidence = [0.9, 0.5, 0.7, 0.2, 0.4, 0.3]
    domains = [0, 0, 0, 1, 1, 1]
    overall, means = np.mean(confidence), [0.7, 0.3]
    limits = [overall * mean / 0.7 for mean in means]
    expected = [s for s in range(6) if confidence[s] >= limits[domains[s]]]
    found = sure(candidates(confidence, domains), Amount())
    assert found.samples_M.tolist() == expected
    assert found.weight_M is not None
    kept = np.array(confidence)[expected]
    np.testing.assert_allclose(found.weight_M, kept / kept.mean(), rtol=1e-6)
    assert sure(candidates(confidence), Amount()).samples_M.tolist() == [0, 1, 2]
    assert sure(candidates(confidence), Amount(samples=1)).samples_M.tolist() == [0]
    assert sure(candidates([np.nan, 0.5]), Amount()).samples_M.tolist() == [1]


def test_the_suggested_alpha_goes_from_small_with_all_data_to_large_with_a_tenth() -> None:
    assert [suggested_alpha(share) for share in (1.0, 0.1, 0.01)] == pytest.approx([0.1, 0.9, 0.9])
    assert suggested_alpha(0.5) == pytest.approx(0.1 + 0.8 * np.log10(2))
    assert pruned(candidates(None, count=10), Amount(ratio=0.1)).suggested_alpha == pytest.approx(0.9)


# the command


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
    found = select(SelectPlan(cache=cache.path, method="bottom", samples=20, out=tmp_path / "a"))
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
    plan = SelectPlan(cache=cache.path, method="top", at_least=low, at_most=high, out=tmp_path / "a")
    found = select(plan).selection.samples_M
    assert found.tolist() == np.flatnonzero((nll >= low) & (nll <= high)).tolist()
    with pytest.raises(BadInput, match="no sample"):
        select(SelectPlan(cache=cache.path, method="top", at_least=1e9, out=tmp_path / "b"))


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
        select(SelectPlan(cache=part, method="random", ratio=0.5, out=tmp_path / "file"))
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
    assert select(SelectPlan(cache=cache.path, method="random", samples=1, out=absent)).selection.checksum
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


# the file


def selection_of(cache: logitstore.Cache, tmp_path: Path, **options: Any) -> tuple[Path, Selection]:
    out = tmp_path / "selection.arrow"
    return out, select(SelectPlan(cache=cache.path, out=out, **options)).selection


@pytest.mark.parametrize("method", ["random", "llkd", "prune"])
def test_a_selection_comes_back_as_it_was_written(cache: logitstore.Cache, tmp_path: Path, method: str) -> None:
    amount = {} if method == "llkd" else {"ratio": 0.5}
    out, written = selection_of(cache, tmp_path, method=method, **amount)
    read = read_selection(out)
    assert (read.info, read.checksum) == (written.info, written.checksum)
    np.testing.assert_array_equal(read.samples_M, written.samples_M)
    assert (read.weight_M is None) == (method != "llkd")
    if read.weight_M is not None and written.weight_M is not None:
        np.testing.assert_array_equal(read.weight_M, written.weight_M)
    plain = pa.ipc.open_file(pa.memory_map(str(out))).read_all()
    assert plain.column("sample").to_pylist() == written.samples_M.tolist()


def test_the_golden_selection_is_read_to_the_expected_values_with_the_checksum_that_the_specification_says() -> None:
    found, expected = read_selection(make_selection.SELECTION), make_selection.made()
    assert found.info == expected.info
    assert (found.samples_M.tolist(), found.samples_M.dtype) == ([1, 4, 6], np.int64)
    assert found.weight_M is not None
    assert (found.weight_M.tolist(), found.weight_M.dtype) == ([0.5, 1.0, 1.5], np.float32)
    table = pa.ipc.open_file(pa.memory_map(str(make_selection.SELECTION))).read_all()
    content = json.loads(table.schema.metadata[b"logitstore"])
    checksum = content.pop("checksum")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    columns = np.array([1, 4, 6], "<i8").tobytes() + np.array([0.5, 1, 1.5], "<f4").tobytes()
    assert checksum == xxhash.xxh3_128_hexdigest(canonical + columns)
    names = set(content) | {"checksum", "sample", "weight"} | set(content["chosen"])
    assert not {name for name in names if f"`{name}`" not in SPECIFICATION.read_text(encoding="utf-8")}


def test_a_selection_fits_every_cache_of_the_same_data(
    cache: logitstore.Cache, reference_scores: logitstore.Cache, half: Path
) -> None:
    read_selection(half).check(cache, half)
    read_selection(half).check(reference_scores, half)


def test_a_selection_that_was_cut_short_or_changed_is_refused(cache: logitstore.Cache, tmp_path: Path) -> None:
    out, written = selection_of(cache, tmp_path, method="llkd")
    assert written.weight_M is not None
    whole = out.read_bytes()
    for size in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:size])
        with pytest.raises(BadInput, match="selection"):
            read_selection(out)
    body = whole.index(b"ARROW1") + 8
    for place in range(body, len(whole) - 8, 7):
        out.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read_selection(out)
        except BadInput:
            continue
        # what is not looked at, such as padding, says nothing
        assert (found.info, found.checksum) == (written.info, written.checksum)
        np.testing.assert_array_equal(found.samples_M, written.samples_M)
        np.testing.assert_array_equal(found.weight_M, written.weight_M)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change a selection by hand: its JSON, and its columns."""
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    content = json.loads(table.schema.metadata[b"logitstore"])
    columns = {name: table.column(name).to_numpy().copy() for name in table.column_names}
    change(content, columns)
    fields = [pa.field(name, pa.from_numpy_dtype(value.dtype), nullable=False) for name, value in columns.items()]
    schema = pa.schema(fields, metadata={b"logitstore": json.dumps(content).encode()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(value) for value in columns.values()], schema=schema))


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "another format": (lambda content, _: content.update(format="zarr"), "no selection of logitstore's"),
    "newer": (lambda content, _: content.update(version=2, news=1), "Install a newer logitstore"),
    "version of another kind": (lambda content, _: content.update(version="1"), "version"),
    "unknown key": (lambda content, _: content.update(extra=1), "extra"),
    "missing key": (lambda content, _: content.pop("method"), "method"),
    "other checksum": (lambda content, _: content.update(checksum="0" * 32), "checksum"),
    "other method": (lambda content, _: content.update(method="top"), "checksum"),
    "other samples": (lambda _, columns: columns.update(sample=columns["sample"][::-1].copy()), "checksum"),
    "narrow numbers": (lambda _, columns: columns.update(sample=columns["sample"].astype(np.int32)), "columns"),
    "no columns": (lambda _, columns: columns.update(name=columns.pop("sample")), "columns"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_selection_is_refused_in_one_line(
    refused: Refused,
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    what: str,
) -> None:
    out, _ = selection_of(cache, tmp_path, method="random", ratio=0.3)
    change, expected = HOSTILE[what]
    rewritten(out, change)
    line = refused("train", cache.path, "--student", small_student, "--select", out, "--out", tmp_path / "out")
    assert f"--select {out}" in line
    assert expected in line


@pytest.mark.parametrize("numbers", [[], [-1, 3], [3, 3], [0, 10**6], [5, 2]])
def test_numbers_that_are_not_of_samples_are_refused_also_with_the_right_checksum(
    cache: logitstore.Cache, tmp_path: Path, numbers: list[int]
) -> None:
    out, written = selection_of(cache, tmp_path, method="random", samples=2)
    forged = Selection(info=written.info, samples_M=np.array(numbers, np.int64), weight_M=None)
    write_selection(out, forged)
    with pytest.raises(BadInput, match="samples"):
        read_selection(out)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_that_is_no_selection_is_named(
    refused: Refused,
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    line = refused("train", cache.path, "--student", small_student, "--select", path, "--out", tmp_path / "out")
    assert f"--select {path}" in line


def test_a_selection_for_other_data_is_refused(
    cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "some words to read"}\n{"text": "and some more"}\n')
    other = dump(plan_for(teacher, data, tmp_path / "other", preset="scores", k=None, domain_column=None))
    out, _ = selection_of(other, tmp_path, method="random", ratio=1.0)
    with pytest.raises(CacheMismatch, match="made for other samples"):
        train(training(cache, tmp_path / "out", small_student, select=out))


# training on it


def samples_read(plan: TrainPlan, cache: logitstore.Cache, selection: Selection | None) -> Counter[int]:
    """The samples of one epoch of the loader that `train` makes."""
    place = {"rank": 0, "world_size": 1, "workers": 0}
    loader, _, _ = loaders(plan, cache, ModelRef.parse(str(plan.student)), selection, [], place, lambda step: None)
    return Counter(int(sample) for batch in loader for sample in batch.samples)


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"curriculum": "easy-first"}, {"curriculum": "hard-first"}])
def test_exactly_the_chosen_samples_are_read_but_for_those_held_out(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    selection = read_selection(half)
    kept_out = held_out(cache.documents(), 0.2)
    expected = [int(s) for s in selection.samples_M if not kept_out[s]]
    found = samples_read(training(cache, tmp_path / "out", small_student, **options), cache, selection)
    assert found == Counter(expected)


def test_a_run_on_a_selection_trains_on_it_and_records_it(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    make = Loader._make

    def spy(loader: Loader, epoch: int, number: int) -> Batch:
        batch = make(loader, epoch, number)
        if loader._shuffle:
            seen.update(batch.samples.tolist())
        return batch

    monkeypatch.setattr(Loader, "_make", spy)
    figures = train(training(cache, tmp_path / "out", small_student, select=half, alpha=0.5))
    kept_out = held_out(cache.documents(), 0.2)
    selection = read_selection(half)
    assert seen == {int(s) for s in selection.samples_M if not kept_out[s]}
    assert figures["eval_rows"] == sum(cache[int(s)].sample.rows for s in np.flatnonzero(kept_out))
    summary = json.loads((tmp_path / "out" / "logitstore.json").read_text())
    assert summary["selection"] == selection.checksum


def test_a_selection_of_nothing_but_held_out_documents_leaves_nothing(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out, written = selection_of(cache, tmp_path, method="random", samples=1)
    kept_out = np.flatnonzero(held_out(cache.documents(), 0.2))[:1]
    info = written.info
    write_selection(out, Selection(info=info, samples_M=kept_out, weight_M=None))
    with pytest.raises(BadInput, match="every chosen sample is of a document that is held out"):
        train(training(cache, tmp_path / "out", small_student, select=out))


@pytest.mark.parametrize("options", [{}, {"curriculum": "easy-first"}, {"curriculum": "cyclical"}])
def test_a_run_on_a_selection_that_is_gone_on_with_equals_one_in_one_go(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"select": half, "epochs": 2.0, "save_every": 3, **options}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(training(cache, whole, small_student, **options, trainer={"logging_steps": 1, "save_total_limit": None}))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    moved = Path(shutil.copy(half, tmp_path / "moved.arrow"))
    train(training(cache, stopped, small_student, **options | {"select": moved, "resume": True}))
    assert curve(stopped) == curve(whole)


def test_a_run_is_not_gone_on_with_on_another_selection(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(training(cache, out, small_student, select=half, max_steps=2, save_every=1))
    summary = json.loads((out / "logitstore.json").read_text())
    del summary["figures"]
    (out / "logitstore.json").write_text(json.dumps(summary))
    other, _ = selection_of(cache, tmp_path, method="random", ratio=0.5)
    for changed in (other, None):
        with pytest.raises(BadInput, match=r"began with selection = .* Give the same selection"):
            train(training(cache, out, small_student, select=changed, max_steps=2, save_every=1, resume=True))


def test_the_weight_of_a_sample_multiplies_the_loss_of_its_rows(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path, alpha=0.0)
    weights = np.linspace(0.5, 2, len(cache)).astype(np.float32)
    plain = next(iter(Loader(cache, batch_size=4, shuffle=False)))
    weighted = next(iter(Loader(cache, batch_size=4, shuffle=False, weights=weights)))
    assert weighted.weight is not None
    counts = [cache[s].sample.rows for s in range(4)]
    torch.testing.assert_close(weighted.weight, torch.from_numpy(np.repeat(weights[:4], counts)))
    losses = []
    for sample in range(4):
        alone = next(iter(Loader(cache, batch_size=1, shuffle=False, samples=np.array([sample]))))
        losses.append(trainer.compute_loss(trainer.model, alone.tensors()) * counts[sample])
    expected = sum(loss * float(weights[s]) for s, loss in enumerate(losses)) / sum(counts)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, weighted.tensors()), expected)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, plain.tensors()), sum(losses) / sum(counts))


# students with another tokenizer


def test_the_text_of_joined_windows_is_the_document_s(
    cache: logitstore.Cache, texts: Path, other_student: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(other_student)
    documents = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    found = encoded_anew(cache, np.arange(len(cache)), tokenizer)
    used = sorted(set(cache.documents().tolist()))
    expected = [tokenizer(documents[document])["input_ids"] for document in used]
    said = [int(token) for s in range(len(found)) for token in found.tokens_of(s)[found.positions_of(s) + 1]]
    assert said == [token for tokens in expected for token in tokens[1:]]
    firsts = sum(len(tokenizer.decode(tokens[:1]).encode()) for tokens in expected)
    assert found.bytes == sum(len(documents[document].encode()) for document in used) - firsts
    assert found.lengths().max() <= 96
    assert (found.row_counts() == [len(found.positions_of(s)) for s in range(len(found))]).all()


def test_a_window_alone_is_its_own_text(cache: logitstore.Cache, other_student: Path, tokenizer: Any) -> None:
    tokenizer_of_student = AutoTokenizer.from_pretrained(other_student)
    documents = cache.documents()
    long = next(s for s in range(len(cache) - 2) if documents[s] == documents[s + 2])
    found = encoded_anew(cache, np.array([long, long + 2]), tokenizer_of_student)
    text = "".join(tokenizer_of_student.decode(found.tokens_of(s)) for s in range(len(found)))
    wanted = "".join(tokenizer.decode(cache[s].sample.tokens_T.astype(int)) for s in (long, long + 2))
    assert text == wanted


def test_a_student_with_another_tokenizer_learns_the_chosen_text_and_is_judged_per_byte(
    cache: logitstore.Cache, other_student: Path, half: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = {"select": half, "alpha": 0.0, "text": True, "epochs": 3.0}
    figures = train(training(cache, out, other_student, **options))
    judge = {"cache": cache.path, "holdout": 0.2, "device": "cpu", "text": True}
    before = evaluate(EvaluatePlan(**judge, student=str(other_student)))
    after = evaluate(EvaluatePlan(**judge, student=str(out)))
    assert after.cross_entropy < before.cross_entropy
    assert after.rows == figures["eval_rows"]
    assert vars(after)["nats_per_byte"] == pytest.approx(figures["eval_nats_per_byte"], rel=1e-4)
    assert AutoTokenizer.from_pretrained(out).vocab_size == VOCABULARY + 80
    assert AutoModelForCausalLM.from_pretrained(out).config.vocab_size == VOCABULARY + 80


def test_nats_per_byte_is_the_loss_of_transformers_over_the_bytes_of_the_text(
    teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    text = "Grüße, 你好, naïve façade and some more of it"
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"text": text}) + "\n")
    alone = dump(plan_for(teacher, data, tmp_path / "cache", preset="scores", k=None, domain_column=None))
    plan = EvaluatePlan(cache=alone.path, student=str(small_student), samples="all", text=True, device="cpu")
    found = evaluate(plan)
    tokens = AutoTokenizer.from_pretrained(small_student)(text, return_tensors="pt")["input_ids"]
    loss = AutoModelForCausalLM.from_pretrained(small_student)(tokens, labels=tokens).loss.item()
    assert found.cross_entropy == pytest.approx(loss, rel=1e-5)
    first = len(AutoTokenizer.from_pretrained(small_student).decode(tokens[0, :1]).encode())
    assert vars(found)["nats_per_byte"] == pytest.approx(loss * (tokens.numel() - 1) / (len(text.encode()) - first))


def test_text_is_read_in_the_same_batches_by_any_number_of_ranks(cache: logitstore.Cache, other_student: Path) -> None:
    texts = encoded_anew(cache, np.arange(60), AutoTokenizer.from_pretrained(other_student))
    alone = [batch.samples.tolist() for batch in TextLoader(texts, batch_size=4, seed=3)]
    ranks = [list(TextLoader(texts, batch_size=4, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    assert [ranks[n % 2][n // 2].samples.tolist() for n in range(len(alone))] == alone
    packed = next(iter(TextLoader(texts, batch_size=6, packed=True)))
    for sample in range(6):
        rows = texts.positions_of(int(packed.samples[sample]))
        assert len(rows)
    assert int(packed.row_mask.sum()) == sum(len(texts.positions_of(int(s))) for s in packed.samples)
    torch.testing.assert_close(packed.gold, packed.input_ids.flatten()[packed.rows + 1])


def test_a_run_on_text_that_is_gone_on_with_equals_one_in_one_go(
    cache: logitstore.Cache, other_student: Path, half: Path, tmp_path: Path
) -> None:
    options = {"select": half, "alpha": 0.0, "text": True, "epochs": 2.0, "save_every": 3, "packed": True}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(training(cache, whole, other_student, **options, trainer={"logging_steps": 1, "save_total_limit": None}))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    train(training(cache, stopped, other_student, **options, resume=True))
    assert curve(stopped) == curve(whole)


def test_text_goes_without_a_teacher_only(
    refused: Refused,
    cache: logitstore.Cache,
    other_student: Path,
    small_student: Path,
    tmp_path: Path,
) -> None:
    base = ["train", cache.path, "--out", tmp_path / "out"]
    assert "Give --alpha 0" in refused(*base, "--student", other_student, "--text")
    assert "--text needs a --student" in refused(*base, "--text", "--alpha", 0)
    line = refused(*base, "--student", other_student, "--text", "--alpha", 0, "--curriculum", "easy-first")
    assert "has no score" in line
    assert "changes nothing without" in refused(*base, "--student", small_student, "--curriculum-start", 0.5)
    mismatch = refused(*base, "--student", other_student)
    assert "its tokenizer is not the cache's" in mismatch
    assert "--text (in train with --alpha 0)" in mismatch
    weighted, _ = selection_of(cache, tmp_path, method="llkd")
    line = refused(*base, "--student", other_student, "--text", "--alpha", 0, "--select", weighted)
    assert "has none" in line
    bare = save_model(tmp_path / "bare", None, VOCABULARY)
    with pytest.raises(ModelError, match="no tokenizer is saved with it"):
        evaluate(EvaluatePlan(cache=cache.path, student=str(bare), text=True, device="cpu"))


def test_chats_have_no_text_for_another_tokenizer(teacher: Path, other_student: Path, tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello you"}]
    data.write_text(json.dumps({"messages": chat}) + "\n")
    chats = dump(plan_for(teacher, data, tmp_path / "cache", preset="scores", k=None, domain_column=None))
    with pytest.raises(BadInput, match="holds chats"):
        evaluate(EvaluatePlan(cache=chats.path, student=str(other_student), samples="all", text=True, device="cpu"))


# curricula


@given(count=st.integers(1, 60), start=st.floats(0.01, 1), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_easy_first_and_hard_first_are_permutations_and_pace_the_first_epoch(
    count: int, start: float, seed: int, epoch: int
) -> None:
    score = np.random.default_rng(seed).permutation(count).astype(float)
    for name in ("easy-first", "hard-first"):
        order = Curriculum.of(name, score, seed, start)
        found = order(epoch, np.arange(count))
        assert sorted(found.tolist()) == list(range(count))
        rank = score[found] if name == "easy-first" else count - 1 - score[found]
        places = np.arange(count)
        if epoch == 0:
            assert (rank < np.ceil(places + start * (count - places))).all()
        pieces = np.concatenate([order(epoch, places[: count // 2]), order(epoch, places[count // 2 :])])
        np.testing.assert_array_equal(found, pieces)


def test_a_paced_epoch_is_mixed_and_another_one_each_seed() -> None:
    orders = [paced(200, 0.25, salt) for salt in range(3)]
    assert all((np.diff(order) < 0).sum() > 40 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert np.mean([order[:50].mean() for order in orders]) < np.mean([order[-50:].mean() for order in orders])


def test_a_cycle_reads_the_easiest_share_only_as_often_as_an_epoch_is_long() -> None:
    assert [share_of(epoch, 0.25) for epoch in range(6)] == [0.25, 0.5, 1.0, 0.5, 0.25, 0.5]
    assert [share_of(epoch, 0.3) for epoch in range(5)] == [0.3, 0.6, 1.0, 0.6, 0.3]
    assert [share_of(epoch, 1.0) for epoch in range(3)] == [1.0] * 3
    score = np.random.default_rng(0).random(41)
    order = Curriculum.of("cyclical", score, 3, 0.25)
    easiest = set(np.argsort(score)[:11].tolist())
    counts = Counter(order(0, np.arange(41)).tolist())
    assert set(counts) == easiest
    assert set(counts.values()) == {3, 4}
    assert sorted(order(2, np.arange(41)).tolist()) == list(range(41))


def test_equal_scores_go_by_number_and_unknown_ones_are_hardest() -> None:
    order = Curriculum.of("easy-first", np.array([1.0, np.nan, 1.0, 0.0]), 0, 0.1)
    assert order.ranked_S.tolist() == [3, 0, 2, 1]


def test_a_curriculum_is_read_in_its_order(cache: logitstore.Cache) -> None:
    chosen = np.arange(10, 70)
    order = Curriculum.of("easy-first", cache.nll()[chosen], 4, 0.2)
    found = [s for batch in Loader(cache, samples=chosen, batch_size=7, order=order) for s in batch.samples.tolist()]
    assert found == chosen[order(0, np.arange(60))].tolist()
    with pytest.raises(BadInput, match="batch_size only"):
        Loader(cache, batch_rows=1000, order=order)


# domains


def test_domains_on_which_the_student_is_behind_get_more_and_none_is_left_out() -> None:
    found = behind(np.array([2.0, 4.0, 3.0]), np.array([2.0, 2.0, 0.0]))
    assert found[:2].tolist() == [1.0, 2.0]
    assert np.isfinite(found).all()
    ratio = np.array([1.0, 2.0, 1.5])
    shares = first_shares(ratio)
    np.testing.assert_allclose(shares, np.exp(ratio) / np.exp(ratio).sum())
    for _ in range(3):
        psi = shares * np.exp(ratio)
        expected = 0.5 * psi / psi.sum() + 0.5 / 3
        shares = next_shares(shares, ratio, 0.5)
        np.testing.assert_allclose(shares, expected)
    assert shares.argmax() == 1
    assert shares.min() >= 0.5 / 3
    np.testing.assert_allclose(next_shares(shares, ratio, 0.0), 1 / 3)
    np.testing.assert_allclose(next_shares(shares, np.array([9e3, 1.0, 1.0]), 0.5).sum(), 1)


def test_samples_are_drawn_by_the_shares_of_their_span_whoever_asks() -> None:
    domains = np.array([0, 1, 2] * 200 + [2] * 400)
    order = DomainOrder(
        domain_S=domains, seed=3, span=500, shares=[np.array([0.7, 0.2, 0.1]), np.array([0.0, 0.0, 1.0])]
    )
    found = order(0, np.arange(1000))
    counts = np.bincount(domains[found[:500]], minlength=3)
    assert np.abs(counts - [350, 100, 50]).max() < 40
    assert (domains[found[500:]] == 2).all()
    assert len(set(found[500:].tolist())) > 300
    pieces = np.concatenate([order(0, places) for places in np.array_split(np.arange(1000), 7)])
    np.testing.assert_array_equal(found, pieces)
    other = DomainOrder(domain_S=domains, seed=4, span=500, shares=order.shares)
    assert (other(0, np.arange(1000)) != found).mean() > 0.5
    with pytest.raises(IndexError):
        order(1, np.arange(3))
    with pytest.raises(ValueError, match="without samples"):
        DomainOrder(domain_S=np.array([0, 2]), seed=0, span=5)


def test_the_shares_follow_the_student_and_are_saved(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[np.ndarray[Any, Any]] = []
    look = Reweighting._look

    def spy(self: Reweighting, student: Any) -> Any:
        looks.append(look(self, student))
        return looks[-1]

    def last(state: TrainerState, path: str) -> None:
        """What makes a checkpoint whole is written when everything else is there."""
        assert (Path(path).parent / "domains.json").is_file()
        write(state, path)

    write = TrainerState.save_to_json
    monkeypatch.setattr(TrainerState, "save_to_json", last)
    monkeypatch.setattr(Reweighting, "_look", spy)
    out = tmp_path / "out"
    train(training(cache, out, small_student, alpha=0.5, holdout=0.4, reweight_domains=4, max_steps=10, save_every=10))
    saved = json.loads((out / "checkpoint-10" / "domains.json").read_text())
    assert saved["domains"] == ["topic 0", "topic 1", "topic 2"]
    kept_out = np.flatnonzero(held_out(cache.documents(), 0.4))
    model = AutoModelForCausalLM.from_pretrained(small_student)
    sums = {name: [0.0, 0.0, 0.0] for name in saved["domains"]}
    for name, found in sums.items():
        own = [int(s) for s in kept_out if cache[int(s)].sample.domain == name]
        for s in (own[int(place)] for place in np.unique(np.linspace(0, len(own) - 1, 64).round())):
            each = cache[s]
            logits = model(torch.from_numpy(each.sample.tokens_T.astype(np.int64))[None]).logits[0]
            gold = torch.log_softmax(logits.double(), -1)[each.sample.positions_N, each.sample.gold_N]
            found[0] -= float(gold.sum().detach())
            found[1] += float(cache.nll()[s]) * each.sample.rows
            found[2] += each.sample.rows
    np.testing.assert_allclose(looks[0], [student / rows for student, _, rows in sums.values()], rtol=1e-5)
    teacher = np.array([teacher / rows for _, teacher, rows in sums.values()])
    shares = [first_shares(behind(looks[0], teacher))]
    # spans begin at the steps 0, 4, 8 and 12, and are decided at 0, 1, 5 and 9
    shares += [next_shares(shares[0], behind(looks[1], teacher), 0.5)]
    shares += [next_shares(shares[1], behind(looks[2], teacher), 0.5)]
    shares += [next_shares(shares[2], behind(looks[3], teacher), 0.5)]
    assert len(looks) == 4
    np.testing.assert_allclose(saved["shares"], shares)


@pytest.mark.parametrize(("every", "accumulate", "steps"), [(1, 1, 5), (4, 2, 12)])
def test_a_re_weighted_run_that_is_gone_on_with_equals_one_in_one_go(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, every: int, accumulate: int, steps: int
) -> None:
    options = {
        "holdout": 0.4,
        "epochs": 9.0,
        "max_steps": steps,
        "accumulate": accumulate,
        "save_every": 3,
        "reweight_domains": every,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(training(cache, whole, small_student, **options, trainer={"logging_steps": 1, "save_total_limit": None}))
    middle = max(step for step in curve(whole) if step % 3 == 0 and step < max(curve(whole)))
    shutil.copytree(whole / f"checkpoint-{middle}", stopped / f"checkpoint-{middle}")
    train(training(cache, stopped, small_student, **options | {"workers": 3, "resume": True}))
    assert curve(stopped) == curve(whole)


def test_domains_that_cannot_be_re_weighted_are_refused(
    refused: Refused,
    cache: logitstore.Cache,
    teacher: Path,
    small_student: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "some words to read"}\n{"text": "and some more"}\n')
    plain = dump(plan_for(teacher, data, tmp_path / "plain", domain_column=None))
    rest = ["--student", small_student, "--out", tmp_path / "out", "--reweight-domains", 5, "--device", "cpu"]
    assert "are of one domain" in refused("train", plain.path, *rest)
    assert "is held out to judge on. Choose a larger --holdout" in refused(
        "train", cache.path, *rest, "--holdout", 0.01
    )
    for others in (["--curriculum", "easy-first"], ["--prune", "--heads", 2], ["--student", teacher]):
        assert "Leave one out" in refused("train", cache.path, *rest, *others)
