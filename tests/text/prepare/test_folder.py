"""One process prepares, the others wait; what nobody uses is swept."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import Step, no_progress
from logitstore.errors import StorageError
from logitstore.text.documents import DataSpec
from logitstore.text.prepare import identity
from logitstore.text.prepare.folder import KEPT_DAYS, Folder, sweep
from logitstore.text.samples import Encoding, Preparing, Samples, open_samples
from tests.parts.documents import open_file
from tests.parts.texts import TEXTS
from tests.text.test_columns import write_lines

ENCODING = Encoding(max_length=24, overlap=4)


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    write_lines(tmp_path / "texts.jsonl", [{"text": text[:80]} for text in TEXTS[:10]])
    return DataSpec(source=str(tmp_path / "texts.jsonl"))


def test_a_process_waits_for_the_one_that_prepares_and_says_so(
    spec: DataSpec, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    steps: list[Step] = []
    found: list[Samples] = []
    named = threading.Event()

    def progress(step: Step) -> None:
        steps.append(step)
        if "waiting for another process" in step.note:
            named.set()

    preparing = Preparing(folder=tmp_path / "prepared", workers=1)
    first = open_samples(spec, ENCODING, tokenizer, "t", no_progress, preparing)
    # as if it were not prepared yet
    (first.folder.windows / "prepared.json").unlink()

    def opened() -> None:
        found.append(open_samples(spec, ENCODING, tokenizer, "t", progress, preparing))

    with Folder(tmp_path / "prepared", first.folder.path.name, 24, 4).alone(lambda: None):
        thread = threading.Thread(target=opened)
        thread.start()
        assert named.wait(60)
        assert not found
    thread.join(60)
    assert found[0].fingerprint == first.fingerprint
    assert f"that prepares the same data in {first.folder.path}" in "".join(step.note for step in steps)


def test_what_was_not_used_for_long_is_swept_but_not_what_is_in_use(
    spec: DataSpec, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    copied = tmp_path / "cache" / "logitstore-rows" / ("0" * 32)
    copied.mkdir(parents=True)
    used = open_samples(spec, ENCODING, tokenizer, "t")
    unused = open_samples(DataSpec(source=spec.source, limit=5), ENCODING, tokenizer, "t")
    folders = [used.folder.path, unused.folder.path, copied]
    del unused
    sweep()
    assert all(folder.is_dir() for folder in folders)
    long_ago = time.time() - (KEPT_DAYS + 1) * 86_400
    for folder in folders:
        os.utime(folder, (long_ago, long_ago))
    sweep()
    assert [folder.is_dir() for folder in folders] == [True, False, False]
    assert used[3].tokens_T.size


def test_files_that_did_not_change_are_not_read_again_for_their_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_FRESH_NS", -1)
    path = tmp_path / "data"
    path.write_bytes(b"one\ntwo\n")
    known = identity.KnownFiles(tmp_path / "prepared")
    first = known.checksum(path)
    assert known.lines(path) == 2
    known.keep()

    def never(*arguments: Any) -> Any:
        raise AssertionError("the file was read")

    with monkeypatch.context() as patch:
        patch.setattr(identity.xxhash, "xxh3_128", never)
        assert identity.KnownFiles(tmp_path / "prepared").checksum(path) == first
    path.write_bytes(b"one\ntwo!")
    assert identity.KnownFiles(tmp_path / "prepared").checksum(path) != first
    (tmp_path / "prepared" / "known-files.json").write_bytes(b"[")
    assert identity.KnownFiles(tmp_path / "prepared").checksum(path) != first


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "a b c"}])
    (tmp_path / "prepared").write_text("a file")
    preparing = Preparing(folder=tmp_path / "prepared", workers=1)
    with pytest.raises(StorageError, match=rf"^{tmp_path}/prepared.*Choose another"):
        open_samples(DataSpec(source=str(tmp_path / "data.jsonl")), ENCODING, tokenizer, "t", no_progress, preparing)


def test_a_shard_that_is_gone_meanwhile_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "a text of this test alone"}])
    samples = open_file(tmp_path / "data.jsonl", tokenizer)
    samples.folder.shard(0).unlink()
    with pytest.raises(StorageError, match=r"tokens-00000\.arrow: what was prepared is gone or damaged"):
        samples[0]
