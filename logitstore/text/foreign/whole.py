"""Whole distributions become lists of their most probable tokens, with what is known of the rest.

Axes: N rows, V vocabulary, K entries kept.
"""

from __future__ import annotations

import numpy as np

from logitstore.core.types import Array
from logitstore.text.foreign.block import Lists

KEPT = 16
"""Tokens that are listed of a whole distribution, where nobody says how many, and there are many more."""


def entries_of(vocabulary: int, k: int | None) -> int:
    """Return how many tokens of a whole distribution are listed: k, or by default all of a small vocabulary, and `KEPT` of
    others."""
    return min(k or (vocabulary if vocabulary <= 4 * KEPT else KEPT), vocabulary)


def listed(logprobs_NV: Array, gold_N: Array, k: int) -> Lists:
    """Return the k most probable tokens of each row, equal ones by rising id, with the gold token's logprob and the entropy.

    Args:
        logprobs_NV: float32, normalised, nats; -inf for a token that cannot come. NaN stays for the reader of lists to refuse.
        gold_N: int64, the token that follows; below V.
        k: at most V.
    """
    logprobs_NV = np.minimum(logprobs_NV, 0) + np.float32(0)
    # of floats that are not above 0 the bits rise as the values fall: the smallest whole numbers are the most probable tokens
    keys_NV = logprobs_NV.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys_NV |= np.arange(logprobs_NV.shape[1], dtype=np.uint64)
    if k < logprobs_NV.shape[1]:
        keys_NV = np.partition(keys_NV, k - 1, axis=1)[:, :k]
    keys_NK = np.sort(keys_NV, axis=1)
    mass_NV = np.exp(logprobs_NV)
    with np.errstate(invalid="ignore"):
        entropy_N = -np.where(mass_NV > 0, mass_NV * logprobs_NV, 0).sum(1, dtype=np.float64)
    return Lists(
        ids_NK=(keys_NK & np.uint64(0xFFFFFFFF)).astype(np.int32),
        logprobs_NK=(keys_NK >> np.uint64(32)).astype(np.uint32).view(np.float32),
        gold_N=logprobs_NV[np.arange(len(gold_N)), gold_N],
        entropy_N=entropy_N,
    )
