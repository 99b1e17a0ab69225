"""Places that are no usual folders, whatever command is given them: one line, or the usual work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.commands import Command

READERS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "inspect": lambda cache, student, out: ["inspect", cache],
    "inspect --sample": lambda cache, student, out: ["inspect", cache, "--sample", 0],
    "verify": lambda cache, student, out: ["verify", cache],
    "select": lambda cache, student, out: ["select", cache, "--method", "random", "--ratio", 0.5, "--out", out],
    "recode": lambda cache, student, out: ["recode", cache, "-k", 2, "--out", out],
    "sidecar": lambda cache, student, out: ["sidecar", cache, "--of", "perplexity"],
    "evaluate": lambda cache, student, out: ["evaluate", cache, "--student", student, "--device", "cpu"],
    "train": lambda cache, student, out: [
        "train", cache, "--student", student, "--out", out, "--device", "cpu", "--max-steps", 1,
    ],
}  # fmt: skip


@pytest.mark.attack
@pytest.mark.parametrize("reader", READERS)
def test_a_cache_whose_parts_are_a_plain_file_is_refused_in_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], bare_copy: Path, small_student: Path, tmp_path: Path, reader: str
) -> None:  # fmt: skip
    shutil.rmtree(bare_copy / "parts")
    (bare_copy / "parts").write_text("no folder")
    arguments = READERS[reader](bare_copy, small_student, tmp_path / "out")
    code = command(*arguments)
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.splitlines()[-1].startswith("error: "), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_a_path_that_is_not_utf8_is_refused_in_one_line(
    command: Command, capsys: pytest.CaptureFixture[str], bare: Path, small_student: Path, tmp_path: Path, reader: str
) -> None:  # fmt: skip
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    asked = [READERS[reader](odd, small_student, tmp_path / "out"), READERS[reader](bare, small_student, odd)]
    for arguments in asked[: 2 if odd in asked[1] else 1]:
        assert command(*arguments) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("error: "), said
        assert "not UTF-8" in said[-1]
    with pytest.raises(BadInput, match="not UTF-8"):
        Cache(odd)


@pytest.mark.attack
def test_a_tap_whose_record_is_gone_is_named(tapped_copy: Path) -> None:
    taps = sorted(path.parent.name for path in tapped_copy.glob("taps/*/tap.json"))
    for name in taps:
        whole = (tapped_copy / "taps" / name / "tap.json").read_bytes()
        (tapped_copy / "taps" / name / "tap.json").unlink()
        assert [problem.tap for problem in verify(tapped_copy)] == [name]
        (tapped_copy / "taps" / name / "tap.json").write_bytes(whole)
