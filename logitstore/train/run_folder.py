"""Keep beside a student how it was made, and find the checkpoint from which an interrupted run resumes."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from logitstore.errors import BadInput, refusal_of
from logitstore.models.load import pick_dtype
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.local_disk import sync_tree, write_whole

SUMMARY_NAME = "logitstore.json"

STATE_NAME = "trainer_state.json"


def conditions(settings: TrainSettings, world_size: int) -> dict[str, Any]:
    """Return what decides how training goes; a run resumes only under the same conditions."""
    freely_changed = {
        "cache",
        "out",
        "select",
        "resume",
        "images",
        "workers",
        "evaluate_every",
        "save_every",
        "trainer",
    }
    return {"world_size": world_size, "plan": settings.model_dump(mode="json", exclude=freely_changed)}


def with_precision(settings: TrainSettings) -> TrainSettings:
    """Return the settings with a number format in place of `auto`: that of the run that is resumed, else what fits the
    device."""
    if settings.precision != "auto":
        return settings
    before = _read_summary(settings.out / SUMMARY_NAME).get("plan", {}).get("precision") if settings.resume else None
    return settings.model_copy(update={"precision": before or pick_dtype("auto", settings.device)})


def checkpoint_of(settings: TrainSettings, world_size: int, cache: Cache, selection: str | None = None) -> str | None:
    """Return the checkpoint to resume from, if the plan asks for that; without --resume, refuse a folder with a run in it.

    A checkpoint that was cut off while it was written is passed over for the one before it.
    """
    newest = next((folder for folder in reversed(checkpoints(settings.out)) if is_whole(folder)), None)
    summary = _read_summary(settings.out / SUMMARY_NAME)
    if newest is not None and not summary:
        summary = _read_summary(newest / SUMMARY_NAME)
    if not settings.resume:
        if newest is not None or "figures" in summary:
            raise BadInput(
                f"--out {settings.out}: a run is there already. Choose another folder, or add --resume to continue it."
            )
        return None
    longer = "figures" in summary and is_longer(settings, summary.get("plan", {}))
    if "figures" in summary and not longer:
        raise BadInput(
            f"--resume: the run in {settings.out} is finished. Give a higher --max-steps or --epochs to go on with it, or "
            "choose another --out to train again."
        )
    if newest is None:
        raise BadInput(f"--resume: no whole checkpoint in {settings.out}. Leave --resume out to start again.")
    for name, now in conditions(settings, world_size)["plan"].items():
        if (before := summary.get("plan", {}).get(name, now)) != now and not (longer and name in LENGTH):
            raise BadInput(
                f"--resume: the run in {settings.out} began with {name} = {before}, not {now}. Give the same options."
            )
    for name, now in {"cache": cache.manifest.identity, "samples": len(cache), "selection": selection}.items():
        if (before := summary.get(name, now)) != now:
            what = "selection" if name == "selection" else "cache"
            raise BadInput(
                f"--resume: the run in {settings.out} began with {name} = {before}, not {now}. Give the same {what}."
            )
    if (before := summary.get("world_size", world_size)) != world_size:
        raise BadInput(
            f"--resume: the run in {settings.out} began on {before} processes, not {world_size}. Use as many."
        )
    return str(newest)


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


LENGTH = ("max_steps", "epochs")
"""Settings that say how long a run is."""


def is_longer(settings: TrainSettings, before: dict[str, Any]) -> bool:
    """Return whether a run goes on where one of a plan ended."""
    steps, epochs = before.get("max_steps", -1), before.get("epochs", settings.epochs)
    if settings.max_steps > 0:
        return bool(settings.max_steps > steps)
    return bool(steps < 0 and settings.epochs > epochs)


def check_schedule(checkpoint: Path, settings: TrainSettings, batch_size: int, batches: int) -> None:
    """Refuse a checkpoint that stands elsewhere in the data than this run would at its step, whatever is known of its plan.

    Args:
        checkpoint: the folder.
        settings: of this run.
        batch_size: samples in a batch of a process.
        batches: batches of an epoch, for each process.

    Raises:
        BadInput: the samples that the run has seen are not those of this schedule.
    """
    state = _read_summary(checkpoint / "trainer_state.json")
    updates = -(-batches // settings.accumulate)
    epochs, steps = divmod(int(state.get("global_step", 0)), updates)
    expected = epochs + min(steps * settings.accumulate, batches) / batches
    before = (state.get("train_batch_size") or batch_size, state.get("epoch", expected))
    if before[0] != batch_size or abs(before[1] - expected) > SLACK:
        raise BadInput(
            f"--resume: {checkpoint} was written in batches of {before[0]}, after {before[1]:.6g} epochs; with --batch-size "
            f"{settings.batch_size}, --accumulate {settings.accumulate} and as many processes as now, its step would be after "
            f"{expected:.6g}. Give the options that the run began with."
        )


SLACK = 1e-6
"""Rounding of a number of epochs."""


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write beside the student how it was made, and, once training is done, its figures."""
    write_whole(out / SUMMARY_NAME, json.dumps(_plain(summary), indent=1).encode())


def _plain(value: Any) -> Any:
    """Return a value with null in place of NaN, which JSON does not have; figures about labels are NaN where there are
    none."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
