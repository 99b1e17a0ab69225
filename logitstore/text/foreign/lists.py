"""Lists of other software become rows of kind topk, many at a time: checked, in order, cut, and with what they leave out.

It is `logitstore.dump.sparsify.lists` for lists that may lack the gold token's logprob, or the mass outside of them, and by the
hundred thousand a second. Axes: N rows, K entries of a list, k of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.text.foreign.block import Lists

MOST_MASS = 1.05
"""What a list may sum to. Logprobs of 8 bits sum to 1.004, polynomials miss more; a list above this is none of logprobs."""

FEWEST = 200
"""Rows from which on it is told that too few gold tokens are listed."""

NEAR = 1e-3
"""By how much two logprobs of the same token may differ."""


@dataclass(kw_only=True)
class Changes:
    """What was changed of lists, for people.

    Attributes:
        rows: that were read.
        scaled, most: rows whose probabilities summed to more than 1 and were scaled to it, and the largest sum.
        padding: entries that were left out, because no tokenizer gives their ids.
        bounds: rows whose gold logprob is the most that it can be.
        mass, golds: the probabilities of all lists, summed, and the rows that list their gold token.
        unlikely: rows that leave out more than their unlisted tokens can have, if none is more probable than the last one
            that is listed.
    """

    rows: int = 0
    scaled: int = 0
    most: float = 1.0
    padding: int = 0
    bounds: int = 0
    mass: float = 0.0
    golds: int = 0
    unlikely: int = 0

    @property
    def lists_other_tokens(self) -> bool:
        """True where the tokens that follow are listed less than half as often as the lists themselves say."""
        return self.rows >= FEWEST and self.golds < self.mass / 2


@dataclass(frozen=True, kw_only=True)
class ListReader:
    """Makes rows of lists.

    Attributes:
        k: slots of a row.
        vocabulary: token ids below this are real.
        head: ids from `vocabulary` to below this are rows of a head that no tokenizer gives: they are left out of a list, and
            its other probabilities are those given that none of them comes. Ids from `head` on are refused.
        knows_mass: logprobs are those of the whole distribution.
        knows_gold: every row has the logprob of its gold token.
        changes: counts what is changed.
    """

    k: int
    vocabulary: int
    head: int
    knows_mass: bool
    knows_gold: bool
    changes: Changes

    def __call__(self, lists: Lists, gold_N: Array, where: Callable[[int], str]) -> dict[str, Array]:
        """Return what `logitstore.dump.sparsify.lists.ListedTopK` does, as arrays; unknown gold logprobs are NaN.

        Args:
            lists: of the rows.
            gold_N: int64, the token that follows each of them.
            where: gives the place of a row in the source, for messages.

        Raises:
            BadInput: a list that cannot be one of the most probable tokens.
        """
        ids_NK, logprobs_NK = self._in_order(*self._checked(lists, where))
        count, listed = logprobs_NK.shape[1], min(self.k, logprobs_NK.shape[1])
        self.changes.rows += len(ids_NK)
        self.changes.bounds += 0 if lists.is_bound_N is None else int(lists.is_bound_N.sum())
        gold_logprob_N, place_N = self._gold(lists, ids_NK, logprobs_NK, gold_N, where)
        self._count(logprobs_NK, place_N)
        ids_NK = ids_NK[:, :listed]
        cut_NK, logprobs_NK = logprobs_NK[:, listed:], logprobs_NK[:, :listed]
        tail_logmass_N, entropy_N, logprobs_NK = self._summed(logprobs_NK)
        if lists.tail_logmass_N is not None:
            tail_logmass_N = self._told_tail(lists, cut_NK, where)
        if lists.entropy_N is not None:
            entropy_N = self._told_entropy(lists, where)
        if self.k > count:
            ids_NK = np.pad(ids_NK, ((0, 0), (0, self.k - count)))
            logprobs_NK = np.pad(logprobs_NK, ((0, 0), (0, self.k - count)), constant_values=-np.inf)
        return {
            "ids": ids_NK,
            "logprobs": logprobs_NK,
            "tail_logmass": tail_logmass_N,
            "gold_logprob": gold_logprob_N,
            "entropy": entropy_N,
            "top1": ids_NK[:, 0],
            "gold_listed": (place_N >= 0) & (place_N < listed),
        }

    def _checked(self, lists: Lists, where: Callable[[int], str]) -> tuple[Array, Array]:
        """Return ids int32[N, K] and logprobs float32[N, K] of real tokens, which sum to at most 1 where that means
        something."""
        logprobs_NK = np.asarray(lists.logprobs_NK, np.float32)
        ids_NK = lists.ids_NK
        is_bad_N = ~(logprobs_NK.max(1) < np.inf)  # NaN too
        if is_bad_N.any():
            self._refuse(is_bad_N, where, "a logprob is NaN or infinite", lists)
        is_empty_NK = np.isneginf(logprobs_NK)
        if (has_empty := bool(is_empty_NK.any())) and (is_bad_N := is_empty_NK.all(1)).any():
            self._refuse(is_bad_N, where, "nothing is listed", lists)
        if has_empty:
            ids_NK = np.where(is_empty_NK, 0, ids_NK)
        if ids_NK.min() < 0 or ids_NK.max() >= self.head:
            beyond = f"an id is negative or not below {self.head:,}, the size of the vocabulary"
            self._refuse(np.any((ids_NK < 0) | (ids_NK >= self.head), axis=1), where, beyond, lists)
        ids_NK = ids_NK.astype(np.int32, copy=False)
        if not self.knows_mass:
            logprobs_NK = logprobs_NK - logprobs_NK.max(1, keepdims=True)
        if ids_NK.max() >= self.vocabulary:
            ids_NK, logprobs_NK = self._without_padding(ids_NK, logprobs_NK, where, lists)
            is_empty_NK, has_empty = np.isneginf(logprobs_NK), True
        self._refuse_twice(ids_NK, is_empty_NK if has_empty else None, where, lists)
        return ids_NK, self._scaled(logprobs_NK, where, lists) if self.knows_mass else logprobs_NK

    def _without_padding(
        self, ids_NK: Array, logprobs_NK: Array, where: Callable[[int], str], lists: Lists
    ) -> tuple[Array, Array]:
        is_padding_NK = (ids_NK >= self.vocabulary) & ~np.isneginf(logprobs_NK)
        self.changes.padding += int(is_padding_NK.sum())
        mass_N = np.exp(np.where(is_padding_NK, logprobs_NK, -np.inf)).sum(1, dtype=np.float64)
        left_NK = np.where(is_padding_NK, np.float32(-np.inf), logprobs_NK)
        if (is_bad_N := np.isneginf(left_NK).all(axis=1) | (mass_N >= (1 if self.knows_mass else np.inf))).any():
            self._refuse(is_bad_N, where, "it lists no token that the tokenizer gives", lists)
        if self.knows_mass:
            left_NK = left_NK - np.log1p(-mass_N)[:, None].astype(np.float32)
        return np.where(is_padding_NK, 0, ids_NK), left_NK

    def _refuse_twice(
        self, ids_NK: Array, is_empty_NK: Array | None, where: Callable[[int], str], lists: Lists
    ) -> None:
        # empty slots are told apart by giving each an id of its own, below zero
        told_NK = ids_NK if is_empty_NK is None else np.where(is_empty_NK, -1 - np.arange(ids_NK.shape[1]), ids_NK)
        sorted_NK = np.sort(told_NK, axis=1)
        is_twice_NK = sorted_NK[:, 1:] == sorted_NK[:, :-1]
        if is_twice_NK.any():
            self._refuse(is_twice_NK.any(1), where, "an id is listed twice", lists)

    def _scaled(self, logprobs_NK: Array, where: Callable[[int], str], lists: Lists) -> Array:
        mass_N = np.exp(logprobs_NK).sum(1, dtype=np.float64)
        is_above_N = mass_N > 1
        if not is_above_N.any():
            return logprobs_NK
        if (most := float(mass_N.max())) > MOST_MASS:
            self._refuse(
                mass_N > MOST_MASS,
                where,
                f"its probabilities sum to {most:.3g}, so they are no logprobs at temperature 1",
                lists,
            )
        self.changes.scaled += int(is_above_N.sum())
        self.changes.most = max(self.changes.most, most)
        return logprobs_NK - np.where(is_above_N, np.log(mass_N), 0.0)[:, None].astype(np.float32)

    def _in_order(self, ids_NK: Array, logprobs_NK: Array) -> tuple[Array, Array]:
        """Return the lists by falling logprob, equal ones as they stood: the order of a list may say more than rounded
        values."""
        logprobs_NK = np.minimum(logprobs_NK, 0) + np.float32(0)  # without negative zeros
        wrong = np.flatnonzero((logprobs_NK[:, 1:] > logprobs_NK[:, :-1]).any(1))
        if not len(wrong):
            return ids_NK, logprobs_NK
        # of floats that are not above 0 the bits rise as the values fall: one sort of whole numbers gives values and places
        both_nK = logprobs_NK[wrong].view(np.uint32).astype(np.uint64) << np.uint64(32)
        both_nK |= np.arange(logprobs_NK.shape[1], dtype=np.uint64)
        both_nK.sort(axis=1)
        ids_NK, logprobs_NK = ids_NK.copy(), logprobs_NK.copy()
        places_nK = (both_nK & np.uint64(0xFFFFFFFF)).astype(np.int64)
        ids_NK[wrong] = np.take_along_axis(ids_NK[wrong], places_nK, 1)
        logprobs_NK[wrong] = (both_nK >> np.uint64(32)).astype(np.uint32).view(np.float32)
        return ids_NK, logprobs_NK

    def _gold(
        self, lists: Lists, ids_NK: Array, logprobs_NK: Array, gold_N: Array, where: Callable[[int], str]
    ) -> tuple[Array, Array]:
        """Return the logprob of the gold token, float32[N], NaN where it is not known, and its place, -1 if it is not
        listed."""
        is_gold_NK = ids_NK == gold_N[:, None].astype(np.int32)
        place_N = is_gold_NK.argmax(1)
        rows_N = np.arange(len(place_N))
        found_N = logprobs_NK[rows_N, place_N]
        # the id 0 of an empty slot stands behind what is listed, so a listed 0 is found first
        is_listed_N = is_gold_NK[rows_N, place_N] & ~np.isneginf(found_N)
        place_N = np.where(is_listed_N, place_N, -1)
        if not self.knows_mass:
            return np.full(len(place_N), np.nan, np.float32), place_N
        told_N = np.full(len(place_N), np.nan, np.float32) if lists.gold_N is None else lists.gold_N.astype(np.float32)
        is_bad_N = (told_N > NEAR) | (is_listed_N & (np.abs(told_N - found_N) > NEAR + self._slack(found_N)))
        is_bad_N |= self.knows_gold & ~is_listed_N & np.isnan(told_N)
        if lists.gold_N is not None:
            left_N = 1 - np.exp(logprobs_NK).sum(1, dtype=np.float64)
            is_bad_N |= ~is_listed_N & (np.exp(np.minimum(told_N, 0)) > left_N + MOST_MASS - 1)
        if is_bad_N.any():
            told = (
                "the gold token's logprob is missing, above 0, not the one that is listed, or more than the list leaves"
            )
            self._refuse(is_bad_N, where, told, lists)
        return np.where(is_listed_N, found_N, np.minimum(told_N, 0)), place_N

    def _slack(self, logprobs_N: Array) -> Array:
        """Return by how much a listed logprob may miss that of the gold token: by a rounding to 8 bits, and by scaling."""
        return np.abs(logprobs_N) * 2.0**-8 + math.log(MOST_MASS)

    def _summed(self, logprobs_Nk: Array) -> tuple[Array, Array, Array]:
        """Return tail log mass and entropy, float32[N], and the logprobs, which are normalised where the mass is not known."""
        mass_Nk = np.exp(logprobs_Nk)
        listed_N = mass_Nk.sum(1, dtype=np.float64)
        counts_N = np.full(len(listed_N), logprobs_Nk.shape[1])
        if np.isneginf(logprobs_Nk[:, -1]).any():
            is_empty_Nk = np.isneginf(logprobs_Nk)
            counts_N = (~is_empty_Nk).sum(1)
            mass_Nk *= np.where(is_empty_Nk, np.float32(0), logprobs_Nk)
        else:
            mass_Nk *= logprobs_Nk
        plogp_N = mass_Nk.sum(1, dtype=np.float64)
        highest = math.log(self.vocabulary)
        with np.errstate(divide="ignore", invalid="ignore"):
            if not self.knows_mass:
                entropy_N = np.log(listed_N) - plogp_N / listed_N
                shifted_Nk = np.minimum(logprobs_Nk - np.log(listed_N)[:, None].astype(np.float32), 0)
                nothing_N = np.full(len(listed_N), -np.inf, np.float32)
                return nothing_N, np.clip(entropy_N, 0, highest).astype(np.float32), shifted_Nk
            unlisted_N = self.vocabulary - counts_N
            tail_N = np.where(unlisted_N > 0, np.maximum(1 - listed_N, 0), 0)
            each_N = np.where(tail_N > 0, np.log(tail_N) - np.log(unlisted_N), 0.0)
            entropy_N = -plogp_N - tail_N * each_N
            return np.log(tail_N).astype(np.float32), np.clip(entropy_N, 0, highest).astype(np.float32), logprobs_Nk

    def _told_tail(self, lists: Lists, cut_NK: Array, where: Callable[[int], str]) -> Array:
        """Return the tail log mass that the source tells, with that of the entries that are cut off, float32[N]."""
        told_N = np.asarray(lists.tail_logmass_N, np.float64)
        listed_N = np.exp(lists.logprobs_NK.astype(np.float64)).sum(1)
        is_bad_N = ~(told_N <= 0) | (np.abs(listed_N + np.exp(told_N) - 1) > MOST_MASS - 1)
        if is_bad_N.any():
            self._refuse(is_bad_N, where, "its probabilities and the mass outside of it do not sum to 1", lists)
        if cut_NK.shape[1]:
            with np.errstate(divide="ignore"):
                told_N = np.log(np.minimum(np.exp(told_N) + np.exp(cut_NK).sum(1, dtype=np.float64), 1))
        return told_N.astype(np.float32)

    def _told_entropy(self, lists: Lists, where: Callable[[int], str]) -> Array:
        """Return the entropies that the source tells, float32[N]."""
        told_N, highest = np.asarray(lists.entropy_N, np.float64), math.log(self.head)
        if (is_bad_N := ~((told_N >= -NEAR) & (told_N <= highest + 10 * NEAR))).any():
            told = float(told_N[is_bad_N][0])
            self._refuse(is_bad_N, where, f"its entropy is {told:.4g}, and must be from 0 to {highest:.4g} nats", lists)
        return np.clip(told_N, 0, math.log(self.vocabulary)).astype(np.float32)

    def _count(self, logprobs_NK: Array, place_N: Array) -> None:
        """Count what tells that lists are about other tokens, or are no logprobs. Logprobs are in order."""
        listed_N = np.exp(logprobs_NK).sum(1, dtype=np.float64)
        self.changes.golds += int((place_N >= 0).sum())
        if not self.knows_mass:
            # a list of few tokens says nothing about how often the token that follows is one of them
            self.changes.mass += len(listed_N) if logprobs_NK.shape[1] >= 16 else 0
            return
        self.changes.mass += float(listed_N.sum())
        counts_N = (~np.isneginf(logprobs_NK)).sum(1)
        last_N = logprobs_NK[np.arange(len(counts_N)), counts_N - 1].astype(np.float64)
        most_N = (self.vocabulary - counts_N) * np.exp(last_N)
        self.changes.unlikely += int((1 - listed_N > most_N + MOST_MASS - 1).sum())

    def _refuse(self, is_bad_N: Array, where: Callable[[int], str], what: str, lists: Lists) -> None:
        """Raises BadInput about the first bad row."""
        row = int(np.flatnonzero(is_bad_N)[0])
        shown = list(zip(lists.ids_NK[row, :4].tolist(), np.round(lists.logprobs_NK[row, :4], 4).tolist(), strict=True))
        raise BadInput(f"{where(row)}: {what}. Its list begins with {shown}.")
