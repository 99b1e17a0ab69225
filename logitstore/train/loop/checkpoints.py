"""The checkpoints of a run: which of them are whole, and how a student is saved whole beside them."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from logitstore.core.place import below, matching
from logitstore.errors import BadInput, refusal_of
from logitstore.store.local_disk import sync_tree
from logitstore.train.ranks.schedule import Schedule

STATE_NAME = "trainer_state.json"


SUMMARY_NAME = "logitstore.json"
"""The file that says how a student was made, beside it and in every checkpoint."""


def checkpoints(out: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, whole or not, by their steps."""
    found = [path for path in matching(out, "checkpoint-*") if path.name[11:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda folder: int(folder.name[11:]))


_STATES = (("optimizer", "global_step"), ("scheduler", "global_step"), ("rng_state",))
"""How the files begin that a run goes on from beside its weights, of each line one. DeepSpeed keeps all in a folder."""


def is_whole(checkpoint: Path) -> bool:
    """Say whether the weights of a checkpoint are there, all or none of the states beside them, and all files to their ends.

    transformers writes `trainer_state.json` last. A checkpoint without any other state was meant to hold the student alone.
    """
    found = list(below(checkpoint))
    files = [path for path in found if path.is_file()]
    states = [any(path.name.startswith(names) for path in found) for names in _STATES]
    has_weights = any(path.suffix in (".safetensors", ".bin") and path.name != "training_args.bin" for path in files)
    is_saved = (checkpoint / STATE_NAME).is_file() and (
        has_weights or any(p.name.startswith("global_step") for p in found)
    )
    return is_saved and len(set(states)) == 1 and all(_is_whole_file(path) for path in files)


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
        # a zip, whose table of contents stands at its end; read here, because zipfile takes a refusal for another kind of file
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _ENDS_WITHIN, 0))
            return zipfile.is_zipfile(io.BytesIO(file.read()))
    return True


_ENDS_WITHIN = 1 << 17
"""Bytes in which a zip has the end of its table of contents, with a comment of any length."""


def drop_cut_off(out: Path) -> None:
    """Remove the checkpoints that are not whole, such as the one that no longer fitted on the disk."""
    for folder in checkpoints(out):
        if not is_whole(folder):
            shutil.rmtree(folder, ignore_errors=True)


SLACK = 1e-6
"""Rounding of a number of epochs."""


def check_schedule(checkpoint: Path, schedule: Schedule) -> None:
    """Refuse a checkpoint that stands elsewhere in the data than this run would at its step, whatever is known of its plan.

    Args:
        checkpoint: the folder.
        schedule: of this run.

    Raises:
        BadInput: the samples that the run has seen are not those of this schedule.
    """
    state, here = state_of(checkpoint), schedule
    step, before = int(state.get("global_step", 0)), state.get("train_batch_size") or here.batch_size
    given = _content(checkpoint / SUMMARY_NAME).get("batches_given")
    # a checkpoint of an older version knows its epoch alone
    unit, expected = ("epochs", here.epochs(step)) if given is None else ("batches", float(here.given(step)))
    stands = float(state.get("epoch", expected) if given is None else given)
    if before != here.batch_size or abs(stands - expected) > SLACK:
        raise BadInput(
            f"--resume: {checkpoint} was written in batches of {before}, after {stands:.6g} {unit}; with --batch-size "
            f"{here.batch_size}, --accumulate {here.accumulate} and {here.world_size} "
            f"{'process' if here.world_size == 1 else 'processes'}, its step would be after {expected:.6g}. "
            "Give the options that the run began with."
        )


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return what the Trainer keeps in a checkpoint; empty where that cannot be read."""
    return _content(checkpoint / STATE_NAME)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
            for path in [path for path in below(aside) if path.is_file()]:
                target = out / path.relative_to(aside)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    finally:
        if is_writer:
            shutil.rmtree(aside, ignore_errors=True)
