"""`logitstore recode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from logitstore_cli.options import Config, argument, option
from logitstore_cli.show import Bars, console, going_on, say_made

import logitstore
from logitstore.core.registry import resolve
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.recipe import load


def recode(
    cache: Annotated[Path | None, argument(RecodeSettings, "cache")] = None,
    out: Annotated[Path | None, option(RecodeSettings, "out")] = None,
    config: Config = None,
    preset: Annotated[str | None, option(RecodeSettings, "preset")] = None,
    k: Annotated[int | None, option(RecodeSettings, "k", "-k", "--k")] = None,
    tail: Annotated[str | None, option(RecodeSettings, "tail")] = None,
    sketch_bytes: Annotated[int | None, option(RecodeSettings, "sketch_bytes")] = None,
    sparsifier: Annotated[str | None, option(RecodeSettings, "sparsifier")] = None,
    logprobs: Annotated[str | None, option(RecodeSettings, "logprobs")] = None,
    layout: Annotated[str | None, option(RecodeSettings, "layout")] = None,
) -> None:
    """Make a smaller cache, or one in another layout, from a cache. No teacher runs.

    From any cache of listed tokens: fewer of them, coarser logprobs, a plainer tail. From a cache of hidden states (preset
    exact): anything. From every cache: the archive layout and back.

    Example: logitstore recode my-cache --layout archive --out my-archive
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    asked = load(RecodeSettings, "recode", config, flags)
    with Bars() as progress, going_on(asked.out):
        made = resolve("logitstore.convert.recode:recode")(asked, progress)
    if left := ", ".join(logitstore.open(asked.cache).taps):
        console.print(
            f"not carried over: {left}; give `logitstore add {asked.out}` for them", highlight=False, soft_wrap=True
        )
    say_made(asked.out, made)
