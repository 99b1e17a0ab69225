"""Define how a weight or a temperature changes while a student trains: a pure function of the share of the run that is
done."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from logitstore.errors import BadInput

_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*"


_FORM = re.compile(rf"\s*([a-z]+)\({_NUMBER},{_NUMBER}\)\s*")


def _linear(first: float, last: float, done: float) -> float:
    return first + (last - first) * done


def _cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def _warmup(value: float, share: float, done: float) -> float:
    return value * min(done / share, 1.0) if share else value


SHAPES: dict[str, Callable[[float, float, float], float]] = {"linear": _linear, "cosine": _cosine, "warmup": _warmup}
"""The shapes by name, with two arguments each: linear(first, last), cosine(first, last), warmup(value, share of the run)."""


WAYS = "a number, linear(first, last), cosine(first, last) or warmup(value, share of the run)"


@dataclass(frozen=True)
class Schedule:
    """A schedule is a number that may change over a run.

    Attributes:
        shape: a name from SHAPES, or "constant".
        first, second: arguments of the shape; for "constant" the value, twice.
    """

    shape: str
    first: float
    second: float

    @classmethod
    def of(cls, value: float | str) -> Schedule:
        """Return the schedule of a number, or of text such as `linear(1, 0.2)`.

        Raises:
            BadInput: the text is neither, or a number is not finite.
        """
        if isinstance(value, (int, float)) or re.fullmatch(_NUMBER, value):
            shape, first, second = "constant", float(value), float(value)
        elif (match := _FORM.fullmatch(value)) is not None and match[1] in SHAPES:
            shape, first, second = match[1], float(match[2]), float(match[3])
        else:
            raise BadInput(f"'{value}' is no schedule. Write {WAYS}.")
        if not (math.isfinite(first) and math.isfinite(second)):
            raise BadInput(f"'{value}' is not finite. Write {WAYS}.")
        if shape == "warmup" and second > 1:
            raise BadInput(f"'{value}': the share of the run is from 0 to 1, not {second:g}.")
        return cls(shape, first, second)

    def at(self, done: float) -> float:
        """Return the value when the share `done` of the run, from 0 to 1, is over."""
        if self.shape == "constant":
            return self.first
        return SHAPES[self.shape](self.first, self.second, done)

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest value of the schedule."""
        ends = (0.0, self.first) if self.shape == "warmup" and self.second else (self.first, self.first)
        if self.shape in ("linear", "cosine"):
            ends = (self.first, self.second)
        return min(ends), max(ends)


BY_ROW = ("entropy", "nll")
"""What is stored of every row and may decide its temperature."""


_RULE = re.compile(rf"\s*(entropy|nll|column:[^()]+)\({_NUMBER},{_NUMBER}\)\s*")


RULES = "entropy(first, last), nll(first, last) or column:NAME(first, last)"


@dataclass(frozen=True)
class RowRule:
    """A row rule is a number of each row: first + (last - first) u, where u, from 0 to 1, is known of the row.

    Attributes:
        by: `entropy` (u is the entropy of the teacher's answer over the largest there can be), `nll` (u is 1 minus the
            teacher's probability of the gold token), or `column` (u is a score of the sample).
        first, last: the numbers where u is 0 and 1.
        column: name of the score; empty for the others.
    """

    by: str
    first: float
    last: float
    column: str = ""

    @classmethod
    def of(cls, value: float | str) -> RowRule | None:
        """Return the rule that a text such as `entropy(1, 4)` spells; None for anything else."""
        match = _RULE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return None
        by, _, column = match[1].partition(":")
        return cls(by, float(match[2]), float(match[3]), column.strip())

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest number."""
        return min(self.first, self.last), max(self.first, self.last)


def scheduled(value: float | str) -> Schedule | RowRule:
    """Return the rule or the schedule that a value spells.

    Raises:
        BadInput: it is neither.
    """
    return RowRule.of(value) or Schedule.of(value)
