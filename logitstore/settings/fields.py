"""The kinds of values that settings have: paths, models, numbers that may follow a schedule."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from logitstore.core.schedule import Schedule
from logitstore.errors import BadInput
from logitstore.format.row_kinds import check_sparsifier


def _scheduled(said: Any) -> Any:
    """A number as a number, also where it comes as text; a schedule as its text."""
    if not isinstance(said, (str, int, float)) or isinstance(said, bool):
        return said
    try:
        schedule = Schedule.of(said)
    except BadInput as error:
        raise ValueError(str(error)) from error
    return schedule.first if schedule.shape == "constant" else said


def _scheduled_or_balanced(said: Any) -> Any:
    return said if said == "balanced" else _scheduled(said)


def _a_share(value: float | str) -> float | str:
    low, high = Schedule.of(value).span
    if low < 0 or high > 1:
        raise ValueError("must be from 0 to 1")
    return value


def _above_zero(value: float | str) -> float | str:
    if Schedule.of(value).span[0] <= 0:
        raise ValueError("must be above 0")
    return value


def _not_negative(value: float | str) -> float | str:
    if value != "balanced" and Schedule.of(value).span[0] < 0:
        raise ValueError("must not be below 0")
    return value


Share = Annotated[float | str, BeforeValidator(_scheduled), AfterValidator(_a_share)]


Temperature = Annotated[float | str, BeforeValidator(_scheduled), AfterValidator(_above_zero)]


Weight = Annotated[float | str, BeforeValidator(_scheduled_or_balanced), AfterValidator(_not_negative)]
"""Numbers, or schedules by which they change over the run; a weight may also be "balanced"."""


Place = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
"""A path; a leading ~ is a home, also in a recipe or behind --out=, where no shell has looked at it."""


Model = Annotated[str, AfterValidator(os.path.expanduser)]
"""A model's folder, likewise, or its hub name."""


Sparsifier = Annotated[str, AfterValidator(check_sparsifier)]
"""A kind of row by name: one of ours, which the field's examples list, or of an installed package."""
