"""A selection that holds out against wrong answers of the teacher: robust active distillation (Baykal et al. 2023).

Axes: S samples, C candidates by falling gain.
"""

from __future__ import annotations

import numpy as np

from logitstore.core.order import salt_of
from logitstore.core.random import hashed
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.select.choice import Amount, Candidates, Choice

ROBUST = 13
"""Keeps these random numbers apart from others."""


def robust(candidates: Candidates, amount: Amount) -> Choice:
    """Draw samples without replacement, each with its share of `shares_of`, by its gain 1 - score: the score says how sure the
    student is, such as its margin. Once all with a share are drawn, those with the next larger gains follow.

    Raises:
        BadInput: a score is not from 0 to 1, or no sample has a gain where so many answers may be wrong.
    """
    score_S = candidates.known_S
    known_S = np.flatnonzero(candidates.allowed_S & ~np.isnan(score_S))
    if ((score_S[known_S] < 0) | (score_S[known_S] > 1)).any():
        raise BadInput("--method robust: a score is not from 0 to 1. Give one such as --score figure:margin.")
    order_C = known_S[np.argsort(score_S[known_S], kind="stable")]
    share_C = shares_of(1 - score_S[order_C], round(amount.wrong * len(order_C)))
    if not share_C.any():
        raise BadInput(
            f"--wrong {amount.wrong:g}: no sample teaches anything if so many answers are wrong. Give a smaller share."
        )
    # the smallest of exponential waiting times are a draw without replacement (Efraimidis and Spirakis 2006)
    uniform_C = (hashed(order_C, salt_of(amount.seed, 0, ROBUST)) + 0.5) / 2.0**64
    waits_C = np.full(len(order_C), np.inf)
    drawn_C = share_C > 0
    waits_C[drawn_C] = -np.log(uniform_C[drawn_C]) / share_C[drawn_C]
    chosen_M = order_C[np.argsort(waits_C, kind="stable")[: amount.of(len(candidates))]]
    return Choice(samples_M=np.sort(chosen_M))


def shares_of(gain_C: Array, wrong: int) -> Array:
    """Return float64[C]: the shares p, which sum to 1, that maximise the gain of a draw in the worst case, in which those
    `wrong` candidates teach nothing of which p times gain is largest.

    Of the k candidates with the largest gains each has a share in proportion to 1 / gain, so that all of them give the same,
    and no k gives more than the one that maximises (k - wrong) / sum of 1 / gain over the k. All shares are 0 where no gain
    is left.

    Args:
        gain_C: float64[C], from 0, falling.
        wrong: how many answers may be wrong.
    """
    count = int(np.count_nonzero(gain_C))
    shares_C = np.zeros(len(gain_C))
    if count <= wrong:
        return shares_C
    inverse_k = 1 / gain_C[:count]
    values_k = (np.arange(1, count + 1) - wrong) / np.cumsum(inverse_k)
    best = int(np.argmax(values_k)) + 1
    shares_C[:best] = inverse_k[:best] / inverse_k[:best].sum()
    return shares_C
