"""What `dump` refuses about teachers, options and targets, each in one line."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.dump.dump import dump
from logitstore.store.cache import Cache
from tests.parts.broken import OF_TEXT, truncate
from tests.parts.commands import Command, Refused, flags_of, logitstore_command
from tests.parts.texts import VOCABULARY, plan_for, save_model

# teachers, students, options


def test_a_teacher_that_is_not_there_is_named(refused_dump: Refused, tmp_path: Path) -> None:
    assert f"{tmp_path}/absent: there is no such folder. Give" in refused_dump(teacher=tmp_path / "absent")


def test_a_teacher_without_weights_is_named(refused_dump: Refused, teacher: Path, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow"
    shutil.copytree(teacher, hollow, ignore=shutil.ignore_patterns("*.safetensors"))
    assert f"{hollow}: cannot be loaded as a causal language model" in refused_dump(teacher=hollow)


def test_a_teacher_with_truncated_weights_is_named(refused_dump: Refused, teacher: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(teacher, tmp_path / "cut"))
    truncate(cut / "model.safetensors")
    assert f"{cut}: cannot be loaded as a causal language model" in refused_dump(teacher=cut)


def test_a_teacher_without_a_tokenizer_is_named(refused_dump: Refused, tmp_path: Path) -> None:
    mute = save_model(tmp_path / "mute", None, VOCABULARY)
    assert f"{mute}: no tokenizer could be loaded" in refused_dump(teacher=mute)


def test_a_gguf_file_that_is_not_there_is_named(refused_dump: Refused, teacher: Path) -> None:
    assert f"{teacher}::absent.gguf" in refused_dump(teacher=f"{teacher}::absent.gguf")


def test_k_may_not_exceed_the_vocabulary(refused_dump: Refused) -> None:
    line = refused_dump(k=VOCABULARY + 1)
    assert f"-k {VOCABULARY + 1}" in line
    assert f"{VOCABULARY} tokens" in line


@pytest.mark.parametrize("overlap", [96, 200])
def test_the_overlap_must_be_smaller_than_the_window(refused_dump: Refused, overlap: int) -> None:
    line = refused_dump(overlap=overlap)
    assert f"--overlap {overlap}" in line
    assert "--max-length, which is 96" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("k", 0), ("max_length", 1), ("overlap", -1), ("limit", 0), ("samples_per_part", 0), ("batch_tokens", 0)],
)
def test_a_number_out_of_range_is_named_with_its_option(refused_dump: Refused, name: str, value: int) -> None:
    assert f"--{name.replace('_', '-')} {value}: " in refused_dump(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("dtype", "float64"), ("tail", "even")])
def test_a_choice_that_there_is_not_is_named_with_its_option(refused_dump: Refused, name: str, value: str) -> None:
    assert f"--{name} {value}: " in refused_dump(**{name: value})


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there_is_named(refused_dump: Refused, device: str) -> None:
    assert f"--device {device}" in refused_dump(device=device)


@pytest.mark.parametrize("parts", ["", "x", "1;2", "3-1", "-1", "999999"])
def test_parts_that_the_plan_does_not_have_are_named(refused_dump: Refused, parts: str) -> None:
    assert f"--parts '{parts}'" in refused_dump(parts=parts)


def test_the_last_jobs_of_an_array_write_what_is_left_or_nothing(teacher: Path, texts: Path, tmp_path: Path) -> None:
    flags = flags_of(plan_for(teacher, texts, tmp_path / "cache", samples_per_part=4, limit=6))
    beyond = logitstore_command("dump", *flags, "--parts", "100-109")
    assert (beyond.returncode, beyond.stdout) == (0, "")
    assert re.search(
        r"^note: --parts '100-109': this cache has parts 0 to \d+, so nothing is left for this job\.$",
        beyond.stderr,
        re.M,
    )
    assert not (tmp_path / "cache" / "cache.json").exists()
    last = logitstore_command("dump", *flags, "--parts", "1-99")
    assert last.returncode == 0
    cache = Cache(tmp_path / "cache")
    assert cache.part_numbers == list(range(1, cache.manifest.parts))
    assert f"note: --parts 1-99: the last part is {cache.manifest.parts - 1};" in last.stderr


def test_a_missing_option_is_named_with_what_it_means(refused: Refused, teacher: Path, texts: Path) -> None:
    assert "dump needs --out: The cache to write." in refused("dump", "--teacher", teacher, "--data", texts)


def test_a_value_with_a_line_break_in_it_still_makes_one_line(refused_dump: Refused) -> None:
    assert "/no\\nsuch.jsonl" in refused_dump(data="/no\nsuch.jsonl")


# targets


def test_a_target_that_holds_other_files_is_refused_and_left_alone(refused_dump: Refused, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("two years of work")
    assert f"--out {tmp_path / 'out'}: the folder holds other files" in refused_dump()
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]


def test_a_target_that_is_a_file_is_refused_and_left_alone(refused_dump: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("two years of work")
    assert f"--out {tmp_path / 'file'}: a file stands there" in refused_dump(out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "two years of work"


def test_a_target_below_a_file_is_refused(refused_dump: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("two years of work")
    assert str(tmp_path / "file" / "out") in refused_dump(out=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"k": 7}, "sparsifier.k = 8, this command asks for 7"),
        ({"max_length": 95}, "data.max_length = 96, this command asks for 95"),
        ({"overlap": 15}, "data.overlap = 16, this command asks for 15"),
        ({"limit": 20}, "data.documents = 27, this command asks for 20"),
        ({"tail": "uniform"}, "tail.shape = prior, this command asks for uniform"),
        ({"samples_per_part": 51}, "samples_per_part = 50, this command asks for 51"),
        ({"batch_tokens": 500}, "batch_tokens = 512, this command asks for 500"),
        ({"dtype": "bfloat16"}, "teacher.dtype = float32, this command asks for bfloat16"),
    ],
)
def test_a_cache_of_another_plan_is_refused_with_the_setting_that_differs(
    refused: Refused, teacher: Path, texts: Path, cache: Cache, setting: dict[str, Any], name: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.path.rglob("*") if path.is_file()}
    flags = flags_of(plan_for(teacher, texts, cache.path, **setting))
    line = refused("dump", *flags)
    assert f"--out {cache.path}: the cache there has {name}" in line
    assert refused("dump", *flags, "--dry-run") == line
    assert before == {path: path.stat().st_mtime_ns for path in cache.path.rglob("*") if path.is_file()}


@OF_TEXT
def test_another_teacher_is_refused_by_its_weights(
    refused: Refused, tokenizer: PreTrainedTokenizerFast, teacher: Path, texts: Path, own_cache: Path, tmp_path: Path
) -> None:
    shutil.rmtree(own_cache / "parts" / "00001")
    other = save_model(tmp_path / "other", tokenizer, 328, seed=5)
    flags = flags_of(plan_for(other, texts, own_cache))
    assert "teacher.fingerprint" in refused("dump", *flags)


def test_no_resume_refuses_a_cache_that_is_there(refused: Refused, teacher: Path, texts: Path, cache: Cache) -> None:
    line = refused("dump", "--teacher", teacher, "--data", texts, "--out", cache.path, "--no-resume")
    assert f"--out {cache.path}: a cache is there already" in line


# names on a hub that cannot be reached


def test_a_teacher_on_a_hub_that_cannot_be_reached_is_named(refused_dump: Refused) -> None:
    assert "nobody/such-a-teacher: " in refused_dump(teacher="nobody/such-a-teacher")


def test_a_dump_is_not_refused_when_nothing_is_wrong(
    command: Command, teacher: Path, texts: Path, tmp_path: Path, cache: Cache
) -> None:
    """The options that the refusals above start from are right, so it is the change that is refused."""
    flags = flags_of(plan_for(teacher, texts, tmp_path / "out"))
    assert command("dump", *flags) == 0
    assert Cache(tmp_path / "out").manifest == cache.manifest
    assert dump(plan_for(teacher, texts, tmp_path / "out")).complete
