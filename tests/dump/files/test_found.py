"""Folders and globs of which some files would be read twice or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logitstore.errors import BadInput
from tests.parts.documents import values_of

ROWS = {
    ".jsonl": '{"text": "of json"}\n',
    ".csv": "text\nof csv\n",
    ".txt": "of txt\n",
    ".parquet": "never read",
}


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROWS.get(path.suffix, "{}"))
    return folder


def texts(source: Path | str, **options: str) -> list[str]:
    return sorted(values_of(source, **options))


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["a.jsonl", "b.jsonl", "c.csv"], "c.csv"),
        (["a.jsonl", "b.jsonl", "c.parquet"], "c.parquet"),
        (["a.jsonl", "inner/b.txt"], "inner/b.txt"),
        (["train.jsonl", "more.jsonl"], "more.jsonl"),
        (["train.jsonl", "test.jsonl", "contest.jsonl"], "contest.jsonl"),
        (["data/train/a.jsonl", "data/more/b.jsonl"], "data/more/b.jsonl"),
    ],
)
def test_a_folder_with_files_that_would_be_passed_over_is_refused(
    tmp_path: Path, names: list[str], left_out: str
) -> None:
    folder = write(tmp_path / "data", *names)
    with pytest.raises(BadInput, match=f"^--data {folder}: {left_out} would be passed over"):
        texts(folder)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jsonl", "inner/b.jsonl"],
        ["train.jsonl", "test.jsonl"],
        ["data/train-0-of-1.jsonl", "data/test-0-of-1.jsonl"],
    ],
)
def test_other_splits_and_what_stands_beside_the_data_do_not_matter(tmp_path: Path, names: list[str]) -> None:
    beside = ["README.md", "LICENSE.txt", "licence", "dataset_infos.json", ".hidden.jsonl", "run.py"]
    assert set(texts(write(tmp_path / "data", *names, *beside))) == {"of json"}


def test_a_glob_names_a_file_once(tmp_path: Path) -> None:
    write(tmp_path / "data" / "inner", "a.jsonl")
    assert texts(f"{tmp_path}/data/**/**/*.jsonl") == ["of json"]


@pytest.mark.parametrize("pattern", ["", "*.jsonl"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_file_that_is_there_twice_is_named(tmp_path: Path, pattern: str, hard: bool) -> None:
    folder = write(tmp_path / "data", "a.jsonl")
    (os.link if hard else os.symlink)(folder / "a.jsonl", folder / "b.jsonl")
    with pytest.raises(BadInput, match=r"a\.jsonl and .*b\.jsonl are the same file"):
        texts(folder / pattern)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_a_changed_file_is_read_again_whatever_its_times(tmp_path: Path, suffix: str) -> None:
    """A copy with the times of its source, of the same size as the file that was there."""
    path = tmp_path / f"data{suffix}"
    for words in ("one", "two"):
        path.write_text(ROWS[suffix].replace("of", words))
        os.utime(path, (1e9, 1e9))
        assert texts(path)[0].startswith(words)
