"""Data that change while they are prepared or afterwards, and prepared data that are damaged or foreign, are noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import Step, no_progress
from logitstore.errors import BadInput, LogitstoreError, StorageError
from logitstore.text.documents import DataSpec
from logitstore.text.prepare import shards
from logitstore.text.prepare.cutting import WINDOW
from logitstore.text.samples import Encoding, Preparing, Samples, open_samples
from tests.parts.texts import TEXTS
from tests.text.test_columns import write_lines

ENCODING = Encoding(max_length=24, overlap=4)
ROWS = [{"text": text[: 20 + 30 * n], "topic": f"t{n % 3}"} for n, text in enumerate(TEXTS[:30])]
OTHERS = [{"text": row["text"][::-1], "topic": row["topic"]} for row in ROWS]
"""As many bytes."""

Opened = Callable[..., Samples]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "DOCUMENTS", 7)
    monkeypatch.setattr("logitstore.text.prepare.preparation._ROWS", 5)
    for place in ("tokens", "again"):
        monkeypatch.setattr(f"logitstore.text.prepare.{place}.BLOCK", 4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    write_lines(path, ROWS)
    return path


@pytest.fixture
def opened(data: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Opened:
    def opened(progress: Any = no_progress, folder: str = "prepared", length: int = 24, **keys: Any) -> Samples:
        spec = DataSpec(source=str(data), domain_column="topic")
        preparing = Preparing(folder=tmp_path / folder, workers=1, **keys)
        return open_samples(spec, Encoding(max_length=length, overlap=4), tokenizer, "t", progress, preparing)

    return opened


def changed(path: Path) -> None:
    """Write other rows over a file; size and time stay."""
    before = path.stat()
    write_lines(path, OTHERS)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def told(samples: Samples) -> list[tuple[Any, ...]]:
    return [(each.key, each.document, each.window, each.domain, each.mask_T.tolist()) for each in samples]


@pytest.mark.parametrize("keeps", [True, False])
def test_data_that_change_while_they_are_prepared_leave_nothing_behind(
    keeps: bool, data: Path, opened: Opened, tmp_path: Path
) -> None:
    expected = told(opened(folder="expected"))

    def progress(step: Step) -> None:
        if step.stage == "tokenise" and step.done == 5:
            changed(data)

    with pytest.raises(BadInput, match=rf"--data {data}: it was changed while it was read"):
        opened(progress, keep_tokens=keeps)
    assert not list((tmp_path / "prepared").rglob("*.arrow"))
    write_lines(data, ROWS)
    assert told(opened(keep_tokens=keeps)) == expected


@pytest.mark.parametrize("when", ["before the first sample", "between two samples"])
def test_tokens_are_not_made_again_of_data_that_have_changed(when: str, data: Path, opened: Opened) -> None:
    samples = opened(keep_tokens=False)
    first = samples[0] if when == "between two samples" else None
    changed(data)
    with pytest.raises(BadInput, match="it was changed while it was read"):
        _ = samples[len(samples) - 1]
    assert first is None or samples[0].key == first.key
    other = opened(keep_tokens=False)
    assert other.folder.path != samples.folder.path
    assert len(told(other)) == len(other)


def test_a_file_with_another_mode_is_still_the_same(data: Path, opened: Opened, tmp_path: Path) -> None:
    expected = told(opened(folder="expected"))

    def progress(step: Step) -> None:
        if step.stage == "tokenise" and step.done == 5:
            data.chmod(0o600)
            os.link(data, tmp_path / "link")

    samples = opened(progress, keep_tokens=False)
    data.chmod(0o644)
    assert told(samples) == expected


def _of_another_table(samples: Samples, name: str) -> None:
    path = samples.folder.windows / "windows.bin"
    table = np.fromfile(path, WINDOW)
    if name == "order":
        table[[3, 4]] = table[[4, 3]]
    else:
        table[name][4] += 1
    table.tofile(path)


def _of_other_tokens(samples: Samples, _: str) -> None:
    path = samples.folder.shard(0)
    content, tokens = path.read_bytes(), samples[4].tokens_T.astype("<u4").tobytes()
    assert content.count(tokens) == 1
    path.write_bytes(content.replace(tokens, tokens[4:8] + tokens[4:]))


@pytest.mark.parametrize(
    ("damage", "name"),
    [(_of_another_table, each) for each in ("row", "document", "number", "start", "first", "rows", "order")]
    + [(_of_other_tokens, "")],
)
def test_damage_that_leaves_the_sizes_is_found_when_a_sample_is_read_and_mended_by_the_next_command(
    damage: Callable[[Samples, str], None], name: str, opened: Opened
) -> None:
    expected = told(opened())
    damage(opened(), name)
    damaged = opened()
    with pytest.raises(StorageError, match="is gone or damaged"):
        told(damaged)
    assert told(opened()) == expected


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("length", [24, 25])
def test_what_lies_in_the_folder_of_other_data_is_not_taken(
    length: int, unfinished: bool, data: Path, opened: Opened
) -> None:
    foreign = opened()
    if length == 24:
        write_lines(data, OTHERS)
    expected = opened(folder="expected", length=length)
    place = opened(length=length).folder
    shutil.rmtree(place.windows)
    shutil.copytree(foreign.folder.windows, place.windows)
    if length == 24:
        for file in foreign.folder.path.glob("tokens*"):
            shutil.copyfile(file, place.path / file.name)
    if unfinished:
        (place.path / "tokens.json").unlink()
        (place.windows / "prepared.json").unlink()
    assert told(opened(length=length)) == told(expected)


def test_tokenizers_that_give_other_tokens_do_not_share_what_is_prepared(tmp_path: Path) -> None:
    class Reversing(PreTrainedTokenizerFast):
        """Gives other tokens than its core, by a setting of its own."""

        def __init__(self, *, reverses: bool = False, **settings: Any) -> None:
            super().__init__(reverses=reverses, **settings)
            self._reverses = reverses

        def __call__(self, text: Any, *arguments: Any, **options: Any) -> Any:
            texts = text[::-1] if isinstance(text, str) else [each[::-1] for each in text]
            return super().__call__(texts if self._reverses else text, *arguments, **options)

    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate("</s>abcde")}, merges=[]))
    write_lines(tmp_path / "data.jsonl", [{"text": "abc</s>de"}])
    kinds = [
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>"),
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", split_special_tokens=True),
        Reversing(tokenizer_object=core, eos_token="</s>"),
        Reversing(tokenizer_object=core, eos_token="</s>", reverses=True),
    ]
    for tokenizer in kinds:
        spec, preparing = DataSpec(source=str(tmp_path / "data.jsonl")), Preparing(folder=tmp_path / "all", workers=1)
        (sample,) = open_samples(spec, ENCODING, tokenizer, "t", no_progress, preparing)
        assert sample.tokens_T.tolist() == tokenizer("abc</s>de")["input_ids"]


def test_an_error_of_the_tokens_is_one_of_this_library(opened: Opened) -> None:
    samples = opened()
    content = bytearray(samples.folder.shard(0).read_bytes())
    samples.folder.shard(0).write_bytes(bytes(len(content)))
    with pytest.raises(LogitstoreError, match="gone or damaged"):
        _ = opened()[0]
    assert len(told(opened())) == len(samples)
