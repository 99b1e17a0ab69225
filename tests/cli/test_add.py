"""What `add` refuses, and what the command line says of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.tap_names import names_of
from logitstore.settings.dump import AddSettings
from tests.parts.commands import logitstore_command
from tests.parts.files import tree
from tests.parts.taps import small_taps_plan
from tests.parts.texts import VOCABULARY, save_model

# wrong input


@pytest.mark.parametrize(
    ("hidden", "qkv", "said"),
    [
        ("2", None, "--hidden 2: the last of the 2 layers is named final: write --hidden final."),
        ("3", None, "--hidden 3: the teacher has 0 to 1; 3 is not there."),
        ("1,x", None, "--hidden '1,x': write numbers, final and ranges, such as 4,8-12, final, or all."),
        (None, "0", "--qkv 0: the teacher has 1 to 2; 0 is not there."),
        (None, "2-3", "--qkv 2-3: the teacher has 1 to 2; 2-3 is not there."),
        (None, "final", "--qkv 'final': write numbers and ranges, such as 4,8-12, or all."),
        (None, None, "add needs --hidden or --qkv: say which layers' features to add, such as --hidden 8,final."),
    ],
)
def test_layers_that_are_not_there_are_told_in_one_line(
    hidden: str | None, qkv: str | None, said: str, bare: Path
) -> None:
    with pytest.raises(BadInput) as error:
        add(AddSettings(cache=bare, hidden=hidden, qkv=qkv))
    assert str(error.value) == said
    assert not (bare / "taps").exists()


def test_names_come_once_and_in_order() -> None:
    assert names_of("final,3,1-2,2", "4,1", 4) == [
        "hidden-1",
        "hidden-2",
        "hidden-3",
        "final",
        *["query-1", "key-1", "value-1", "query-4", "key-4", "value-4"],
    ]
    assert names_of("all", "all", 1) == ["hidden-0", "final", "query-1", "key-1", "value-1"]
    assert names_of(None, None, 4) == []


def test_another_teacher_is_refused(bare: Path, tokenizer: Any, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", tokenizer, VOCABULARY + 8, seed=3)
    with pytest.raises(CacheMismatch, match="its weights are not those"):
        add(AddSettings(cache=bare, teacher=str(other), hidden="1", device="cpu"))
    assert not (bare / "taps").exists()


def test_another_codec_than_the_one_there_is_refused(tapped_copy: Path, teacher: Path, texts: Path) -> None:
    with pytest.raises(CacheMismatch, match=r"--tap-codec int8: .* has the tap 'final' as float32"):
        add(AddSettings(cache=tapped_copy, hidden="final", tap_codec="int8", device="cpu"))
    with pytest.raises(CacheMismatch, match="as float32"):
        dump(small_taps_plan(teacher, texts, tapped_copy, hidden="final", tap_codec="int8"))


def test_more_directions_than_channels_are_refused(bare_copy: Path) -> None:
    with pytest.raises(BadInput, match=r"final has 32 channels\. Give at most pca-32"):
        add(AddSettings(cache=bare_copy, hidden="final", tap_codec="pca-33", device="cpu"))


def test_a_feature_that_cannot_be_had_is_refused_before_the_dump_begins(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="key-1 has 16 channels"):
        dump(small_taps_plan(teacher, texts, tmp_path / "cache", qkv="1", tap_codec="pca-20"))
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_parts_that_the_cache_does_not_have_are_refused(bare_copy: Path) -> None:
    shutil.rmtree(bare_copy / "parts/00001")
    with pytest.raises(BadInput, match="part 00001"):
        add(AddSettings(cache=bare_copy, hidden="final", parts="1", device="cpu"))
    assert add(AddSettings(cache=bare_copy, hidden="final", device="cpu")).taps["final"].part_numbers == [0, 2]


# the command line


def test_the_command_adds_and_inspect_and_verify_tell(bare_copy: Path, tmp_path: Path) -> None:
    added = logitstore_command(
        "add", bare_copy, "--hidden", "final", "--qkv", "1", "--tap-codec", "int8", "--device", "cpu"
    )
    assert added.returncode == 0, added.stderr
    assert f"{bare_copy}: final: 34 B/row as int8, 3 of 3 parts" in added.stdout.splitlines()
    summary = logitstore_command("inspect", bare_copy)
    assert re.search(r"final +32 +int8 +34 +3 of 3", summary.stdout), summary.stdout
    sound = logitstore_command("verify", bare_copy)
    assert "final: 3 parts" in sound.stdout
    recoded = logitstore_command("recode", bare_copy, "--layout", "archive", "--out", tmp_path / "archive")
    assert "not carried over: final, key-1, query-1, value-1" in recoded.stdout


def test_a_layer_that_is_not_there_changes_nothing(bare_copy: Path) -> None:
    before = tree(bare_copy)
    wrong = logitstore_command("add", bare_copy, "--hidden", "7")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == ["error: --hidden 7: the teacher has 0 to 1; 7 is not there."]
    assert tree(bare_copy) == before


def test_opening_taps_needs_no_torch(tapped: Path) -> None:
    code = f"""
import sys, numpy
import logitstore
tap = logitstore.open({str(tapped)!r}).taps["final"]
assert tap.codec.decode(tap.part(0)).shape[1] == 32
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert logitstore.open(tapped).taps["final"].complete
