"""`logitstore sidecar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from logitstore_cli.options import Config, argument, option
from logitstore_cli.show import Bars, console
from rich.table import Table

from logitstore.core.registry import resolve
from logitstore.settings.recipe import load
from logitstore.settings.train import SidecarSettings
from logitstore.store.cache import Cache


def sidecar(
    cache: Annotated[Path | None, argument(SidecarSettings, "cache")] = None,
    config: Config = None,
    of: Annotated[str | None, option(SidecarSettings, "of")] = None,
    tap: Annotated[str | None, option(SidecarSettings, "tap")] = None,
) -> None:
    """Gather something about all rows of a cache in one pass, and keep it beside them.

    What objectives need, such as the means of KD++, they gather themselves; this is for looking, or for other tools.

    Example: logitstore sidecar my-cache --of means --tap final
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    asked = load(SidecarSettings, "sidecar", config, flags)
    opened = Cache(asked.cache)
    if asked.of == "perplexity":
        table = Table("domain", "rows", "perplexity", box=None, pad_edge=False)
        for domain, (rows, value) in resolve("logitstore.train.sidecars:perplexity")(opened).items():
            table.add_row(domain or "(none)", f"{rows:,}", f"{value:,.2f}")
        console.print(table)
        return
    with Bars() as progress:
        found = resolve("logitstore.train.sidecars:sidecar")(opened, asked.of, asked.tap, progress)
    table = Table("tensor", "shape", "dtype", box=None, pad_edge=False)
    for name, value in found.items():
        table.add_row(name, " x ".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."))
    console.print(table)
    path = resolve("logitstore.train.sidecars:path_of")(opened, asked.of, asked.tap)
    console.print(f"kept in {path}" if path.is_file() else "not kept: the cache cannot be written", soft_wrap=True)
