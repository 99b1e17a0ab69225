"""Targets of rows that are one number each, such as how relevant a document is to a query.

Axes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ScoreTargets:
    """The teacher's numbers about N rows, as it gave them.

    Attributes:
        score_N: float32[N].
    """

    score_N: Tensor

    def __len__(self) -> int:
        return len(self.score_N)

    def __getitem__(self, rows: slice) -> ScoreTargets:
        return ScoreTargets(self.score_N[rows])


def scored(_: Any, stored: Mapping[str, Tensor]) -> ScoreTargets:
    """Return the targets of rows that keep a number each; a `Decoder` calls it, and nothing needs to be decoded."""
    return ScoreTargets(stored["score"].float())
