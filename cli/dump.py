"""`logitstore dump`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from logitstore_cli.options import Config, option
from logitstore_cli.show import Bars, console, going_on, size, still_missing
from rich.table import Table

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.core.registry import resolve
from logitstore.report.shown import shown
from logitstore.settings.dump import DumpSettings
from logitstore.settings.recipe import load

VIEW_BYTES = 24
"""Of a view in `samples.arrow`."""


def dump(
    task: Annotated[str | None, option(DumpSettings, "task")] = None,
    teacher: Annotated[str | None, option(DumpSettings, "teacher")] = None,
    data: Annotated[str | None, option(DumpSettings, "data")] = None,
    out: Annotated[Path | None, option(DumpSettings, "out")] = None,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its size, and write nothing.")] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Print at the end how long each stage of writing parts took: on the teacher's thread, and behind it.",
        ),
    ] = False,
    split: Annotated[str | None, option(DumpSettings, "split")] = None,
    column: Annotated[str | None, option(DumpSettings, "column")] = None,
    domain_column: Annotated[str | None, option(DumpSettings, "domain_column")] = None,
    limit: Annotated[int | None, option(DumpSettings, "limit")] = None,
    max_length: Annotated[int | None, option(DumpSettings, "max_length")] = None,
    overlap: Annotated[int | None, option(DumpSettings, "overlap")] = None,
    views: Annotated[int | None, option(DumpSettings, "views")] = None,
    augment: Annotated[str | None, option(DumpSettings, "augment")] = None,
    image_size: Annotated[int | None, option(DumpSettings, "image_size")] = None,
    seed: Annotated[int | None, option(DumpSettings, "seed")] = None,
    label_column: Annotated[str | None, option(DumpSettings, "label_column")] = None,
    key_column: Annotated[str | None, option(DumpSettings, "key_column")] = None,
    labels: Annotated[bool | None, option(DumpSettings, "labels", "--labels/--no-labels")] = None,
    classes: Annotated[str | None, option(DumpSettings, "classes")] = None,
    prompt: Annotated[str | None, option(DumpSettings, "prompt")] = None,
    preset: Annotated[str | None, option(DumpSettings, "preset")] = None,
    k: Annotated[int | None, option(DumpSettings, "k", "-k", "--k")] = None,
    tail: Annotated[str | None, option(DumpSettings, "tail")] = None,
    sketch_bytes: Annotated[int | None, option(DumpSettings, "sketch_bytes")] = None,
    sparsifier: Annotated[str | None, option(DumpSettings, "sparsifier")] = None,
    top_p: Annotated[float | None, option(DumpSettings, "top_p")] = None,
    draws: Annotated[int | None, option(DumpSettings, "draws")] = None,
    logprobs: Annotated[str | None, option(DumpSettings, "logprobs")] = None,
    layout: Annotated[str | None, option(DumpSettings, "layout")] = None,
    hidden: Annotated[str | None, option(DumpSettings, "hidden")] = None,
    qkv: Annotated[str | None, option(DumpSettings, "qkv")] = None,
    tap_codec: Annotated[str | None, option(DumpSettings, "tap_codec")] = None,
    fidelity_rows: Annotated[int | None, option(DumpSettings, "fidelity_rows")] = None,
    dtype: Annotated[str | None, option(DumpSettings, "dtype")] = None,
    device: Annotated[str | None, option(DumpSettings, "device")] = None,
    samples_per_part: Annotated[int | None, option(DumpSettings, "samples_per_part")] = None,
    batch_tokens: Annotated[int | None, option(DumpSettings, "batch_tokens")] = None,
    batch_images: Annotated[int | None, option(DumpSettings, "batch_images")] = None,
    workers: Annotated[int | None, option(DumpSettings, "workers")] = None,
    parts: Annotated[str | None, option(DumpSettings, "parts")] = None,
    resume: Annotated[bool | None, option(DumpSettings, "resume", "--resume/--no-resume")] = None,
) -> None:
    """Run a teacher once over your data, and keep what it said.

    An interrupted dump goes on where it stopped when the same command is given again. Processes that are given disjoint
    --parts may write one cache at the same time.

    Example: logitstore dump --teacher ./my-model --data 'texts/*.jsonl' --out my-cache
    """
    flags = {name: value for name, value in locals().items() if name not in ("config", "dry_run", "profile")}
    asked = load(DumpSettings, "dump", config, flags)
    with Bars() as progress:
        if dry_run:
            prepared = resolve("logitstore.dump.task:prepare")(asked, progress)
            _print_plan(asked, prepared.manifest, resolve("logitstore.dump.dump:tap_bytes")(asked, prepared.config))
            return
        watch = Stopwatch() if profile else NO_STOPWATCH
        with going_on(asked.out):
            cache = resolve("logitstore.dump.dump:dump")(asked, progress, watch)
    if profile:
        _print_profile(watch)
    console.print(
        f"{asked.out}: {cache.rows:,} rows of {len(cache):,} samples, {cache.manifest.bytes_per_row} B/row"
        + still_missing(cache),
        highlight=False,
        soft_wrap=True,
    )


def _print_profile(watch: Stopwatch) -> None:
    """A line a stage of the parts that were written; the stages of the two threads run side by side."""
    if not watch.seconds:
        console.print("no part was left to write, so no stage was timed")
        return
    table = Table("stage", "thread", "seconds", "of forward", box=None, pad_edge=False)
    forward = watch.seconds.get(("teacher", "forward"), 0.0)
    for (thread, stage), seconds in sorted(watch.seconds.items(), key=lambda item: (item[0][0] != "teacher", -item[1])):
        table.add_row(stage, thread, f"{seconds:.2f}", f"{seconds / forward:.1%}" if forward else "")
    console.print(table)


def _print_plan(settings: DumpSettings, manifest: Any, tap_bytes: int) -> None:
    of_task = shown(manifest.task)
    bytes_per_row = manifest.bytes_per_row + tap_bytes
    rows = manifest.rows * manifest.views
    expected = rows * bytes_per_row + of_task.sample_bytes(manifest)
    of_taps = f", {tap_bytes} of them for taps" if tap_bytes else ""
    free = resolve("logitstore.store.storage:free_bytes")(settings.out)
    error = resolve("logitstore.dump.pilot_file:expected_error")(settings.out, manifest)
    for line in (
        *of_task.dry_run(settings, manifest),
        f"rows       {rows:,}, preset {manifest.preset}: {manifest.sparsifier.name}, tail {manifest.tail.shape}",
        f"parts      {manifest.parts:,} of up to {manifest.samples_per_part:,} samples",
        f"size       about {size(expected)} of rows and samples ({bytes_per_row} B/row{of_taps}); {size(free)} free there",
        f"error      {error or of_task.typical_error(manifest)}",
        f"nothing was written to {settings.out}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
