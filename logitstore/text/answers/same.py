"""Whether two lists of one place come from one distribution, or from one before and after a temperature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

APART = 0.25
"""Mean difference, nats, above which two lists come from two distributions. Engines differ by less when they compute twice."""

LOWEST = -10.0
"""Nats; entries below it are mostly noise."""

LEAST_SPREAD = 0.1
"""Standard deviation, nats, of the entries below which a temperature cannot be told."""


def difference(there: Mapping[int, float], again: Mapping[int, float], temperature: float = 1.0) -> str | None:
    """Return how two lists of one place differ, for people; None where they come from one distribution, or nobody can tell.

    A temperature T divides the differences between logprobs by T, whatever their sum is. So the slope of one list over the
    other is 1 or 1/T.

    Args:
        there: logprobs by token, drawn at the temperature.
        again: logprobs by token, at temperature 1.
        temperature: at which the first was drawn.
    """
    both = [token for token in there if token in again and max(there[token], again[token]) > LOWEST]
    if not both:
        return "no token in common" if there and again else None
    there_K, again_K = np.array([there[token] for token in both]), np.array([again[token] for token in both])
    spread = float(again_K.std())
    if temperature not in (0.0, 1.0) and spread > LEAST_SPREAD:
        slope = float(np.mean((there_K - there_K.mean()) * (again_K - again_K.mean()))) / spread**2
        if abs(slope - 1 / temperature) < abs(slope - 1):
            return f"{slope:.2g} times as far apart, which is 1/{temperature:g}"
    apart = float(np.abs(there_K - again_K).mean())
    return f"{apart:.2g} nats apart" if apart > APART else None
