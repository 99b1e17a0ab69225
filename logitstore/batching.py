"""Which samples go through the teacher together: sorted by length, as many as fit a token budget."""

from __future__ import annotations

import numpy as np

from logitstore.types import Array


def by_length(lengths_S: Array, budget: int) -> list[list[int]]:
    """Split samples into batches of similar length, the longest first.

    A batch holds as many samples as keep count x longest within `budget` tokens, and at least one.

    Args:
        lengths_S: tokens of each sample.
        budget: most tokens in a batch, padding included.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(-lengths_S, kind="stable"):
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = int(lengths_S[index])
        batches[-1].append(int(index))
    return batches
