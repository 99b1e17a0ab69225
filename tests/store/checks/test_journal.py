"""A verify that was interrupted goes on where it was, and never takes over a part that has changed since."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.core.progress import Step
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.store.checks import claims, journal
from logitstore.store.checks.run import Extent
from logitstore.store.checks.verify import Verified, verified
from tests.parts.files import tree
from tests.parts.specification import tamper
from tests.parts.tasks import named

KEEPING = Extent(journal=True, resume=True)
ROWS = "parts/00000/rows.zarr/ids/c/0/0"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files of a test count as old enough."""
    monkeypatch.setattr(claims, "SETTLED", -1.0)


def interrupted(cache: Path, after: int) -> Path:
    """Verify until so many parts are done; return the journal."""

    def stop(step: Step) -> None:
        if step.stage == "verify" and step.done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verified(cache, KEEPING, stop)
    return cache / journal.NAME


def resumed(cache: Path) -> Verified:
    return verified(cache, KEEPING)


def test_the_parts_that_an_interrupted_run_found_whole_are_taken_over_and_the_journal_goes(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(small_copy)
    assert interrupted(small_copy, 2).is_file()
    read: list[str] = []
    sealed = journal.Journal.add
    monkeypatch.setattr(journal.Journal, "add", lambda self, claim: (read.append(claim.part), sealed(self, claim)))
    notes: list[str] = []
    found = verified(small_copy, KEEPING, lambda step: notes.append(step.note))
    rest = [2] + [0, 1, 2] * len(list(small_copy.glob("taps/*")))
    assert (found.problems, found.earlier, found.parts, read) == ([], 2, 3, rest)
    assert any(f"2 of {2 + len(rest)} parts were found whole by the run of 20" in note for note in notes)
    assert tree(small_copy) == before
    assert not (small_copy / "sidecars").exists()


def test_no_resume_checks_all(small_copy: Path) -> None:
    interrupted(small_copy, 2)
    found = verified(small_copy, Extent(journal=True, resume=False))
    assert (found.problems, found.earlier) == ([], 0)
    assert not (small_copy / journal.NAME).exists()


def flip(path: Path) -> None:
    """Change a byte, and set the times back as a forger would."""
    found = path.stat()
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replaced(path: Path) -> None:
    """Put a broken copy with the same times in its place."""
    other = Path(shutil.copy2(path, path.parents[5] / "aside"))
    flip(other)
    other.rename(path)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "rows": (ROWS, flip),
    "rows replaced": (ROWS, replaced),
    "samples": ("parts/00000/samples.arrow", flip),
    "record": ("parts/00000/part.json", flip),
    "cut": (ROWS, lambda path: os.truncate(path, 1)),
    "missing": (ROWS, Path.unlink),
    "added": ("parts/00000/rows.zarr/more", Path.touch),
}


@pytest.mark.parametrize(("file", "change"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_part_that_changes_after_the_journal_was_written_is_checked_again(
    small_copy: Path, file: str, change: Callable[[Path], object]
) -> None:
    interrupted(small_copy, 2)
    change(small_copy / file)
    found = resumed(small_copy)
    assert named(found.problems) == {(0, file)}
    assert found.earlier == 1


def test_a_part_of_a_tap_is_taken_over_unless_it_or_that_of_the_cache_changes(tapped_copy: Path) -> None:
    parts = len(os.listdir(tapped_copy / "parts"))
    interrupted(tapped_copy, 2 * parts)
    assert (resumed(tapped_copy).earlier, resumed(tapped_copy).earlier) == (2 * parts, 0)
    interrupted(tapped_copy, 2 * parts)
    tap = sorted(os.listdir(tapped_copy / "taps"))[0]
    flip(tapped_copy / "taps" / tap / "parts/00001/rows.zarr/values/c/0/0")
    tamper(tapped_copy / "parts/00002/part.json", lambda record: record.update(rows=record["rows"] + 1))
    found = resumed(tapped_copy)
    assert {(problem.tap, problem.part) for problem in found.problems} >= {(tap, 1), (tap, 2), (None, 2)}
    assert found.earlier == 2 * parts - 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def of_another_plan(path: Path) -> None:
    tamper(path.parents[1] / MANIFEST_NAME, lambda plan: plan.update(batch_tokens=plan["batch_tokens"] + 1))


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"part":1', b'"part":2'))


def linked(path: Path) -> None:
    path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))


FALSE: dict[str, tuple[Callable[[Path], object], int]] = {
    "cut": (cut, 1),
    "edited": (edited, 1),
    "a line more": (lambda path: path.write_bytes(path.read_bytes() + b'{"tap":null} 0123\n[]\n'), 2),
    "noise": (lambda path: path.write_bytes(os.urandom(4000)), 0),
    "of another version": (of_another_version, 0),
    "empty": (lambda path: path.write_bytes(b""), 0),
    "too large": (lambda path: os.truncate(path, 1 << 33), 0),
    "a link": (linked, 0),
    "a folder": (folder, 0),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), 0),
}


@pytest.mark.parametrize(("change", "left"), FALSE.values(), ids=FALSE)
@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_false_journal_is_believed_in_its_whole_lines_only(
    small_copy: Path, change: Callable[[Path], object], left: int
) -> None:
    change(interrupted(small_copy, 2))
    found = resumed(small_copy)
    assert (found.problems, found.earlier) == ([], left)


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_journal_of_another_plan_counts_for_nothing(small_copy: Path) -> None:
    of_another_plan(interrupted(small_copy, 2))
    found = resumed(small_copy)
    assert found.earlier == 0
    assert {problem.part for problem in found.problems} == {0, 1, 2}


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_cache_that_was_copied_with_its_journal_is_checked_anew(small_copy: Path, tmp_path: Path) -> None:
    interrupted(small_copy, 2)
    copied = Path(shutil.copytree(small_copy, tmp_path / "another"))
    assert (resumed(copied).earlier, resumed(small_copy).earlier) == (0, 2)


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_files_that_changed_a_moment_ago_and_claims_of_long_ago_are_not_relied_on(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(claims, "SETTLED", 3600.0)
        assert not interrupted(small_copy, 2).exists()
    interrupted(small_copy, 2)
    with monkeypatch.context() as context:
        context.setattr(claims, "MOST_AGE", 0.0)
        assert resumed(small_copy).earlier == 0


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_several_interruptions_add_up_also_after_a_line_that_was_cut(small_copy: Path) -> None:
    path = interrupted(small_copy, 1)
    path.write_bytes(path.read_bytes() + b'{"tap"')
    interrupted(small_copy, 1)
    assert resumed(small_copy).earlier == 2


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_cache_that_cannot_take_a_journal_is_verified_without(small_copy: Path) -> None:
    (small_copy / "sidecars").write_bytes(b"")
    notes: list[str] = []

    def stop(step: Step) -> None:
        notes.append(step.note)
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verified(small_copy, KEEPING, stop)
    assert "begins anew" in notes[-1]
    found = resumed(small_copy)
    assert (found.problems, found.earlier) == ([], 0)


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_share_leaves_the_journal_of_a_whole_run_alone(small_copy: Path) -> None:
    path = interrupted(small_copy, 2)
    verified(small_copy, Extent(journal=True, resume=True, share=0.3))
    assert path.is_file()
    assert resumed(small_copy).earlier >= 2
