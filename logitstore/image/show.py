"""A view of an image, for people."""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.core.types import Answer, Array
from logitstore.image.view import View
from logitstore.report.tokens import TokenView


def _class_view(asked: View, answer: Answer, spell: Any, listed: tuple[Array, Array], top: int) -> TokenView:
    """Return the teacher's view of one view of an image."""
    named = f" ({spell(asked.label)})" if asked.label >= 0 else ""
    ids_K, probs_K = listed[0][0], np.exp(listed[1][0].astype(np.float64))
    place = np.flatnonzero((ids_K == asked.label) & (probs_K > 0))
    return TokenView(
        text=f"{asked.name}, view {asked.view}{named}",
        probability=float(np.exp(answer["gold_logprob"][0].astype(np.float64))) if named else None,
        rank=int(place[0]) + 1 if len(place) else None,
        entropy=float(answer["entropy"][0]),
        alternatives=tuple(
            (spell(int(ids_K[k])), float(probs_K[k])) for k in range(min(top, len(ids_K))) if probs_K[k] > 0
        ),
    )
