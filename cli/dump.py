"""`logitstore dump` and `logitstore add`: the commands that run a teacher and write its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from logitstore_cli.show import Bars, console, going_on, say, size, still_missing
from rich.table import Table

from logitstore.core.progress import NO_STOPWATCH, Stopwatch, amount
from logitstore.core.registry import resolve
from logitstore.core.tasks import facet, task_of
from logitstore.errors import BadInput

if TYPE_CHECKING:
    from logitstore.settings.dump import AddSettings, DumpSettings

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be written and its size, and write nothing.")]
Show = Annotated[
    int,
    typer.Option(
        "--show",
        min=0,
        metavar="N",
        help="With --dry-run, also print this many samples as the teacher will see them: which tokens have rows, and which are "
        "context only.",
        show_default=False,
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Print the seconds of each stage of writing, on the thread of the teacher and on the one behind it.",
    ),
]


def dump(settings: DumpSettings, dry_run: DryRun = False, show: Show = 0, profile: Profile = False) -> None:
    """Run a teacher once over your data, and store its answers in a cache.

    The same command resumes an interrupted dump. Several processes can write one cache at the same time: --processes starts
    them on this machine, --cluster on many, and those that are started one by one take other --parts.

    Example: logitstore dump --teacher ./my-model --data 'texts/*.jsonl' --out my-cache
    """
    if show and not dry_run:
        raise BadInput(f"--show {show}: only --dry-run uses it. Give both.")
    if profile and settings.is_shared:
        raise BadInput(
            f"--profile: it times one process. Leave out --{'cluster' if settings.cluster else 'processes'}."
        )
    with Bars() as progress:
        if dry_run:
            prepared = resolve("logitstore.dump.dump:planned")(settings, progress)
            _print_samples(prepared, show)
            taps = resolve("logitstore.dump.taps:tap_bytes")(settings, prepared.config, prepared.places)
            _print_plan(settings, prepared.manifest, taps)
            return
        watch = Stopwatch() if profile else NO_STOPWATCH
        with going_on(settings.out):
            cache = resolve("logitstore.dump.dump:dump")(settings, progress, watch)
    if profile:
        _print_profile(watch)
    keeps = task_of(cache.manifest.task).keeps
    of_a_row = cache.manifest.bytes_per_row + (0 if keeps is None else cache.taps[keeps].info.bytes_per_row)
    say(
        f"{settings.out}: {amount(cache.rows, 'row')} of {amount(len(cache), 'sample')}, {of_a_row} B/row, "
        f"teacher in {cache.manifest.teacher.dtype}" + still_missing(cache)
    )


def add(settings: AddSettings) -> None:
    """Add features of the teacher, or more views of images, to a cache.

    Tokens come from the cache, images from where they were during the dump. What the cache holds is not changed. The same
    command resumes an interrupted one. To add views: logitstore add my-views --views 10-19

    Example: logitstore add my-cache --hidden 1,final
    """
    with Bars() as progress, going_on(settings.cache):
        made = resolve("logitstore.dump.add:add")(settings, progress)
    if (samples := facet(made.manifest.task, "shown").added(made)) is not None:
        say(f"{settings.cache}: {samples}{still_missing(made)}")
    for name, tap in made.taps.items():
        say(
            f"{settings.cache}: {name}: {tap.info.bytes_per_row} B/{tap.info.unit} as {tap.info.codec}, "
            f"{len(tap.part_numbers)} of {amount(tap.plan.parts, 'part')}"
        )


def _print_profile(watch: Stopwatch) -> None:
    """Print the seconds of each stage. The stages of the two threads run at the same time."""
    if not watch.seconds:
        console.print("no part was left to write, so no stage was timed")
        return
    table = Table("stage", "thread", "seconds", "of forward", box=None, pad_edge=False)
    forward = watch.seconds.get(("teacher", "forward"), 0.0)
    for (thread, stage), seconds in sorted(watch.seconds.items(), key=lambda item: (item[0][0] != "teacher", -item[1])):
        table.add_row(stage, thread, f"{seconds:.2f}", f"{seconds / forward:.1%}" if forward else "")
    console.print(table)


def _print_samples(prepared: Any, count: int) -> None:
    """Print the first samples as the teacher will see them."""
    if count and prepared.show is None:
        raise BadInput(f"--show {count}: it means nothing to --task {prepared.manifest.task}. Leave it out.")
    for number in range(min(count, prepared.manifest.samples)):
        for line in prepared.show(number):
            say(line)


def _print_plan(settings: DumpSettings, manifest: Any, tap_bytes: int) -> None:
    shown = facet(manifest.task, "shown")
    bytes_per_row = manifest.bytes_per_row + tap_bytes
    rows = manifest.rows * manifest.views
    expected = rows * bytes_per_row + shown.sample_bytes(manifest)
    in_a_part = min(manifest.samples_per_part, manifest.samples)
    of_a_part = resolve("logitstore.dump.begin:bytes_of_samples")(manifest, tap_bytes, in_a_part)
    of_taps = f", {tap_bytes} of them for taps" if tap_bytes else ""
    free = resolve("logitstore.store.storage:free_bytes")(settings.out)
    room = "no limit" if free is None else f"{size(free)} free"
    error = resolve("logitstore.dump.pilot_file:expected_error")(settings.out, manifest)
    for line in (
        *shown.dry_run(manifest),
        f"rows       {rows:,}, preset {manifest.preset}: {manifest.sparsifier.name}, tail {manifest.tail.shape}",
        f"parts      {manifest.parts:,} of up to {amount(manifest.samples_per_part, 'sample')}, about {size(of_a_part)} each",
        f"size       about {size(expected)} of rows and samples ({bytes_per_row} B/row{of_taps}); {room} there",
        f"error      {error or shown.typical_error(manifest)}",
        f"nothing was written to {settings.out}",
    ):
        say(line)
