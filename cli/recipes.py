"""`logitstore recipes`."""

from __future__ import annotations

from typing import Annotated

import typer
from logitstore_cli.show import console
from rich.table import Column, Table

from logitstore.errors import BadInput
from logitstore.settings.recipe import about, named_recipe, recipe_names


def recipes(
    action: Annotated[str | None, typer.Argument(help="Nothing to list them all, or show.", metavar="[show]")] = None,
    name: Annotated[str | None, typer.Argument(help="With show: the recipe to print.")] = None,
) -> None:
    """List the methods that train --recipe knows by name, or print one as a file to edit.

    A recipe holds the paper's settings. Flags override it; what show prints can be saved, changed and given as --config.

    Example: logitstore recipes show taid
    """
    if action is None:
        table = Table(Column("recipe", no_wrap=True), "what it is", "paper", "needs", box=None, pad_edge=False)
        for each in recipe_names():
            said = about(each)
            table.add_row(each, said["method"], said["paper"].partition(", ")[0], said["needs"])
        console.print(table)
        return
    if action != "show":
        raise BadInput(f"recipes {action}: say `recipes` to list them, or `recipes show NAME` to print one.")
    if name is None:
        raise BadInput(f"recipes show needs the name of a recipe. Known: {', '.join(recipe_names())}.")
    print(named_recipe(name).read_text(encoding="utf-8"), end="")
