"""`logitstore train`, and `logitstore recipes`, the methods it knows by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from logitstore_cli.show import Bars, console, errors
from rich.table import Column, Table

from logitstore.core.registry import resolve
from logitstore.errors import BadInput

if TYPE_CHECKING:
    from logitstore.settings.train import TrainSettings


def train(settings: TrainSettings) -> None:
    """Fit a student from a cache. No teacher is loaded.

    What pulls the student is one --objective, or a method by its name with --recipe (see logitstore recipes).

    Works under torchrun; everything else that the transformers Trainer can do goes into the `trainer` setting of a recipe.

    Example: logitstore train my-cache --student ./my-model --copy-layers 6 --out my-student
    """
    with Bars() as progress:
        try:
            figures = resolve("logitstore.train.train:train")(settings, progress, _tell)
        except KeyboardInterrupt:
            errors.print(
                f"interrupted. Add --resume to go on from the last checkpoint in {settings.out}, if one was saved.",
                soft_wrap=True,
            )
            raise
    if os.environ.get("RANK", "0") != "0":
        return
    table = Table("figure", "value", box=None, pad_edge=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4f}" if value % 1 else f"{value:,.0f}")
    console.print(table)
    console.print(f"saved to {settings.out}", highlight=False, soft_wrap=True)


def _tell(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        errors.print(text, style="yellow" if text.startswith("warning") else "dim", highlight=False, soft_wrap=True)


def recipes(
    action: Annotated[str | None, typer.Argument(help="Nothing to list them all, or show.", metavar="[show]")] = None,
    name: Annotated[str | None, typer.Argument(help="With show: the recipe to print.")] = None,
) -> None:
    """List the methods that train --recipe knows by name, or print one as a file to edit.

    A recipe holds the paper's settings. Flags override it; what show prints can be saved, changed and given as --config.

    Example: logitstore recipes show taid
    """
    names = resolve("logitstore.settings.recipe:recipe_names")()
    if action is None:
        table = Table(Column("recipe", no_wrap=True), "what it is", "paper", "needs", box=None, pad_edge=False)
        for each in names:
            said = resolve("logitstore.settings.recipe:about")(each)
            table.add_row(each, said["method"], said["paper"].partition(", ")[0], said["needs"])
        console.print(table)
        return
    if action != "show":
        raise BadInput(f"recipes {action}: say `recipes` to list them, or `recipes show NAME` to print one.")
    if name is None:
        raise BadInput(f"recipes show needs the name of a recipe. Known: {', '.join(names)}.")
    print(resolve("logitstore.settings.recipe:named_recipe")(name).read_text(encoding="utf-8"), end="")
