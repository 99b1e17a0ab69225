"""`logitstore select`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore_cli.show import Json, console, say, say_json
from rich.table import Table

from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.look import SelectSettings

_SHOWN = 20
"""Number of domains in the table, the largest ones. --json has all of them."""


def select(settings: SelectSettings, json: Json = False) -> None:
    """Choose samples to train on by their scores in caches. No model is loaded.

    The selection file is for train --select. It fits every cache of the same data.

    Example: logitstore select teacher-scores --reference small-scores --ratio 0.5 --out best-half.arrow
    """
    found = resolve("logitstore.select.select:select")(settings)
    if json:
        say_json(_plain(found))
        return
    console.print(_table(found))
    if len(found.domains) > 1:
        console.print(_domains(found))
    info = found.selection.info
    if found.rounding:
        say(
            f"note: {settings.cache} stores the {found.score} of a row in levels, up to {found.rounding:.3f} off; samples that "
            "are as near to each other as that may change places"
        )
    if found.selection.weight_M is not None:
        say("every sample has a weight, by which train --select multiplies its loss")
    if info.suggested_alpha is not None:
        say(f"suggested: train --alpha {info.suggested_alpha:.2f}, for the share kept")
    say(f"saved to {settings.out}")


def _plain(found: Any) -> dict[str, Any]:
    plain = {name: value for name, value in vars(found).items() if name not in ("selection", "domains")}
    return plain | {
        "domains": [vars(each) for each in found.domains],
        "selection": found.selection.info.model_dump(mode="json") | {"checksum": found.selection.checksum},
    }


def _table(found: Any) -> Table:
    chosen = found.selection.info.chosen
    table = Table("", "chosen", "of", "share", box=None, pad_edge=False)
    for name in ("samples", "rows", "tokens"):
        some, all_of_them = getattr(chosen, name), getattr(found, name)
        table.add_row(name, f"{some:,}", f"{all_of_them:,}", f"{some / max(all_of_them, 1):.1%}")
    if found.score is not None:
        left = "" if found.mean_left is None else f"{found.mean_left:.4f} left"
        table.add_row(f"mean {found.score}", "" if found.mean_chosen is None else f"{found.mean_chosen:.4f}", left, "")
    return table


def _domains(found: Any) -> Table:
    ranked = sorted(found.domains, key=lambda each: -each.all)
    title = f"domains, the largest {_SHOWN} of {len(ranked)}" if len(ranked) > _SHOWN else None
    table = Table("domain", "chosen", "of", "share", "share of all chosen", box=None, pad_edge=False, title=title)
    total = max(found.selection.info.chosen.samples, 1)
    for each in ranked[:_SHOWN]:
        name = "(none)" if each.name is None else each.name
        table.add_row(
            name, f"{each.chosen:,}", f"{each.all:,}", f"{each.chosen / each.all:.1%}", f"{each.chosen / total:.1%}"
        )
    return table
