"""`logitstore rank`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from logitstore_cli.show import Bars, Json, console, errors, say, say_json
from rich.table import Column, Table

from logitstore.core.progress import amount
from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.models.rank import RankSettings


def rank(settings: RankSettings, json: Json = False) -> None:
    """Compare students before they are trained: scores without training, and what a short training says. No teacher is loaded.

    Less is better in every column. The line under the table says how the order of each score agrees with that of the short
    trainings (Spearman's rank correlation, from -1 to 1): believe a score only as far as that.

    Example: logitstore rank my-cache --student ./small --student ./wide --fresh layers=2,hidden_size=64
    """
    with Bars() as progress:
        found = resolve("logitstore.train.candidates.rank:rank")(settings, progress, _tell)
    if json:
        say_json(
            {
                "students": [
                    {"student": each.student, "weights": each.weights, "seconds": round(each.seconds, 3)}
                    | {name: _known(value) for name, value in each.figures.items()}
                    for each in found.candidates
                ],
                "agreement": {name: _known(value) for name, value in found.agreement.items()},
                "steps": found.steps,
            }
        )
        return
    names = list(found.candidates[0].figures)
    table = Table("student", Column("weights", justify="right"), box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right")
    for each in found.candidates:
        table.add_row(each.student, f"{each.weights:,}", *(_shown(each.figures[name]) for name in names))
    console.print(table)
    if found.agreement:
        said = ", ".join(f"{name} {_shown(value, '+.2f')}" for name, value in found.agreement.items())
        say(f"agreement with the KL after {amount(found.steps, 'step')}: {said}")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value  # NaN is no JSON


def _shown(value: float, form: str = ".5g") -> str:
    return "unknown" if math.isnan(value) else f"{value:{form}}"


def _tell(text: str) -> None:
    errors.print(text, style="dim", highlight=False, soft_wrap=True)
