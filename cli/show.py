"""Progress and lines on the terminal: a live bar where there is a terminal, else a line every few seconds."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from logitstore.core.progress import amount
from logitstore.core.tasks import task_of

if TYPE_CHECKING:
    from logitstore.core.place import Place
    from logitstore.core.progress import Step
    from logitstore.store.cache import Cache

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


class _PlainConsole(Console):
    """A console that shows control characters as text: what a file says never steers the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not _UNPRINTABLE.search(segment.text):
                yield segment
            else:
                yield Segment(escaped(segment.text), segment.style)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that turn the direction of writing, and halves of characters."""


def escaped(text: str) -> str:
    """Return a text with its unprintable characters written as in JSON, such as \\u001b for an escape."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


console = _PlainConsole(markup=False)
errors = _PlainConsole(stderr=True, markup=False)


def say_json(value: object, indent: int | None = 1) -> None:
    """Print a value as JSON, without characters that would steer a terminal."""
    sys.stdout.write(escaped(json.dumps(value, indent=indent, ensure_ascii=False)) + "\n")


def say(text: str, style: str | None = None) -> None:
    """Print one line of text, whatever the width of the terminal and without colours for its numbers."""
    console.print(text, style=style, highlight=False, soft_wrap=True)


_UNITS = {
    "tokenise": "documents",
    "prompts": "prompts",
    "generate": "prompts",
    "windows": "documents",
    "check the images": "images",
    "pilot": "rows",
    "pilot of taps": "rows",
    "dump": "rows",
    "add": "rows",
    "prune": "batches",
    "gather": "batches",
    "rank": "batches",
    "train": "steps",
    "evaluate": "batches",
    "ask again": "batches",
    "verify": "parts",
    "check": "parts",
    "compare": "parts",
    "push": "parts",
    "pull": "parts",
    "recode": "rows",
    "merge": "rows",
    "mean of vectors": "parts",
    "copy of vectors": "parts",
    "index": "samples",
    "convert": "rows",
    "export": "rows",
    "judge": "rows",
    "encode anew": "samples",
}
_QUIET_SECONDS = 10.0


class Bars:
    """The progress of long work on the error stream, one bar for each stage. It is called with each step."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=errors,
            disable=not self._live,
        )
        self._tasks: dict[str, object] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._printed: dict[str, float] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        began, done_before = self._began.setdefault(step.stage, (now, step.done))
        rate = (step.done - done_before) / (now - began) if now > began else 0.0
        unit = _UNITS.get(step.stage, "steps")
        note = " ".join(
            filter(
                None,
                [
                    f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2f} {unit}/s" if rate else "",
                    f"part {step.part:05d}" if step.part is not None else "",
                    step.note,
                ],
            )
        )
        if step.note and step.stage not in _UNITS:
            errors.print(f"{step.stage}: {step.note}", highlight=False, soft_wrap=True)
        elif self._live:
            self._show(step, note)
        elif step.stage not in _UNITS:
            errors.print(f"{step.stage} ...", highlight=False)
        elif (
            step.is_news
            or 0 < step.total <= step.done
            or now - self._printed.setdefault(step.stage, now) >= _QUIET_SECONDS
        ):
            self._printed[step.stage] = now
            rest = f", {note}" if note else ""
            left = f", {(step.total - step.done) / rate:,.0f} s left" if rate and step.done < step.total else ""
            known = f" of {step.total:,}" if step.total else ""
            line = f"{step.stage}: {step.done:,}{known} {unit}{rest}{left}"
            errors.print(line, highlight=False, soft_wrap=True)

    def _show(self, step: Step, note: str) -> None:
        if step.stage not in self._tasks:
            self._tasks[step.stage] = self._bars.add_task(step.stage, total=step.total or None, note="")
        self._bars.update(self._tasks[step.stage], completed=step.done, total=step.total or None, note=note)  # type: ignore[arg-type]


@contextmanager
def going_on(out: Place) -> Iterator[None]:
    """At Ctrl-C, print which parts of the cache are kept. For commands that write parts."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print(
            f"interrupted. {out} keeps every part written so far; give the same command again to resume.",
            soft_wrap=True,
        )
        raise


def say_made(out: Place, made: Cache) -> None:
    """Print what was made from other caches, and the bytes of a row."""
    keeps = task_of(made.manifest.task).keeps
    of_vectors = 0 if keeps is None else made.taps[keeps].index.bytes_below("")
    on_disk = (made.index.bytes_below("") + of_vectors) / max(made.rows, 1)
    say(
        f"{out}: {amount(made.rows, 'row')} of {amount(len(made), 'sample')}, {on_disk:.1f} B/row on disk with their samples"
    )


def still_missing(cache: Cache) -> str:
    """Return the end of a line about a cache: how many parts are still to be written, or "complete"."""
    missing = max(cache.manifest.parts - len(cache.part_numbers), cache.taps.lacking)
    return f"; {missing:,} of {amount(cache.manifest.parts, 'part')} still to be written" if missing else ", complete"


def size(count: float) -> str:
    """Return a number of bytes in a unit that people read."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
