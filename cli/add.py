"""`logitstore add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from logitstore_cli.options import Config, argument, option
from logitstore_cli.show import Bars, console, going_on, still_missing

from logitstore.plans import AddPlan
from logitstore.recipe import plan
from logitstore.registry import resolve


def add(
    cache: Annotated[Path | None, argument(AddPlan, "cache")] = None,
    views: Annotated[str | None, option(AddPlan, "views")] = None,
    hidden: Annotated[str | None, option(AddPlan, "hidden")] = None,
    qkv: Annotated[str | None, option(AddPlan, "qkv")] = None,
    tap_codec: Annotated[str | None, option(AddPlan, "tap_codec")] = None,
    images: Annotated[str | None, option(AddPlan, "images")] = None,
    teacher: Annotated[str | None, option(AddPlan, "teacher")] = None,
    config: Config = None,
    device: Annotated[str | None, option(AddPlan, "device")] = None,
    pilot_rows: Annotated[int | None, option(AddPlan, "pilot_rows")] = None,
    parts: Annotated[str | None, option(AddPlan, "parts")] = None,
    workers: Annotated[int | None, option(AddPlan, "workers")] = None,
) -> None:
    """Add to a cache that is there already: features of the teacher, or to one of images more views.

    Tokens come from the cache; images are looked for where they were. What the cache holds is not touched. An interrupted
    command goes on where it stopped when it is given again.

    Example: logitstore add my-cache --hidden 1,final

    Example: logitstore add my-views --views 10-19
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    asked = plan(AddPlan, "add", config, flags)
    with Bars() as progress, going_on(asked.cache):
        made = resolve("logitstore.add:add")(asked, progress)
    if made.manifest.view is not None:
        console.print(
            f"{asked.cache}: {made.manifest.views:,} views of {made.manifest.samples:,} images{still_missing(made)}",
            highlight=False,
            soft_wrap=True,
        )
    for name, tap in made.taps.items():
        console.print(
            f"{asked.cache}: {name}: {tap.info.bytes_per_row} B/row as {tap.info.codec}, "
            f"{len(tap.part_numbers)} of {tap.plan.parts} parts",
            highlight=False,
            soft_wrap=True,
        )
