"""`merge --by`: each row is that of the cache that is best for it, against a float64 reference; what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.core.progress import Step
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import fidelity_of
from logitstore.report.summary import summarise
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.store.checks.verify import verify
from logitstore.train.evaluate import evaluate
from tests.convert.test_merge import probs_of
from tests.parts.broken import reseal
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.marks import rarely
from tests.parts.merge import Caches, merged, plan

WAYS = ("gold", "confidence", "entropy")


@pytest.fixture(scope="module")
def even(caches: Caches, tmp_path_factory: pytest.TempPathFactory) -> Caches:
    """The two teachers' caches in one form of row, without shared tensors."""
    folder = tmp_path_factory.mktemp("even")
    return {
        f"{name}-{number}": recode(
            RecodeSettings(cache=caches[f"topk-{number}"].path, out=folder / f"{name}-{number}", tail=name)
        )
        for name in ("uniform", "none")
        for number in (0, 1)
    }


def rows_of(made: logitstore.Cache) -> dict[str, bytes]:
    return {name: raw for name, raw in tree(made.path).items() if "rows.zarr" in name or name.endswith("samples.arrow")}


def scores(cache: logitstore.Cache, by: str, index: int) -> Any:
    """float64[N], the larger the better: from the stored values alone."""
    answer = cache[index].answer
    if by == "gold":
        return answer["gold_logprob"].astype(np.float64)
    if by == "entropy":
        return -answer["entropy"].astype(np.float64)
    probs_NK = np.exp(answer["logprobs"].astype(np.float64))
    if "tail_logmass" not in answer.fields:
        return (probs_NK / probs_NK.sum(1, keepdims=True)).max(1)
    tail_N = np.exp(answer["tail_logmass"].astype(np.float64))
    # docs/format.md, "Decoding": the smaller of the two masses is kept
    listed_N = probs_NK.sum(1)
    keeps_tail_N = ((tail_N <= 0.5) & (listed_N > 0)) | (listed_N >= 1)
    return probs_NK[:, 0] * np.where(keeps_tail_N, (1 - tail_N) / listed_N, 1.0)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("kind", ["uniform", rarely("none"), "dense"])
def test_each_row_has_the_bytes_of_the_cache_that_is_best_for_it(
    even: Caches, caches: Caches, kind: str, by: str, tmp_path: Path
) -> None:
    sources = [(even | caches)[f"{kind}-{number}"] for number in (0, 1)]
    made = merged(sources, tmp_path / "out", by=by)
    counts = np.zeros(2, np.int64)
    is_top1 = is_listed = 0
    entropy = mass = 0.0
    for index in range(len(made)):
        here = [scores(each, by, index) for each in sources]
        from_second_N = here[1] > here[0]
        if by == "confidence":
            # rounding of this reference decides nothing: such a row may be that of either
            is_close_N = np.abs(here[0] - here[1]) < 1e-6
            is_second_N = (made[index].answer["logprobs"] == sources[1][index].answer["logprobs"]).all(1)
            from_second_N = np.where(is_close_N, is_second_N, from_second_N)
        for name, array in made[index].answer.fields.items():
            one, other = (each[index].answer[name] for each in sources)
            expected = np.where(from_second_N.reshape(-1, *[1] * (array.ndim - 1)), other, one)
            np.testing.assert_array_equal(array, expected)
        counts += np.bincount(from_second_N & True, minlength=2)
        answer, sample = made[index].answer, made[index].sample
        ids_NK = answer["ids"] if "ids" in answer.fields else np.argsort(-answer["logprobs"], 1, kind="stable")
        is_top1 += int((ids_NK[:, 0] == sample.gold_N).sum())
        is_listed += int((ids_NK == sample.gold_N[:, None]).any(1).sum())
        entropy += float(answer["entropy"].astype(np.float64).sum())
        mass += float(np.exp(answer["tail_logmass"]).sum()) if "tail_logmass" in answer.fields else 0.0
    assert counts.min() > 0
    found = summarise(made)
    assert [member["rows"] for member in found["merged_from"]] == counts.tolist()
    assert sum(counts) == made.rows
    sums = made.sums
    assert (sums.gold_is_top1, sums.gold_is_listed, sums.no_gold) == (is_top1, is_listed, 0)
    assert sums.entropy == pytest.approx(entropy)
    assert sums.tail_mass == pytest.approx(mass, rel=1e-5)
    assert (made.manifest.chosen_by, made.fidelity.rows, found["fidelity"]) == (by, 0, None)
    for record in made.records:
        assert sum(record.chosen or []) == record.rows


@pytest.mark.parametrize("by", ["gold", rarely("confidence"), rarely("entropy")])
@pytest.mark.parametrize("kind", ["small", "exact", rarely("topk"), rarely("dense")])
def test_a_cache_with_its_copy_keeps_its_bytes(caches: Caches, kind: str, by: str, tmp_path: Path) -> None:
    one = caches[f"{kind}-0"]
    copy = logitstore.open(shutil.copytree(one.path, tmp_path / "copy"))
    made = merged([one, copy], tmp_path / "out", by=by)
    assert rows_of(made) == rows_of(one)
    assert made.manifest.shared == one.manifest.shared
    assert [record.chosen for record in made.records] == [[record.rows, 0] for record in one.records]
    for ours, theirs in zip(made.records, one.records, strict=True):
        assert (ours.sums.no_gold, ours.sums.gold_impossible) == (theirs.sums.no_gold, theirs.sums.gold_impossible)
        assert ours.sums.gold_logprob == pytest.approx(theirs.sums.gold_logprob, rel=1e-3)
        assert ours.sums.tail_mass == pytest.approx(theirs.sums.tail_mass, rel=1e-2)


def test_rows_of_two_forms_are_decoded_and_their_error_is_told(caches: Caches, tmp_path: Path) -> None:
    sources = [caches["small-0"], caches["dense-1"]]
    made = merged(sources, tmp_path / "out", by="gold", preset="topk", k=12)
    divergence = 0.0
    for index in range(len(made)):
        gold = [scores(each, "gold", index) for each in sources]
        second_N = torch.from_numpy(gold[1] > gold[0])
        expected_NV = torch.where(second_N[:, None], probs_of(sources[1], index), probs_of(sources[0], index))
        found = made[index].answer
        ids_NK = torch.from_numpy(found["ids"].astype(np.int64))
        torch.testing.assert_close(expected_NV.gather(1, ids_NK), expected_NV.topk(12).values, rtol=1e-5, atol=0)
        np.testing.assert_array_equal(found["gold_logprob"], np.maximum(*gold).astype(np.float16))
        entropies = [each[index].answer["entropy"] for each in sources]
        np.testing.assert_array_equal(found["entropy"], np.where(second_N.numpy(), *entropies[::-1]))
        stored_NV = probs_of(made, index)
        divergence += float((expected_NV * (expected_NV / stored_NV).log()).sum())
    error = fidelity_of(made.fidelity)
    assert error is not None
    assert (error["against"], error["rows"]) == ("source", made.rows)
    assert error["kl_t1"]["mean"] == pytest.approx(divergence / made.rows, rel=1e-3)
    assert sum(member["rows"] for member in summarise(made)["merged_from"]) == made.rows


def test_what_cannot_lie_in_one_cache_is_refused_with_a_way_out(
    refused: Refused, caches: Caches, tmp_path: Path
) -> None:
    def line(one: str, other: str, *flags: object) -> str:
        said = refused("merge", caches[one].path, caches[other].path, "--out", tmp_path / "out", *flags)
        assert not (tmp_path / "out").exists()
        return said

    said = line("topk-0", "topk-1", "--by", "gold")
    assert f"{caches['topk-1'].path}: its rows share another prior than those of {caches['topk-0'].path}" in said
    assert "--tail uniform`, or give --preset topk here" in said
    said = line("small-0", "small-1", "--by", "gold")
    assert "share another basis of their sketches" in said
    assert "recode CACHE --preset topk -k 4 --tail uniform`" in said
    assert "share another output layer" in line("exact-0", "exact-1", "--by", "gold")
    said = line("topk-0", "cut-0", "--by", "entropy")
    assert f"{caches['cut-0'].path}: its rows are topk k=20 with the tail none and logprobs float16, those of " in said
    assert "its rows are random draws" in line("sampled-1", "topk-0", "--by", "gold")
    said = line("dense-0", "dense-1", "--by", "gold", "--weights", "1,2")
    assert "--weights 1,2 with --by gold: each row is that of one cache" in said
    assert "--by best: " in line("dense-0", "dense-1", "--by", "best")


def test_interrupted_and_gone_on_with_it_ends_byte_identical(even: Caches, tmp_path: Path, refused: Refused) -> None:
    sources, out = [even["uniform-0"], even["uniform-1"]], tmp_path / "out"
    expected = tree(merged(sources, tmp_path / "whole", by="gold").path)
    rows = sum(record.rows for record in sources[0].records)

    def interrupt(after: int) -> Callable[[Step], None]:
        def told(step: Step) -> None:
            if step.stage == "merge" and step.done >= after:
                raise KeyboardInterrupt

        return told

    for share in (0, 0.4, 0.9):
        with pytest.raises(KeyboardInterrupt):
            merge(plan(sources, out, by="gold"), interrupt(int(share * rows / 2)))
        assert verify(out) == []
    assert not logitstore.open(out).complete
    paths = [each.path for each in sources]
    assert "the cache there is --by gold, this command asks for --by entropy" in refused(
        "merge", *paths, "--out", out, "--by", "entropy"
    )
    assert "the cache there is --by gold, this command asks for the mean" in refused("merge", *paths, "--out", out)
    assert "the cache there was made from other caches" in refused("merge", *paths[::-1], "--out", out, "--by", "gold")
    assert tree(merged(sources, out, by="gold").path) == expected


def test_all_that_takes_a_cache_takes_chosen_rows(
    even: Caches,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    small_student: Path,
    tmp_path: Path,
) -> None:
    paths, out = [even[f"uniform-{number}"].path for number in (0, 1)], tmp_path / "out"
    assert command("merge", *paths, "--out", out, "--by", "confidence") == 0
    capsys.readouterr()
    made = logitstore.open(out)
    counts = [member["rows"] for member in summarise(made)["merged_from"]]
    assert command("inspect", out) == 0
    shown = capsys.readouterr().out
    assert "best by confidence" in shown
    for count in counts:
        assert f"{count / made.rows:.1%} of the rows from" in shown
    assert made.manifest.teacher.name.startswith("best by confidence of ")
    for changes in ({"layout": "archive"}, {"k": 4}):
        again = recode(RecodeSettings(cache=out, out=tmp_path / str(changes), **changes))
        assert verify(again.path) == []
        assert [member["rows"] for member in summarise(again)["merged_from"]] == counts
    archived = merged([even["uniform-0"], even["uniform-1"]], tmp_path / "archive", by="confidence", layout="archive")
    for ours, theirs in zip(archived, made, strict=True):
        for name, array in ours.answer.fields.items():
            np.testing.assert_array_equal(array, theirs.answer[name])
    mean = merged([made, even["none-0"]], tmp_path / "mean")
    assert "chosen_by" not in json.loads((mean.path / MANIFEST_NAME).read_bytes())
    assert all(record.chosen is None for record in mean.records)
    asked = EvaluateSettings(cache=out, student=str(small_student), samples="all", device="cpu")
    assert np.isfinite(evaluate(asked).kl)


def test_a_part_that_does_not_count_its_rows_is_found(even: Caches, tmp_path: Path) -> None:
    made = merged([even["uniform-0"], even["uniform-1"]], tmp_path / "out", by="gold")
    path = made.path / "parts" / "00000" / "part.json"
    whole = json.loads(path.read_bytes())["chosen"]
    reseal(path, lambda record: record.update(chosen=[*whole, 0]))
    assert "does not count the rows" in str(verify(made.path)[0])
    reseal(path, lambda record: record.update(chosen=[whole[0] + 1, whole[1]]))
    assert "not as many as it has" in str(verify(made.path)[0])
    reseal(path, lambda record: record.pop("chosen"))
    assert "does not count the rows" in str(verify(made.path)[0])
