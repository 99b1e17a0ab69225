"""The checkpoints of a run: which of them are whole, and how a student is saved whole beside them."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors

from logitstore.errors import refusal_of
from logitstore.store.local_disk import sync_tree

STATE_NAME = "trainer_state.json"


def checkpoints(out: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, whole or not, by their steps."""
    found = [path for path in out.glob("checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda folder: int(folder.name[11:]))


def is_whole(checkpoint: Path) -> bool:
    """Say whether all files of a checkpoint are there to their ends. transformers writes `trainer_state.json` last."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    return (checkpoint / STATE_NAME).is_file() and all(_is_whole_file(path) for path in files)


def _is_whole_file(path: Path) -> bool:
    if path.suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return False
    elif path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, "numpy"):
                pass
        except safetensors.SafetensorError as error:
            if refusal_of(error) is not None:
                raise
            return False
    elif path.suffix in (".pt", ".pth", ".bin"):
        # a zip, whose table of contents stands at its end
        return zipfile.is_zipfile(path)
    return True


def drop_cut_off(out: Path) -> None:
    """Remove the checkpoints that are not whole, such as the one that no longer fitted on the disk."""
    for folder in checkpoints(out):
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


def keep_newest(out: Path, count: int, best: str | None) -> list[Path]:
    """Remove all checkpoints but the newest, and the best where one is known: a longer run may end with it. With a count of
    0 remove that too. Return those that stay."""
    found = checkpoints(out)
    stay = set(found[max(len(found) - count, 0) :])
    if count and best is not None:
        stay |= {folder for folder in found if folder.name == Path(best).name}
    for folder in found:
        if folder not in stay:
            shutil.rmtree(folder, ignore_errors=True)
    return [folder for folder in found if folder in stay]


@contextmanager
def whole_student(out: Path, is_writer: bool) -> Iterator[Path]:
    """Give a folder beside the checkpoints to save a student in; its files move to `out` when all of them are written.

    Args:
        out: folder of the run.
        is_writer: whether this process is the one that writes.
    """
    aside = out / ".student"
    if is_writer:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    try:
        yield aside
        if is_writer:
            sync_tree(aside)
            for path in sorted(path for path in aside.rglob("*") if path.is_file()):
                target = out / path.relative_to(aside)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    finally:
        if is_writer:
            shutil.rmtree(aside, ignore_errors=True)
