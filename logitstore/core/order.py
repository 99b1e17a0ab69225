"""Orders that repeat: pure functions of (count, seed, epoch), the same on every machine, world size and NumPy version."""

from __future__ import annotations

import numpy as np

from logitstore.core.random import hashed
from logitstore.core.types import Array

BUCKET_BATCHES = 32
"""Batches that are sorted by length together: enough for little padding, few enough for a well-mixed epoch."""


FEISTEL_ROUNDS = 6
"""Four are enough in theory for a good function; halves of a few bits need more to look random."""


def salt_of(seed: int, epoch: int, use: int) -> int:
    """A salt for one use of the randomness of one epoch."""
    return int(hashed(hashed(np.array([seed]), 0x6C6F676974 + use) ^ np.uint64(epoch), 0x73746F7265)[0])


def permuted(places_M: Array, count: int, salt: int) -> Array:
    """int64[M]: where a permutation of 0 .. count - 1 sends some places; costs the places asked for, not the count.

    A Feistel network (Luby and Rackoff 1988) over the smallest 4**h numbers that hold the count: halves (l, r) become
    (r, l xor f(r)), which can be undone whatever f is. A result that is too large goes through again until it is not; that
    too can be undone, so it remains a permutation.
    """
    half = max((max(count - 1, 1).bit_length() + 1) // 2, 1)
    low, shift = np.uint64((1 << half) - 1), np.uint64(half)
    found_M = np.asarray(places_M).astype(np.uint64)
    again_M = np.ones(len(found_M), np.bool_)
    while again_M.any():
        left, right = found_M[again_M] >> shift, found_M[again_M] & low
        for turn in range(FEISTEL_ROUNDS):
            left, right = right, left ^ (hashed(right, salt + turn) & low)
        found_M[again_M] = left << shift | right
        again_M = found_M >= np.uint64(count)
    return found_M.astype(np.int64)


def bucketed(samples_M: Array, lengths_M: Array, batch_size: int, salt: int) -> list[Array]:
    """Sort some samples by length, cut them into batches, and shuffle the batches.

    Args:
        samples_M: what is sorted; at most BUCKET_BATCHES batches of them make sense.
        lengths_M: their lengths.
        batch_size: samples in a batch; the last cut may hold fewer.
        salt: of the shuffle.
    """
    by_length = samples_M[np.argsort(lengths_M, kind="stable")]
    batches = [by_length[first : first + batch_size] for first in range(0, len(by_length), batch_size)]
    order = np.argsort(hashed(np.arange(len(batches)), salt), kind="stable")
    return [batches[index] for index in order]


def in_windows(lengths_M: Array, window: int) -> Array:
    """int64[M]: the places of some samples, sorted by length within windows of so many."""
    return np.lexsort((lengths_M, np.arange(len(lengths_M)) // window))


def held_out(documents_S: Array, fraction: float) -> Array:
    """bool[S]: the samples kept for evaluation: those of `fraction` of the documents, at least one document.

    Whole documents are held out, so that no window of one is trained on while another judges; which ones depends on
    which documents there are and on nothing else, so that every command that sees the same parts agrees. With a single
    document its windows count as documents.
    """
    if fraction <= 0:
        return np.zeros(len(documents_S), np.bool_)
    units_S = documents_S
    units = np.unique(units_S)
    if len(units) == 1:
        units_S = units = np.arange(len(documents_S))
    count = min(max(round(fraction * len(units)), 1), max(len(units) - 1, 1))
    chosen = units[np.argsort(hashed(units, 0x68656C64), kind="stable")[:count]]
    return np.isin(units_S, chosen)


def spread(samples: int, all_rows: int, rows: int) -> list[int]:
    """Numbers of some of `samples` samples with `all_rows` rows, evenly, with about `rows` rows between them."""
    count = min(samples, max(int(rows / (all_rows / samples)), 1))
    return [int(index) for index in np.unique(np.linspace(0, samples - 1, count).round())]
