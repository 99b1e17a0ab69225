"""What is prepared is the same however it came about: processes, interruptions, shards, with tokens or without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import Step, no_progress
from logitstore.dump.files.columns import FileColumns
from logitstore.errors import BadInput
from logitstore.text.documents import DataSpec
from logitstore.text.prepare import shards, workers
from logitstore.text.samples import Encoding, Preparing, Samples, open_samples
from tests.parts.texts import TEXTS
from tests.text.test_columns import WRITERS, write_lines

CHATS = [
    {
        "messages": [{"role": "user", "content": f"Number {n}?"}, {"role": "assistant", "content": f"It is {n}."}]
        * (n % 4)
    }
    for n in range(20)
]
TEXT_ROWS = [{"text": text[: 20 + 30 * n], "topic": f"t{n % 3}"} for n, text in enumerate(TEXTS[:30])]
ENCODING = Encoding(max_length=24, overlap=4)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "DOCUMENTS", 7)
    monkeypatch.setattr(shards, "TOKENS", 400)
    monkeypatch.setattr("logitstore.text.prepare.preparation._ROWS", 5)
    monkeypatch.setattr("logitstore.text.prepare.tokens.BLOCK", 4)
    monkeypatch.setattr("logitstore.text.prepare.again.BLOCK", 4)


@pytest.fixture(params=["texts.jsonl", "texts.parquet", "chats.jsonl"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> DataSpec:
    path = tmp_path / request.param
    rows = TEXT_ROWS if path.stem == "texts" else CHATS
    WRITERS[path.suffix](path, rows)
    return DataSpec(source=str(path), domain_column="topic" if path.stem == "texts" else None)


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in ("lock", "known-files.json"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def told(samples: Samples) -> list[tuple[Any, ...]]:
    return [
        (each.key, each.document, each.window, each.start, each.domain, each.tokens_T.tolist(), each.mask_T.tolist())
        for each in samples
    ]


class Stop(Exception):
    pass


def stopping(after: int) -> Any:
    """Progress that stops the preparation after so many steps of tokenising."""
    left = iter(range(after))

    def progress(step: Step) -> None:
        if step.stage == "tokenise" and next(left, None) is None:
            raise Stop

    return progress


@pytest.mark.parametrize("share", [None, 0.6])
def test_an_interrupted_preparation_goes_on_after_the_last_whole_shard(
    spec: DataSpec, share: float | None, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    spec = DataSpec(source=spec.source, domain_column=spec.domain_column, share=share)

    def opened(name: str, progress: Any = no_progress) -> Samples:
        return open_samples(spec, ENCODING, tokenizer, "t", progress, Preparing(folder=tmp_path / name, workers=1))

    whole = opened("whole")
    with pytest.raises(Stop):
        opened("stopped", stopping(2))
    done: list[int] = []
    again = opened("stopped", lambda step: done.append(step.done) if step.stage == "tokenise" else None)
    assert min(done) > 5
    assert told(again) == told(whole)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    assert whole.folder.shard(1).is_file()


def test_processes_give_the_same_bytes_as_one(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "WORTH", 0)
    write_lines(tmp_path / "texts.jsonl", TEXT_ROWS)
    write_lines(tmp_path / "more.jsonl", TEXT_ROWS[::-1])
    specs = [DataSpec(source=str(tmp_path / f"{name}.jsonl"), name=name) for name in ("texts", "more")]
    for count in (1, 2):
        open_samples(
            specs, ENCODING, tokenizer, "t", no_progress, Preparing(folder=tmp_path / str(count), workers=count)
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("share", [None, 0.6])
def test_tokens_that_are_not_kept_are_made_again(
    spec: DataSpec, share: float | None, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    spec = DataSpec(source=spec.source, domain_column=spec.domain_column, share=share)
    kept, again = (
        open_samples(
            spec,
            ENCODING,
            tokenizer,
            "t",
            no_progress,
            Preparing(folder=tmp_path / str(keeps), workers=1, keep_tokens=keeps),
        )
        for keeps in (True, False)
    )
    assert not list((tmp_path / "False").rglob("*.arrow"))
    assert again.fingerprint == kept.fingerprint
    assert told(again) == told(kept)
    for number in np.random.default_rng(0).permutation(len(kept))[:30].tolist():
        assert again[number].key == kept[number].key
    # whoever wants them stored gets them
    open_samples(spec, ENCODING, tokenizer, "t", no_progress, Preparing(folder=tmp_path / "False", workers=1))
    assert contents(tmp_path / "False") == contents(tmp_path / "True")


def test_data_are_read_once_wherever_they_lie_and_windows_are_cut_from_the_same_tokens(
    spec: DataSpec, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparing = Preparing(folder=tmp_path / "prepared", workers=1)

    def opened(source: str, length: int = 24) -> Samples:
        moved = DataSpec(source=source, domain_column=spec.domain_column)
        return open_samples(moved, Encoding(max_length=length, overlap=4), tokenizer, "t", no_progress, preparing)

    first = opened(spec.source)
    elsewhere = tmp_path / "elsewhere" / f"other{Path(spec.source).suffix}"
    elsewhere.parent.mkdir()
    shutil.copyfile(spec.source, elsewhere)

    def never(*arguments: object) -> Iterator[Any]:
        raise AssertionError("the data were read again")

    with monkeypatch.context() as patch:
        patch.setattr(FileColumns, "rows", never)
        assert opened(str(elsewhere)).fingerprint == first.fingerprint
        wider = opened(spec.source, 48)
    assert wider.folder.path == first.folder.path
    direct = open_samples(
        DataSpec(source=spec.source, domain_column=spec.domain_column),
        Encoding(max_length=48, overlap=4),
        tokenizer,
        "t",
        no_progress,
        Preparing(folder=tmp_path / "direct", workers=1),
    )
    assert told(wider) == told(direct)


@pytest.mark.parametrize("damage", ["cut", "gone", "record"])
def test_nothing_half_written_is_taken(
    damage: str, spec: DataSpec, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    preparing = Preparing(folder=tmp_path / "prepared", workers=1)
    first = open_samples(spec, ENCODING, tokenizer, "t", no_progress, preparing)
    expected, whole = told(first), contents(tmp_path / "prepared")
    if damage == "record":
        (first.folder.windows / "prepared.json").write_bytes(b'{"format": "logitstore", "version": 1')
    elif damage == "gone":
        first.folder.shard(1).unlink()
    else:
        cut = first.folder.shard(1).read_bytes()[:-40]
        first.folder.shard(1).unlink()
        first.folder.shard(1).write_bytes(cut)
    assert told(open_samples(spec, ENCODING, tokenizer, "t", no_progress, preparing)) == expected
    assert contents(tmp_path / "prepared") == whole


def test_a_limit_reads_no_further(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logitstore.dump.files.columns._HEAD", 0)
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in TEXT_ROWS * 100) + "no JSON\n")
    spec = DataSpec(source=str(path), limit=11)
    assert open_samples(spec, ENCODING, tokenizer, "t").documents == 11
    with pytest.raises(BadInput, match="line 3001: not JSON"):
        open_samples(DataSpec(source=str(path)), ENCODING, tokenizer, "t")
