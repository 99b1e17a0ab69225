"""The values of columns of scores and groups, as they are kept.

Axes: D documents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from logitstore.dump.files.spelling import Spell, as_json
from logitstore.errors import BadInput
from logitstore.text.scored.said import Said


def spells_of(said: Said) -> dict[str, Spell]:
    """Return what keeps the values of the columns as text, where a file gives them no type."""
    return dict.fromkeys(said.columns, as_json)


def arrays_of(said: Said, values: dict[str, list[Any]], places: Sequence[str]) -> list[pa.Array]:
    """Return the values of some documents as arrays of `Said.fields`, [D] each.

    Args:
        said: the columns.
        values: those of the data, by column.
        places: where each document stands, for messages.

    Raises:
        BadInput: a score is no finite number, or a group is neither a text nor a whole number; the message names it.
    """
    scores = [
        pa.array(
            [score_of(value, name, place) for value, place in zip(values[name], places, strict=True)], pa.float64()
        )
        for name in said.scores
    ]
    if said.group is None:
        return scores
    groups = [group_of(value, said.group, place) for value, place in zip(values[said.group], places, strict=True)]
    return [*scores, pa.array(groups, pa.string())]


def score_of(value: Any, column: str, place: str) -> float | None:
    """Return a score as a number: true is 1, false is 0, and a text that spells a number is that number. None, an empty text
    and NaN are no score.

    Raises:
        BadInput: it is infinite, or no number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = _number(value)
    if number is None or math.isinf(number):
        raise BadInput(
            f"{place}: column '{column}' holds {value!r:.40}, which is no finite number. Mend it, or leave it empty where "
            "there is no score."
        )
    return None if math.isnan(number) else number


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        value = {"true": 1, "false": 0}.get(text.lower(), text.replace("_", "?"))
    if isinstance(value, (list, dict, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def group_of(value: Any, column: str, place: str) -> str | None:
    """Return the name of a group: a text as it is, a whole number in decimal digits. None and an empty text are no group.

    Raises:
        BadInput: it is something else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and not _is_nested(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadInput(
        f"{place}: column '{column}' holds {value!r:.40}, which names no group. Give a text or a whole number, or leave it "
        "empty where a text belongs to none."
    )


def _is_nested(text: str) -> bool:
    """Return True for the JSON of a list or an object, which is what a value of these becomes where a file gives no types."""
    if text[:1] not in "[{":
        return False
    try:
        return isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        return False
