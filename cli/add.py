"""`logitstore add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from logitstore_cli.options import Config, argument, option
from logitstore_cli.show import Bars, console, going_on, still_missing

from logitstore.core.registry import resolve
from logitstore.settings.dump import AddSettings
from logitstore.settings.recipe import load


def add(
    cache: Annotated[Path | None, argument(AddSettings, "cache")] = None,
    views: Annotated[str | None, option(AddSettings, "views")] = None,
    hidden: Annotated[str | None, option(AddSettings, "hidden")] = None,
    qkv: Annotated[str | None, option(AddSettings, "qkv")] = None,
    tap_codec: Annotated[str | None, option(AddSettings, "tap_codec")] = None,
    images: Annotated[str | None, option(AddSettings, "images")] = None,
    teacher: Annotated[str | None, option(AddSettings, "teacher")] = None,
    config: Config = None,
    device: Annotated[str | None, option(AddSettings, "device")] = None,
    pilot_rows: Annotated[int | None, option(AddSettings, "pilot_rows")] = None,
    parts: Annotated[str | None, option(AddSettings, "parts")] = None,
    workers: Annotated[int | None, option(AddSettings, "workers")] = None,
) -> None:
    """Add to a cache that is there already: features of the teacher, or to one of images more views.

    Tokens come from the cache; images are looked for where they were. What the cache holds is not touched. An interrupted
    command goes on where it stopped when it is given again.

    Example: logitstore add my-cache --hidden 1,final

    Example: logitstore add my-views --views 10-19
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    asked = load(AddSettings, "add", config, flags)
    with Bars() as progress, going_on(asked.cache):
        made = resolve("logitstore.dump.add:add")(asked, progress)
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
