"""Every command that reads a cache names what is wrong with it in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import RECORD_NAME
from logitstore.store import layout
from logitstore.store.cache import Cache
from tests.parts.broken import commands_with_a_student, reseal, truncate
from tests.parts.commands import Command, Refused, error_line


def every_reader(cache: Path, out: Path) -> list[list[object]]:
    """Every command that reads a cache. The students do not exist: a refusal that names the cache came before them."""
    student = out.parent / "no-student"
    return [["inspect", cache], ["verify", cache], *commands_with_a_student(cache, student, out)]


READERS = ["inspect", "verify", "train", "evaluate"]


@pytest.mark.parametrize("which", range(4), ids=READERS)
def test_a_folder_that_is_no_cache_is_named(refused: Refused, tmp_path: Path, which: int) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    line = refused(*every_reader(tmp_path / "folder", tmp_path / "out")[which])
    assert f"{tmp_path / 'folder'}: no cache.json in it" in line


@pytest.mark.parametrize("which", range(4), ids=READERS)
@pytest.mark.parametrize("path", ["absent", "file", "file/below"])
def test_a_cache_that_is_no_folder_is_named(refused: Refused, tmp_path: Path, path: str, which: int) -> None:
    (tmp_path / "file").touch()
    line = refused(*every_reader(tmp_path / path, tmp_path / "out")[which])
    assert f"{tmp_path / path}: " in line
    assert ("there is no such folder" in line) == (path == "absent")


@pytest.mark.parametrize("which", range(4), ids=READERS)
@pytest.mark.parametrize("content", ["{}", "[]", "7", '{"format": "zarr"}'])
def test_a_cache_json_of_another_program_is_named(refused: Refused, tmp_path: Path, content: str, which: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(content)
    line = refused(*every_reader(folder, tmp_path / "out")[which])
    assert f"{folder / MANIFEST_NAME}: this file was not written by logitstore" in line


@pytest.mark.parametrize("which", range(4), ids=READERS)
def test_a_cache_of_a_newer_format_asks_for_a_newer_logitstore(
    refused: Refused, own_cache: Path, tmp_path: Path, which: int
) -> None:
    reseal(own_cache / MANIFEST_NAME, lambda content: content.update(version=2, news={"codec": "better"}))
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert str(own_cache) in line
    assert "format version 2" in line
    assert "Install a newer logitstore" in line


@pytest.mark.parametrize("which", [2, 3], ids=["train", "evaluate"])
@pytest.mark.parametrize("file", ["samples.arrow", "rows.zarr/*/c/**/0", "rows.zarr/*/zarr.json"])
def test_a_truncated_part_is_refused_before_a_model_is_loaded(
    refused: Refused, own_cache: Path, tmp_path: Path, file: str, which: int
) -> None:
    path = next(path for path in sorted(own_cache.glob(f"**/parts/00002/{file}")) if path.is_file())
    truncate(path)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert f"parts/00002/{path.as_posix().partition('parts/00002/')[2]} has" in line
    assert str(own_cache) in line
    assert "--repair" in line


@pytest.mark.parametrize("which", [0, 2, 3], ids=["inspect", "train", "evaluate"])
@pytest.mark.parametrize("name", [MANIFEST_NAME, f"parts/00001/{RECORD_NAME}"])
def test_a_truncated_record_is_refused_before_a_model_is_loaded(
    refused: Refused, own_cache: Path, tmp_path: Path, name: str, which: int
) -> None:
    truncate(own_cache / name)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert f"{own_cache / name}: " in line
    assert "--repair" in line


@pytest.mark.parametrize("which", range(4), ids=READERS)
@pytest.mark.parametrize(
    "outside", ["../../secret", "/etc/passwd", "shared/../../secret", "C:/secret", "shared\\..\\x"]
)
def test_a_shared_file_that_lies_outside_the_cache_is_refused(
    refused: Refused, own_cache: Path, tmp_path: Path, outside: str, which: int
) -> None:
    def lead_out(content: dict[str, Any]) -> None:
        name = next(iter(content["shared"]))
        content["shared"][outside] = content["shared"].pop(name)

    reseal(own_cache / MANIFEST_NAME, lead_out)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert str(own_cache) in line
    assert outside in line
    assert "outside the cache" in line


@pytest.mark.parametrize("which", [0, 2, 3], ids=["inspect", "train", "evaluate"])
@pytest.mark.parametrize("outside", ["../../../secret", "/etc/passwd"])
def test_a_part_whose_files_lie_outside_the_cache_is_refused(
    refused: Refused, own_cache: Path, tmp_path: Path, outside: str, which: int
) -> None:
    def lead_out(content: dict[str, Any]) -> None:
        content["files"][outside] = content["files"].pop("samples.arrow")

    reseal(own_cache / "parts" / "00001" / RECORD_NAME, lead_out)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert outside in line
    assert "outside the cache" in line


@pytest.mark.parametrize("which", [0, 2, 3], ids=["inspect", "train", "evaluate"])
def test_a_part_that_links_to_outside_the_cache_is_refused(
    refused: Refused, own_cache: Path, tmp_path: Path, which: int
) -> None:
    folder = own_cache / "parts" / "00001"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert str(own_cache) in line
    assert "outside the cache" in line


@pytest.mark.parametrize("which", [2, 3], ids=["train", "evaluate"])
def test_a_cache_without_a_part_has_nothing_to_learn_from(
    refused: Refused,
    own_cache: Path,
    small_student: Path,
    classifier: Path,
    guesser: Path,
    ranker: Path,
    tmp_path: Path,
    which: int,
) -> None:
    fitting = {"image-classification": classifier, "masked-lm": guesser, "ranking": ranker}
    student = fitting.get(Cache(own_cache).manifest.task, small_student)
    shutil.rmtree(own_cache / layout.PARTS)
    line = refused(*commands_with_a_student(own_cache, student, tmp_path / "out")[which - 2])
    assert str(own_cache) in line


NO_NLL = "has the score 'nll'"
SCORE_ALONE = "keeps one number of each row"


@pytest.mark.parametrize(
    ("own_cache", "arguments", "told"),
    [
        (
            "ranking",
            ["recode", "CACHE", "--preset", "topk", "--out", "OUT"],
            "--preset topk: it is about distributions",
        ),
        (
            "ranking",
            ["select", "CACHE", "--method", "top", "--score", "entropy", "--ratio", 0.5, "--out", "OUT"],
            SCORE_ALONE,
        ),
        (
            "ranking",
            ["select", "CACHE", "--method", "top", "--score", "nll", "--ratio", 0.5, "--out", "OUT"],
            NO_NLL,
        ),
        ("ranking", ["select", "CACHE", "--method", "llkd", "--out", "OUT"], "--score confidence"),
        ("ranking", ["sidecar", "CACHE", "--of", "perplexity"], "perplexity"),
        ("ranking", ["add", "CACHE", "--hidden", "final"], "nothing can be added"),
        ("vectors", ["recode", "CACHE", "-k", 2, "--out", "OUT"], "-k 2: it is about distributions"),
        ("vectors", ["inspect", "CACHE", "--sample", 300], "--sample 300: the cache has samples 0 to"),
        (
            "vectors",
            ["select", "CACHE", "--method", "top", "--score", "entropy", "--ratio", 0.5, "--out", "OUT"],
            "entropy",
        ),
        (
            "vectors",
            ["select", "CACHE", "--method", "top", "--score", "nll", "--ratio", 0.5, "--out", "OUT"],
            NO_NLL,
        ),
        ("vectors", ["select", "CACHE", "--method", "llkd", "--out", "OUT"], "--score confidence"),
        ("vectors", ["sidecar", "CACHE", "--of", "perplexity"], "perplexity"),
        ("vectors", ["add", "CACHE", "--hidden", "1"], "only the vectors themselves"),
    ],
    indirect=["own_cache"],
)
def test_what_makes_no_sense_for_a_task_is_one_line(
    refused: Refused, own_cache: Path, tmp_path: Path, arguments: list[object], told: str
) -> None:
    line = refused(*({"CACHE": own_cache, "OUT": tmp_path / "out"}.get(str(each), each) for each in arguments))
    assert told in line
    assert "another preset" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("own_cache", ["vectors"], indirect=True)
@pytest.mark.parametrize("lost", ["taps", "taps/final/parts/00001"])
def test_vectors_that_are_lost_are_told_of(
    command: Command, own_cache: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    """The parts of the cache itself are all there."""
    assert Cache(own_cache).complete
    shutil.rmtree(own_cache / lost)
    assert not Cache(own_cache).complete
    missing = 5 if lost == "taps" else 1
    assert command("verify", own_cache) == 0
    assert f"of the rows' own values {missing} part{'s' * (missing > 1)} still to be dumped" in capsys.readouterr().out
    assert command("status", own_cache) == 0
    shown = capsys.readouterr().out
    assert "missing parts of final" in shown
    assert "complete" not in shown


def test_a_sample_that_the_cache_does_not_have_is_named(refused: Refused, cache: Cache) -> None:
    line = refused("inspect", cache.path, "--sample", len(cache))
    assert f"--sample {len(cache)}: the cache has samples 0 to {len(cache) - 1}" in line


@pytest.mark.parametrize("own_cache", ["text", "images", "classes", "masked", "ranking"], indirect=True)
def test_a_sample_of_a_cache_whose_vocabulary_is_broken_names_the_file(refused: Refused, own_cache: Path) -> None:
    vocabulary = next((own_cache / "shared").glob("vocabulary-*"))
    truncate(vocabulary)
    assert str(vocabulary) in refused("inspect", own_cache, "--sample", "0")
    vocabulary.unlink()
    assert str(vocabulary) in refused("inspect", own_cache, "--sample", "0")


@pytest.mark.parametrize("which", [2, 3], ids=["train", "evaluate"])
@pytest.mark.parametrize(
    ("own_cache", "what"),
    [("text", what) for what in ("vocabulary", "tokenizer", "tail")]
    + [("images", what) for what in ("vocabulary", "processor", "images", "tail")],
    indirect=["own_cache"],
)
@pytest.mark.parametrize("spoil", [truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_broken_shared_file_is_refused_before_a_model_is_loaded(
    refused: Refused, own_cache: Path, tmp_path: Path, spoil: Callable[[Path], object], what: str, which: int
) -> None:
    spoilt = next(path for path in (own_cache / "shared").rglob("*") if what in path.name and path.is_file())
    spoil(spoilt)
    line = refused(*every_reader(own_cache, tmp_path / "out")[which])
    assert spoilt.relative_to(own_cache).as_posix() in line
    assert str(own_cache) in line


def test_the_wrong_teacher_to_verify_against_is_named(
    command: Command, capsys: pytest.CaptureFixture[str], cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert command("verify", cache.path, "--against-teacher", tmp_path / "empty") == 2
    assert f"{tmp_path / 'empty'}: " in error_line(capsys.readouterr().err)
