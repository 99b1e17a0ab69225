"""From stored rows to what a loss needs: float32, listed and tail mass summing to 1."""

from __future__ import annotations

import numpy as np

from logitstore.types import Array


def normalised(logprobs_NK: Array, tail_logmass_N: Array) -> Array:
    """Listed logprobs shifted so that, together with the stored tail mass, they sum to 1 exactly.

    The tail mass is stored to float32, the logprobs are rounded to float16; the rounding moves the listed mass by up to
    some 1e-3, and this takes it back without touching the tail (docs/format.md, "Decoding").

    Args:
        logprobs_NK: as stored.
        tail_logmass_N: as stored, nats.

    Returns:
        float32[N, K].
    """
    logprobs = logprobs_NK.astype(np.float32)
    listed_N = np.log(np.exp(logprobs).sum(-1))
    wanted_N = np.log1p(-np.minimum(np.exp(tail_logmass_N.astype(np.float64)), 1 - 1e-7))
    return np.asarray(logprobs + (wanted_N - listed_N)[:, None].astype(np.float32))
