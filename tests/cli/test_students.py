"""Students that cannot be used are named in one line, for training and for evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.store.cache import Cache
from tests.parts.broken import commands_with_a_student
from tests.parts.commands import Refused
from tests.parts.texts import VOCABULARY, save_model, train_tokenizer


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_with_too_small_a_vocabulary_is_refused(
    refused: Refused, cache: Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, which: int
) -> None:
    student = save_model(tmp_path / "student", tokenizer, VOCABULARY - 20)
    line = refused(*commands_with_a_student(cache.path, student, tmp_path / "out")[which])
    assert str(student) in line
    assert f"has {VOCABULARY - 20} rows" in line


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_with_another_tokenizer_is_refused(
    refused: Refused, cache: Cache, tmp_path: Path, which: int
) -> None:
    student = save_model(tmp_path / "student", train_tokenizer(VOCABULARY + 40), VOCABULARY + 40)
    line = refused(*commands_with_a_student(cache.path, student, tmp_path / "out")[which])
    assert f"{student}: its tokenizer is not the cache's" in line


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_that_is_not_there_is_named(refused: Refused, cache: Cache, tmp_path: Path, which: int) -> None:
    line = refused(*commands_with_a_student(cache.path, tmp_path / "absent", tmp_path / "out")[which])
    assert f"{tmp_path}/absent" in line


def test_a_student_that_is_too_short_for_the_samples_is_refused(
    refused: Refused, cache: Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = save_model(tmp_path / "student", tokenizer, VOCABULARY, max_position_embeddings=64)
    line = refused("train", cache.path, "--student", student, "--out", tmp_path / "out")
    assert "96 tokens; the student takes at most 64" in line


@pytest.mark.parametrize("layers", ["x", "", "0", "9", "1,0", "0,0", "0,7", "0-1", "-1"])
def test_layers_that_the_student_does_not_have_are_named(
    refused: Refused, cache: Cache, teacher: Path, tmp_path: Path, layers: str
) -> None:
    line = refused(
        "train",
        cache.path,
        "--student",
        teacher,
        "--out",
        tmp_path / "out",
        f"--copy-layers={layers}",
        "--device",
        "cpu",
    )
    assert "--copy-layers" in line
    assert layers in line


def test_layers_to_copy_need_a_student(refused: Refused, cache: Cache, tmp_path: Path) -> None:
    line = refused("train", cache.path, "--out", tmp_path / "out", "--copy-layers", "1")
    assert "--copy-layers needs a --student" in line


def test_a_student_that_exists_cannot_be_given_a_shape(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--hidden-size", "16")
    assert f"--student {small_student} has its shape already" in line


def test_a_fresh_student_of_impossible_shape_is_refused(refused: Refused, cache: Cache, tmp_path: Path) -> None:
    line = refused("train", cache.path, "--out", tmp_path / "out", "--hidden-size", "30", "--heads", "7")
    assert "no student can be made with" in line


def test_resuming_without_a_checkpoint_is_refused(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = refused("train", cache.path, "--student", small_student, "--out", out, "--resume", "--device", "cpu")
    assert f"--resume: no whole checkpoint in {out}" in line


def test_a_folder_for_the_student_that_is_a_file_is_refused(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("two years of work")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "file", "--device", "cpu")
    assert str(tmp_path / "file") in line
    assert "file" in line.replace(str(tmp_path / "file"), "")
    assert (tmp_path / "file").read_text() == "two years of work"


@pytest.mark.parametrize("which", [0, 1], ids=["train", "evaluate"])
def test_a_student_on_a_hub_that_cannot_be_reached_is_named(
    refused: Refused, cache: Cache, tmp_path: Path, which: int
) -> None:
    line = refused(*commands_with_a_student(cache.path, "nobody/such-a-student", tmp_path / "out")[which])
    assert "nobody/such-a-student: " in line
