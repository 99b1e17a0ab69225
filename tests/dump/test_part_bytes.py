"""`--part-bytes` decides how many samples a part has; a cache that is continued keeps its own count."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.core.progress import Step
from logitstore.dump.dump import dump, planned
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.dump import DumpSettings
from logitstore.store.checks.verify import verify
from tests.parts.commands import Command, flags_of
from tests.parts.files import tree
from tests.parts.tasks import Task


@pytest.fixture
def free(small_plan: Callable[..., DumpSettings]) -> Callable[..., DumpSettings]:
    """The small dump, without a count of samples."""
    return lambda out, **changes: small_plan(out, **{"samples_per_part": None} | changes)


def per_part(settings: DumpSettings, notes: list[str] | None = None) -> int:
    def keep(step: Step) -> None:
        if notes is not None and step.stage == "parts":
            notes.append(step.note)

    return planned(settings, keep).manifest.samples_per_part


def test_a_small_cache_has_the_usual_count_and_nothing_is_said_of_it(
    free: Callable[..., DumpSettings], tmp_path: Path, task: Task
) -> None:
    notes: list[str] = []
    assert per_part(free(tmp_path / "new"), notes) == task.usual
    assert notes == []


def test_parts_have_about_the_bytes_that_are_given_and_any_count_of_parts_is_resumed(
    free: Callable[..., DumpSettings], tmp_path: Path, task: Task
) -> None:
    notes: list[str] = []
    wanted, least = task.part_bytes
    size = f"{wanted / 1000:g}kB"
    settings = free(tmp_path / "new", part_bytes=size)
    count = per_part(settings, notes)
    assert notes[0].startswith(f"{count} samples each, about ")
    assert notes[0].endswith(" kB")
    cache = dump(settings)
    assert 2 <= cache.manifest.parts < cache.manifest.samples
    assert cache.manifest.samples_per_part == count
    assert verify(cache.path) == []
    whole = tree(cache.path)
    rows = sum(len(content) for name, content in whole.items() if "parts/00000/rows.zarr" in name and "/c/" in name)
    # what is said of the samples beside their rows is more than a view takes, and texts take more than their rows
    assert least < rows / wanted < 1.3
    for changes in ({"part_bytes": size}, {}, {"samples_per_part": count}):
        shutil.rmtree(cache.path / "parts/00001")
        assert dump(free(cache.path, **changes)).complete
        assert tree(cache.path) == whole


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_dump_that_began_with_another_count_goes_on_with_it(
    free: Callable[..., DumpSettings], small_copy: Path, small_cache: Path
) -> None:
    shutil.rmtree(small_copy / "parts/00001")
    assert per_part(free(small_copy)) == 9
    dump(free(small_copy))
    assert tree(small_copy) == tree(small_cache)
    told = r"samples_per_part = 9, this command asks for 4 \(--samples-per-part, --part-bytes\)"
    with pytest.raises(CacheMismatch, match=told):
        dump(free(small_copy, samples_per_part=4))
    with pytest.raises(CacheMismatch, match=r"\(--samples-per-part, --part-bytes\)"):
        dump(free(small_copy, part_bytes="1kB"))


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_taps_count_and_what_decides_nothing_is_refused(free: Callable[..., DumpSettings], tmp_path: Path) -> None:
    out = tmp_path / "new"
    alone = per_part(free(out, part_bytes="60kB"))
    assert 1 <= per_part(free(out, part_bytes="60kB", hidden="final")) < alone
    with pytest.raises(BadInput, match="--part-bytes 60kB: --samples-per-part 5 decides"):
        planned(free(out, part_bytes="60kB", samples_per_part=5))


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_a_dry_run_says_how_large_a_part_is(
    free: Callable[..., DumpSettings], tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("dump", *flags_of(free(tmp_path / "new", part_bytes="30kB")), "--dry-run") == 0
    shown = capsys.readouterr()
    line = next(line for line in shown.out.splitlines() if line.startswith("parts "))
    assert " samples, about 2" in line
    assert line.endswith(" kB each")
    assert command("dump", *flags_of(free(tmp_path / "new", part_bytes="30kB")), "--part-bytes", "many") == 2
    assert "'many' is no size" in capsys.readouterr().err
    assert command("dump", *flags_of(free(tmp_path / "new", part_bytes="30kB")), "--part-bytes", "10") == 2
    told = capsys.readouterr().err
    assert "--part-bytes 10: a part has a dozen files, so 1,000 bytes are the least" in " ".join(told.split())
