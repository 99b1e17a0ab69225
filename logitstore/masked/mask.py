"""The rule by which tokens are masked. It is BERT's (Devlin et al. 2019, section 3.1), with numbers that repeat.

docs/format.md, "Masked texts", describes it; every mask can be made again from the manifest.

Axes: T tokens, N masked positions, C ids that may be drawn.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from logitstore.core.order import salt_of
from logitstore.core.random import hashed
from logitstore.core.types import Array
from logitstore.format.tasks.masked import MaskInfo
from logitstore.masked.sample import MaskedText, Window, key_of

USE = 0x4D41534B
"""Of the random numbers of masks, so that no other use of a seed has the same."""


class Masker:
    """Masks windows by a rule.

    Args:
        rule: of the manifest.
        vocabulary: count of ids that mean something to the teacher.
    """

    def __init__(self, rule: MaskInfo, vocabulary: int) -> None:
        self.rule = rule
        self._is_free = np.ones(vocabulary, np.bool_)
        self._is_free[[each for each in rule.kept if each < vocabulary]] = False
        self._drawn_C = np.flatnonzero(self._is_free)

    def may_be_masked(self, tokens_T: Array) -> Array:
        """Return bool[T]: False for special tokens and ids without a meaning."""
        return np.asarray(self._is_free[tokens_T])

    def count(self, free: int) -> int:
        """Return how many of so many tokens are masked: their share, rounded half up, and at least one if there is one."""
        return min(max(math.floor(self.rule.share * free + 0.5), 1), free)

    def mask(self, tokens_T: Array, number: int, view: int) -> tuple[Array, Array]:
        """Return int64[N] the masked positions, which rise, and int64[N] the tokens that are shown there.

        Args:
            tokens_T: of the window.
            number: of the window in the data.
            view: of the data, from 0.
        """
        free_F = np.flatnonzero(self.may_be_masked(tokens_T))
        own = hashed(np.array([number]), salt_of(self.rule.seed, view, USE))
        place, kind, drawn = (int(salt) for salt in hashed(np.arange(3), own[0].item()))
        order_F = np.argsort(hashed(free_F, place), kind="stable")
        positions_N = np.sort(free_F[order_F[: self.count(len(free_F))]])
        chance_N = (hashed(positions_N, kind) >> np.uint64(11)) * 2.0**-53
        others_N = self._drawn_C[(hashed(positions_N, drawn) % np.uint64(len(self._drawn_C))).astype(np.int64)]
        tokens_N = np.asarray(tokens_T[positions_N], np.int64)
        is_random_N = chance_N < self.rule.random
        is_same_N = chance_N >= 1 - self.rule.unchanged
        shown_N = np.where(is_same_N, tokens_N, np.where(is_random_N, others_N, self.rule.token))
        return positions_N, shown_N.astype(np.int64)

    def masked(self, window: Window, number: int, view: int) -> MaskedText:
        """Return a window with its mask; arguments as for `mask`."""
        positions_N, shown_N = self.mask(window.tokens_T, number, view)
        return MaskedText(
            key=key_of(window.tokens_T, positions_N, shown_N),
            tokens_T=window.tokens_T,
            positions_N=positions_N,
            shown_N=shown_N,
            document=window.document,
            window=window.window,
            start=window.start,
        )


@lru_cache(maxsize=8)
def masker_of(rule: MaskInfo, vocabulary: int) -> Masker:
    """Return what masks by a rule; one for each rule."""
    return Masker(rule, vocabulary)
