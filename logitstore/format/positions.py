"""How `--positions` is spelled, and how many of a sample's positions it leaves; docs/format.md, "Chosen positions".

Axes: S samples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from logitstore.core.registry import suggest
from logitstore.core.types import Array

FORMS = ("all", "assistant", "mask")
"""What decides which positions the data ask about."""

CHOICES = ("random", "entropy")
"""What chooses some of these."""

CHOSEN = r"^(random|entropy):0\.[0-9]{0,5}[1-9]$"
"""How a choice is written in `cache.json`."""

_SHARE = re.compile(r"0?\.([0-9]{1,6})")


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of the positions that the data ask about, of every sample.

    Attributes:
        by: what chooses them: random numbers, or the entropy of the teacher's answers.
        millionths: the share, times 1,000,000; an int, so that counts are exact.
    """

    by: Literal["random", "entropy"]
    millionths: int

    def __str__(self) -> str:
        return f"{self.by}:0.{self.millionths:06d}".rstrip("0")

    @property
    def asks_teacher(self) -> bool:
        """True if the teacher's answers decide which positions they are."""
        return self.by == "entropy"

    def counts(self, candidates_S: Array) -> Array:
        """Return int64[S]: how many of so many positions have a row: the share, half a row rounded up, and at least one."""
        doubled_S = 2 * self.millionths * np.asarray(candidates_S, np.int64)
        return np.asarray(np.maximum((doubled_S + 1_000_000) // 2_000_000, 1))


def checked(text: str) -> str:
    """Return what `--positions` spells, a share in the form of `cache.json`. Raises ValueError: see `share_of`."""
    share = share_of(text)
    return text if share is None else str(share)


def share_of(text: str | None) -> Share | None:
    """Return the share that a text spells, such as `entropy:0.2`; None for one that leaves all positions.

    Raises:
        ValueError: it is none of the words, or the share is not above 0 and below 1.
    """
    if text is None or text in FORMS:
        return None
    name, colon, share = text.partition(":")
    if name in FORMS and colon:
        raise ValueError(f"'{name}' has no share. Give {name} alone")
    if name not in CHOICES:
        raise ValueError(suggest(name, [*FORMS, *(f"{choice}:SHARE" for choice in CHOICES)]))
    match = _SHARE.fullmatch(share)
    millionths = int(match[1].ljust(6, "0")) if match else 0
    if not millionths:
        raise ValueError(
            f"the share must be a decimal number above 0 and below 1, of at most six digits, such as {name}:0.2"
        )
    return Share(by="random" if name == "random" else "entropy", millionths=millionths)
