"""`logitstore push`, `logitstore pull` and `logitstore status`: caches between the local disk and an object store."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from logitstore_cli.show import Bars, Json, console, going_on, say, say_json, size
from rich.table import Table

from logitstore.core.place import split_scheme
from logitstore.core.progress import amount
from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.core.place import Place
    from logitstore.settings.stores.moving import CopySettings, PullSettings, PushSettings, StatusSettings

_TO_HUB = "logitstore.report.hub:push_to_hub"

_SHOWN = 100
"""Characters of a list of missing parts that are shown. --json has all of it."""


def push(settings: PushSettings) -> None:
    """Copy a cache into an object store, to the Hub, or anywhere else: the same files, each compared with its seal on the way.

    What is there already is not copied again, so the same command resumes an interrupted copy. A damaged part is named and
    left out, and the exit code is 1.

    Example: logitstore push my-cache s3://my-bucket/my-cache
    """
    _copy(settings, "push", settings.cache, settings.target)


def pull(settings: PullSettings) -> None:
    """Copy a cache from an object store into a folder: the same files, each compared with its seal on the way.

    What is there already is not copied again, so the same command resumes an interrupted copy. A damaged part is named and
    left out, and the exit code is 1.

    Example: logitstore pull s3://my-bucket/my-cache my-cache --parts 0-99
    """
    _copy(settings, "pull", settings.cache, settings.folder)


def status(settings: StatusSettings, json: Json = False) -> None:
    """Show how far a cache is: the parts that are there, missing and given up, the speed, and the time that is left.

    It reads the plan and lists the parts; no part is opened. A dump may be running, here or on other machines.

    Example: logitstore status s3://my-bucket/my-cache
    """
    found = resolve("logitstore.store.transfer.status:status")(settings.cache)
    ranges = resolve("logitstore.store.transfer.status:ranges")
    if json:
        say_json([asdict(each) | {"missing": ranges(each.missing)} for each in found])
        return
    table = Table("", "parts", "of", "rows", "of", "rows/s", "left", "last part", box=None, pad_edge=False)
    for each in found:
        about = "" if each.parts in (0, each.planned) else "about "
        table.add_row(
            each.name,
            f"{each.parts:,}",
            f"{each.planned:,}",
            f"{about}{each.rows:,}",
            f"{each.rows_planned:,}",
            "" if each.rows_per_second is None else f"{each.rows_per_second:,.0f}",
            _time(each.seconds_left),
            "" if each.idle_seconds is None else f"{_time(each.idle_seconds)} ago",
        )
    console.print(table, highlight=False)
    for each in found:
        of = "" if each.name == "cache" else f" of {each.name}"
        if each.missing:
            text = ranges(each.missing)
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN].rpartition(',')[0]},..."
            say(f"missing parts{of}: {shown} ({len(each.missing):,})")
        for part, reason in each.failed.items():
            say(f"given up: part {part:05d}: {reason}", style="red")
    if all(not each.missing for each in found):
        say("complete")


def _copy(settings: CopySettings, stage: str, source: Place, target: Place) -> None:
    parse_taps = resolve("logitstore.store.transfer.copy:parse_taps")
    extent = resolve("logitstore.store.transfer.copy:Extent")(
        parts=settings.parts, taps=parse_taps(settings.taps), streams=settings.streams
    )
    is_for_hub = split_scheme(target)[0] == "hf"
    if is_for_hub:
        resolve("logitstore.settings.tasks:refuse_set")(
            settings, ("streams",), "parts go to the Hub one after the other"
        )
    # to the Hub go commits, a card, and samples that people can look at
    copy = resolve(_TO_HUB if is_for_hub else "logitstore.store.transfer.copy:copy_cache")
    with Bars() as progress, going_on(target):
        found = copy(source, target, extent, progress, stage)
    for problem in found.damaged:
        say(f"not copied: {problem}", style="red")
    if found.others:
        shown = ", ".join(found.others[:5]) + (", ..." if len(found.others) > 5 else "")
        say(
            f"note: {amount(len(found.others), 'part')} of the same plan, there with other bytes, left as before: {shown}"
        )
    say(f"{target}: {_told(found)}")
    if found.damaged:
        raise typer.Exit(1)


def _told(found: Any) -> str:
    told = [f"{amount(found.copied, 'part')} copied, {size(found.bytes)}"]
    if found.there:
        told.append(f"{found.there:,} there already")
    if found.lacking:
        told.append(f"{found.lacking:,} not in the source")
    if found.damaged:
        told.append(f"{len(found.damaged):,} damaged in the source")
    return "; ".join(told)


def _time(seconds: float | None) -> str:
    """Return a time in the two units that people read."""
    if seconds is None:
        return ""
    for unit, length, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} {int(seconds % length // part)} {smaller}"
    return f"{seconds:.0f} s"
