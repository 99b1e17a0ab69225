"""What `merge` refuses."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
import logitstore.convert.row_source
from logitstore.convert.merge import weights_of
from logitstore.dump.dump import dump
from tests.parts.broken import reseal, truncate
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.merge import Caches, merged
from tests.parts.texts import VOCABULARY, plan_for, save_model, train_tokenizer


@pytest.fixture
def refused_merge(refused: Refused, caches: Caches, tmp_path: Path) -> Refused:
    """A merge that must be refused, with some options; gives its error line. Nothing is written."""

    def call(sources: list[Any], *flags: object, out: Path | None = None) -> str:
        paths = [caches[each].path if isinstance(each, str) else each for each in sources]
        target = out or tmp_path / "out"
        line = refused("merge", *paths, "--out", target, *flags)
        assert out is not None or not target.exists()
        return line

    return call


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("1", "1 for 2 caches"),
        ("1,2,3", "3 for 2 caches"),
        ("1,-2", "a weight is negative or no number"),
        ("-1,2", "a weight is negative or no number"),
        ("nan,1", "a weight is negative or no number"),
        ("1,inf", "a weight is negative or no number"),
        ("0,0", "nothing counts"),
        ("1,one", "write one number for each cache"),
        ("1,", "write one number for each cache"),
    ],
)
def test_weights_that_are_none_are_named(refused_merge: Refused, weights: str, says: str) -> None:
    line = refused_merge(["topk-0", "topk-1"], "--weights", weights)
    assert line.startswith(f"error: --weights {weights}: ")
    assert says in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--preset", "small"], "--preset small: it is made of one teacher's hidden states"),
        (["--preset", "archive"], "Use --preset topk"),
        (["--preset", "exact"], "a mean of several teachers has none"),
        (["--tail", "sketch"], "--tail sketch: it is made of one teacher's hidden states"),
        (["--sparsifier", "hidden"], "--sparsifier hidden: it is made of one teacher's hidden states"),
        (["--preset", "topq"], "--preset topq: Input should be 'topk' or 'sampled'"),
        (["-k", VOCABULARY + 1], f"-k {VOCABULARY + 1}: the teacher's vocabulary has {VOCABULARY} tokens"),
        (["--sparsifier", "dense", "-k", 3], "it changes nothing with the sparsifier 'dense'"),
    ],
)
def test_rows_that_a_mean_cannot_have_are_refused(refused_merge: Refused, flags: list[object], says: str) -> None:
    assert says in refused_merge(["topk-0", "topk-1"], *flags)


def test_fewer_than_two_caches_or_the_same_one_twice_are_refused(
    refused_merge: Refused,
    refused: Refused,
    caches: Caches,
    tmp_path: Path,
) -> None:
    one = caches["topk-0"].path
    assert f"needs two caches or more: only {one} was given" in refused_merge(["topk-0"])
    assert "merge needs CACHES: " in refused("merge", "--out", tmp_path / "out")
    line = refused_merge(["topk-0", "topk-1", one.parent / "." / "topk-0"])
    assert f"{one}: it is named twice" in line
    assert "--weights" in line


def test_caches_without_whole_distributions_are_refused(refused_merge: Refused, caches: Caches) -> None:
    assert f"{caches['sampled-1'].path}: its rows are random draws" in refused_merge(["topk-0", "sampled-1"])
    assert f"merge: {caches['scores-1'].path} keeps scores only" in refused_merge(["scores-1", "topk-1"])


def test_caches_that_are_not_whole_are_refused(refused_merge: Refused, caches: Caches, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(caches["topk-1"].path, tmp_path / "copy"))
    shutil.rmtree(copy / "parts" / "00001")
    count = caches["topk-1"].manifest.parts
    assert f"{copy}: it has {count - 1} of its {count} parts" in refused_merge(["topk-0", copy])
    truncate(copy / "parts" / "00000" / "samples.arrow")
    assert f"{copy}: parts/00000/samples.arrow has" in refused_merge(["topk-0", copy])
    (tmp_path / "none").mkdir()
    assert f"{tmp_path / 'none'}: no cache.json" in refused_merge(["topk-0", tmp_path / "none"])


def test_caches_of_other_samples_are_refused_by_the_first_difference(
    refused_merge: Refused, caches: Caches, teachers: list[Path], texts: Path, tmp_path: Path
) -> None:
    def other(name: str, **changes: Any) -> Path:
        usual = {"limit": 6, "samples_per_part": 9}
        return dump(plan_for(teachers[1], texts, tmp_path / name, **usual | changes)).path

    here = caches["topk-0"]
    fewer = other("fewer", limit=5)
    line = refused_merge(["topk-0", fewer])
    assert f"{fewer}: its samples are not those of {here.path}: it has {len(logitstore.open(fewer))} of them" in line
    edited = tmp_path / "edited.jsonl"
    documents = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()[:6]]
    documents[0]["text"] = documents[0]["text"].replace("s", "z", 1)
    edited.write_text("\n".join(map(json.dumps, documents)))
    changed = other("changed", data=str(edited), limit=None)
    keys = [logitstore.open(path).keys()[0] for path in (changed, here.path)]
    line = refused_merge(["topk-0", changed])
    assert f": its sample 0 has the key {keys[0]}, not {keys[1]}, so the data" in line
    relabelled = other("relabelled", domain_column=None)
    assert "the fingerprint of its data is " in refused_merge(["topk-0", relabelled])


def test_a_sample_that_is_another_one_in_spite_of_its_fingerprint_is_named(
    refused: Refused,
    caches: Caches,
    tmp_path: Path,
) -> None:
    """As caches might be that somebody has put together by hand."""
    one, other = caches["topk-0"].path, caches["dense-0"].path
    copy = Path(shutil.copytree(one, tmp_path / "copy"))
    parts = copy / "parts"
    for name in ("00000", "00001"):
        (parts / name).rename(parts / f"was-{name}")
    (parts / "was-00000").rename(parts / "00001")
    (parts / "was-00001").rename(parts / "00000")
    for number in (0, 1):
        path = parts / f"{number:05d}" / "part.json"
        reseal(path, lambda record, number=number: record.update(part=number))
    line = refused("merge", other, copy, "--out", tmp_path / "out")
    assert f"{copy}: its sample 0 has the key " in line
    assert "although the data have the same fingerprint" in line


def test_caches_of_other_vocabularies_are_refused(
    refused_merge: Refused, caches: Caches, texts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    wide = save_model(tmp_path / "wide", train_tokenizer(VOCABULARY + 80), VOCABULARY + 80, seed=2, num_hidden_layers=1)
    usual = {"limit": 6, "samples_per_part": 9}
    other = dump(plan_for(wide, texts, tmp_path / "wide-cache", **usual)).path
    line = refused_merge(["topk-0", other])
    assert f"{other}: its teacher has {VOCABULARY + 80} tokens, that of {caches['topk-0'].path} {VOCABULARY}" in line
    renamed = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>")
    renamed.add_tokens(["<|one more|>"])
    same_size = save_model(tmp_path / "renamed", renamed, VOCABULARY, seed=3, num_hidden_layers=1)
    other = dump(plan_for(same_size, texts, tmp_path / "renamed-cache", **usual)).path
    assert f"{other}: its token ids mean other pieces" in refused_merge(["topk-0", other])


def test_targets_that_are_something_else_are_refused_and_left_alone(
    refused_merge: Refused, caches: Caches, tmp_path: Path
) -> None:
    pair = ["topk-0", "topk-1"]
    one = caches["topk-0"].path
    before = tree(one)
    assert f"--out {one}: it is the source itself" in refused_merge(pair, out=one)
    assert f"it lies inside of {one}" in refused_merge(pair, out=one / "parts" / "mean")
    (tmp_path / "file").write_text("two years of work")
    assert "a file stands there" in refused_merge(pair, out=tmp_path / "file")
    assert "a part of the path is a file" in refused_merge(pair, out=tmp_path / "file" / "mean")
    assert "the folder holds other files" in refused_merge(pair, out=tmp_path)
    assert (tmp_path / "file").read_text() == "two years of work"
    copy = Path(shutil.copytree(caches["dense-0"].path, tmp_path / "copy"))
    assert f"--out {copy}: the cache there is no mean of others" in refused_merge(pair, out=copy)
    assert tree(copy) == tree(caches["dense-0"].path)
    assert tree(one) == before


def test_a_cache_that_another_merge_began_is_refused_with_what_differs(
    refused_merge: Refused, caches: Caches, tmp_path: Path
) -> None:
    out = tmp_path / "mean"
    made = merged([caches["topk-0"], caches["topk-1"]], out, weights="1,3")
    before = tree(out)
    line = refused_merge(["topk-0", "topk-1"], out=out)
    assert f"--out {out}: the cache there has the weights 0.25,0.75, this command asks for 0.5,0.5" in line
    names = ", ".join(member.teacher for member in made.manifest.merged_from or [])
    line = refused_merge(["topk-0", "dense-1"], "--weights", "1,3", out=out)
    assert f"the cache there was made from other caches, by {names}" in line
    line = refused_merge(["topk-0", "topk-1"], "--weights", "1,3", "-k", 3, out=out)
    assert "the cache there has sparsifier.k = 16, this command asks for 3" in line
    assert tree(out) == before
    assert tree(merged([caches["topk-0"], caches["topk-1"]], out, weights="2,6").path) == before


def test_what_a_mean_without_a_tail_leaves_out_is_told(
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    caches: Caches,
    tmp_path: Path,
) -> None:
    paths = [caches[f"topk-{number}"].path for number in (0, 1)]
    assert command("merge", *paths, "--tail", "none", "--out", tmp_path / "out") == 0
    assert "KL to the mean of 2 caches: infinite in 100.0% of the rows" in capsys.readouterr().out


def test_the_help_teaches(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("merge", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("--weights", "same data, windows and vocabulary", "No teacher runs"):
        assert word in shown
    assert math.isclose(sum(weights_of("1,2,4", 3)), 1.0)
