"""What the data say of documents besides their text: the columns that are asked for, and their values as they are kept.

Axes: D documents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from logitstore.dump.files.spelling import Spell, as_json
from logitstore.errors import BadInput
from logitstore.format.data import GROUP, SCORE


@dataclass(frozen=True, kw_only=True)
class Said:
    """The columns that are read of each document.

    Attributes:
        scores: those with a number, which is kept by the name of its column.
        group: the one that says which documents belong together.
    """

    scores: tuple[str, ...] = ()
    group: str | None = None

    def __bool__(self) -> bool:
        return bool(self.scores) or self.group is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of the data, each once."""
        return tuple(dict.fromkeys([*self.scores, *([] if self.group is None else [self.group])]))

    @property
    def spells(self) -> dict[str, Spell]:
        """What keeps the values of the columns as text, where a file gives them no type."""
        return dict.fromkeys(self.columns, as_json)

    @property
    def fields(self) -> list[pa.Field]:
        """The columns in which the values are kept: float64 for a score, text for a group; null where there is none."""
        scores = [pa.field(SCORE + name, pa.float64()) for name in self.scores]
        return scores if self.group is None else [*scores, pa.field(GROUP, pa.string())]

    def arrays(self, values: dict[str, list[Any]], places: Sequence[str]) -> list[pa.Array]:
        """Return the values of some documents as arrays of `fields`, [D] each.

        Args:
            values: those of the data, by column.
            places: where each document stands, for messages.

        Raises:
            BadInput: a score is no finite number, or a group is neither a text nor a whole number; the message names it.
        """
        scores = [
            pa.array(
                [score_of(value, name, place) for value, place in zip(values[name], places, strict=True)], pa.float64()
            )
            for name in self.scores
        ]
        if self.group is None:
            return scores
        groups = [group_of(value, self.group, place) for value, place in zip(values[self.group], places, strict=True)]
        return [*scores, pa.array(groups, pa.string())]


NO_COLUMNS = Said()


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
