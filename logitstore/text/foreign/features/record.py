"""What a format of hidden states gives: records of tokens, each with the states of some layers at all of its positions.

Axes: R records, T tokens of a record, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput

LEFT_OUT = "-"
"""In a list of layers, one that is not wanted."""


class Reader(Protocol):
    """Reads records by their numbers."""

    def tokens(self) -> Iterator[tuple[int, Array]]:
        """Yield the number of every record, and its tokens, int64[T]. Raises BadInput: one cannot be read."""
        ...

    def states(self, record: int) -> Mapping[str, Tensor]:
        """Return the hidden states of a record, [T, D] of any float type, by the names of their taps. Raises BadInput."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A source of hidden states that is open.

    Attributes:
        widths: D of each tap, by its name.
        reader: reads the records.
    """

    widths: Mapping[str, int]
    reader: Reader


def layers_of(text: str | None, count: int, source: Path, usual: list[str] | None = None) -> list[str | None]:
    """Return the name of the tap of every kept layer, None for one that is left out.

    Args:
        text: what `--layers` says: a number of transformers' hidden_states, `final`, or `-` for each.
        count: of the layers that the source has.
        source: for messages.
        usual: the names, where the source tells them.

    Raises:
        BadInput: nothing is said where the source does not tell, or something that is no list of so many layers.
    """
    if text is None and usual is not None:
        return list(usual)
    if text is None:
        raise BadInput(
            f"{source}: it has the states of {count} layers and does not say of which. Say it: --layers 2,18,33,- (numbers of "
            "transformers' hidden_states, final for what goes into the output layer, - for one that is left out)."
        )
    pieces = [piece.strip() for piece in text.split(",")]
    wrong = next(
        (each for each in pieces if each not in (LEFT_OUT, "final") and not (each.isdecimal() and len(each) < 6)), None
    )
    names = [
        None if each == LEFT_OUT else "final" if each == "final" else f"hidden-{int(each)}"
        for each in pieces
        if wrong is None
    ]
    given = [name for name in names if name is not None]
    if wrong is not None or len(pieces) != count or not given or len(set(given)) != len(given):
        raise BadInput(
            f"--layers {text}: {source} has the states of {count} layers. Give a number, final or - for each, none of them "
            "twice."
        )
    return names
