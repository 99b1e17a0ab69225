"""The ranks of a run end together, within seconds, with one line; what was saved is whole, and the run goes on from it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.train.loop.checkpoints import checkpoints, is_whole
from tests.parts.marks import often, rarely
from tests.parts.training import curve, plan_of, recipe_of, started_in, train_in
from tests.parts.warm import WarmProcess, free_port

pytestmark = pytest.mark.slow

SECONDS = 60.0
"""In which all ranks end, on a machine that is busy; gloo would wait for half an hour."""


def errors_of(ranks: list[WarmProcess]) -> list[str]:
    """Wait for the end of all ranks; return the lines that tell of errors."""
    began = time.monotonic()
    printed = [each.communicate(SECONDS) for each in ranks]
    assert time.monotonic() - began < SECONDS
    said = "".join(stderr for _, stderr in printed)
    assert "Traceback" not in said
    assert all(not stdout for stdout, _ in printed)
    # what comes before is the progress of the first rank
    return [line for line in said.splitlines() if line and not line.startswith(("note: ", "warning: ", "train: "))]


def test_what_every_rank_refuses_is_said_once(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    ranks = started_in(2, cache.path, "--student", small_student, "--out", tmp_path / "out", "--objective", "forward")
    (line,) = errors_of(ranks)
    assert line.startswith("error: no objective named 'forward'.")
    assert [each.returncode for each in ranks] == [2, 2]
    assert not (tmp_path / "out").exists()


def damaged(cache: logitstore.Cache, folder: Path) -> Path:
    """A copy of a cache in which the ids of every row are others."""
    copy = shutil.copytree(cache.path, folder / cache.path.name)
    for path in copy.glob("parts/*/rows.zarr/ids/c/**/*"):
        if path.is_file():
            path.write_bytes(b"\xff" * path.stat().st_size)
    return Path(copy)


@pytest.mark.parametrize("rank", often([1, 0], lambda rank: rank == 1))
def test_a_rank_that_fails_alone_ends_all_with_its_reason(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, rank: int
) -> None:
    """As where the disk of one machine is damaged."""
    plan = plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=20)
    recipes = [recipe_of(plan, tmp_path / f"{each}.json") for each in (0, 1)]
    recipe_of(plan.model_copy(update={"cache": damaged(cache, tmp_path)}), recipes[rank])
    port = str(free_port())
    ranks = [started_in(2, "--config", recipe, only=each, MASTER_PORT=port)[0] for each, recipe in enumerate(recipes)]
    (line,) = errors_of(ranks)
    assert line.startswith(f"error: rank {rank} of 2: {tmp_path / cache.path.name}: among the rows of the part")
    assert [each.returncode for each in ranks] == [2, 2]
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(("rank", "count"), [(1, 2), rarely(0, 2), rarely(2, 4), rarely(0, 4)])
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on_from_its_checkpoint(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, rank: int, count: int
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"student": str(small_student), "max_steps": 40, "save_every": 5, "evaluate_every": 20}
    recipe = recipe_of(plan_of(cache, out, **options, keep_checkpoints=99), tmp_path / "recipe.json")
    ranks = started_in(count, "--config", recipe)
    while not any(is_whole(folder) for folder in checkpoints(out)):
        assert ranks[0].poll() is None
        time.sleep(0.02)
    ranks[rank].kill()
    (line,) = errors_of(ranks)
    assert line.startswith(f"error: rank {rank} of {count}: it ended without a word")
    assert [each.returncode for each in ranks] == [-9 if each == rank else 2 for each in range(count)]
    assert not (out / "model.safetensors").exists()
    train_in(count, "--config", recipe, "--resume")
    whole = tmp_path / "whole"
    train_in(count, "--config", recipe, "--out", whole)
    assert curve(out) == curve(whole)
