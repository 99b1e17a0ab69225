"""`logitstore train`, and `logitstore recipes`, which lists the methods that it knows by name."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from logitstore_cli.show import Bars, console, errors, say
from rich.table import Column, Table

from logitstore.core.progress import no_progress
from logitstore.core.registry import resolve
from logitstore.errors import BadInput

if TYPE_CHECKING:
    from logitstore.settings.train import TrainSettings


def train(settings: TrainSettings) -> None:
    """Train a student from a cache. No teacher is loaded.

    Choose one --objective, or a published method by its name with --recipe (see logitstore recipes).

    The command works under torchrun. Other options of the transformers Trainer go into the setting `trainer` of a recipe.

    Example: logitstore train my-cache --student ./my-model --copy-layers 6 --out my-student
    """
    with resolve("logitstore.train.ranks.company:company")(), Bars() if _is_first() else nullcontext() as progress:
        try:
            figures = resolve("logitstore.train.train:train")(settings, progress or no_progress, _tell)
        except KeyboardInterrupt:
            _tell(
                f"interrupted. Add --resume to continue from the last checkpoint in {settings.out}, if one was saved."
            )
            raise
    resolve("logitstore.train.train:leave")()
    if not _is_first():
        return
    table = Table("figure", "value", box=None, pad_edge=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4f}" if value % 1 else f"{value:,.0f}")
    console.print(table)
    say(f"saved to {settings.out}")


def _is_first() -> bool:
    """Return whether this is the one process that prints, of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def _tell(text: str) -> None:
    if _is_first():
        errors.print(text, style="yellow" if text.startswith("warning") else "dim", highlight=False, soft_wrap=True)


def recipes(
    action: Annotated[
        str | None, typer.Argument(help="show prints one recipe. Default: list all.", metavar="[show]")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="The recipe to print.")] = None,
) -> None:
    """List the recipes of published methods for train --recipe, or print one as a file to edit.

    A recipe holds the settings of the paper. Options override them. The output of show can be saved, edited and used as
    --config.

    Example: logitstore recipes show taid
    """
    names = resolve("logitstore.settings.recipe:recipe_names")()
    if action is None:
        table = Table(Column("recipe", no_wrap=True), "what it is", "paper", "needs", box=None, pad_edge=False)
        for each in names:
            about = resolve("logitstore.settings.recipe:about")(each)
            table.add_row(each, about["method"], about["paper"].partition(", ")[0], about["needs"])
        console.print(table)
        return
    if action != "show":
        raise BadInput(f"recipes {action}: give `recipes` to list them, or `recipes show NAME` to print one.")
    if name is None:
        raise BadInput(f"recipes show needs the name of a recipe. Known: {', '.join(names)}.")
    print(resolve("logitstore.settings.recipe:named_recipe")(name).read_text(encoding="utf-8"), end="")
