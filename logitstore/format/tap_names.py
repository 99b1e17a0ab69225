"""The names of taps: the features of a teacher that can be stored, and the options that choose them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from logitstore.errors import BadInput

FINAL = "final"
"""Name of the tap with the input of the output layer."""


ATTENTION = ("query", "key", "value")
"""Kinds of taps with the inputs of a layer's attention."""


PATTERN = r"^(final|hidden-(0|[1-9][0-9]*)|(query|key|value)-[1-9][0-9]*)$"
"""Pattern of all valid names; the names become names of folders."""


_PIECE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


def layer_of(name: str) -> int | None:
    """Return the layer number in a name; None for `final`."""
    return None if name == FINAL else int(name.partition("-")[2])


def names_of(hidden: str | None, qkv: str | None, layers: int, *, at_places: bool = False) -> list[str]:
    """Return the names of the taps that `--hidden` and `--qkv` name: hidden states first, each kind by rising layer.

    Args:
        hidden: numbers, ranges and `final`, such as `0,4,8-12,final`, or `all`; 0 is the embedding.
        qkv: numbers and ranges of decoder layers, from 1, such as `4,30`, or `all`.
        layers: count of layers of the teacher.
        at_places: True where `final` is what a classifier's output layer takes: what the last layer gives then has its number.

    Raises:
        BadInput: an option is not such a list, or names layers that the teacher does not have.
    """
    names: list[str] = []
    if hidden is not None:
        last = "" if at_places else f"the last of the {layers} layers is named final: write --hidden final."
        numbers, has_final = _numbers("--hidden", hidden, range(layers + at_places), last)
        names += [f"hidden-{number}" for number in numbers] + [FINAL] * has_final
    if qkv is not None:
        numbers, _ = _numbers("--qkv", qkv, range(1, layers + 1), None)
        names += [f"{kind}-{number}" for number in numbers for kind in ATTENTION]
    return names


def flags_for(names: Iterable[str]) -> str:
    """Return the options of `logitstore add`, with values, that add the named taps."""
    hidden = sorted({name for name in names if name.partition("-")[0] not in ATTENTION}, key=_place)
    attention = sorted({layer_of(name) or 0 for name in names if name.partition("-")[0] in ATTENTION})
    flags = [f"--hidden {','.join(name.removeprefix('hidden-') for name in hidden)}"] if hidden else []
    return " ".join([*flags, *([f"--qkv {','.join(map(str, attention))}"] if attention else [])])


def _place(name: str) -> float:
    number = layer_of(name)
    return math.inf if number is None else number


def _numbers(flag: str, text: str, allowed: range, last: str | None) -> tuple[list[int], bool]:
    """Return the numbers in `text`, ascending, and True if it contains `final`.

    Args:
        flag: name of the option, for messages.
        text: value of the option.
        allowed: the numbers that the teacher has.
        last: hint for the number just above `allowed`, empty for none; None if `final` is not allowed.
    """
    chosen: set[int] = set()
    has_final = False
    for piece in (piece.strip() for piece in text.split(",")):
        if piece == "all":
            chosen |= set(allowed)
            has_final = last is not None
        elif piece == FINAL and last is not None:
            has_final = True
        elif (match := _PIECE.fullmatch(piece)) is not None:
            first, stop = int(match[1]), int(match[2] or match[1])
            if last and stop == allowed.stop:
                raise BadInput(f"{flag} {text}: {last}")
            if not allowed.start <= first <= stop < allowed.stop:
                raise BadInput(
                    f"{flag} {text}: the teacher has {allowed.start} to {allowed.stop - 1}; {piece} is not there."
                )
            chosen |= set(range(first, stop + 1))
        else:
            also = ", final" if last is not None else ""
            raise BadInput(f"{flag} '{text}': write numbers{also} and ranges, such as 4,8-12{also}, or all.")
    return sorted(chosen), has_final
