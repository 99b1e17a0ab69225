"""Orders that repeat: pure functions of (count, seed, epoch), the same on every machine, world size and NumPy version."""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.core.random import hashed
from logitstore.core.types import Array

BUCKET_BATCHES = 32
"""Count of batches that are sorted by length together: enough for little padding, few enough for a well-mixed epoch."""


FEISTEL_ROUNDS = 6
"""Count of rounds. In theory four are enough with a good function; halves of a few bits need more to look random."""


def salt_of(seed: int, epoch: int, use: int) -> int:
    """Return a salt for one use of random numbers in one epoch."""
    return int(hashed(hashed(np.array([seed]), 0x6C6F676974 + use) ^ np.uint64(epoch), 0x73746F7265)[0])


def permuted(places_M: Array, count: int, salt: int) -> Array:
    """Return int64[M]: the images of some places under a permutation of 0 .. count - 1. The cost grows with M, not with count.

    The permutation is a Feistel network (Luby and Rackoff 1988) over the smallest range 4**h that holds the count: halves
    (l, r) become (r, l xor f(r)), which is invertible for every f. A result of `count` or more goes through the network
    again until it is below `count`. This is invertible too, so the result is a permutation.
    """
    half = max((max(count - 1, 1).bit_length() + 1) // 2, 1)
    images_M = np.asarray(places_M).astype(np.uint64)
    is_too_large_M = np.ones(len(images_M), np.bool_)
    while is_too_large_M.any():
        images_M[is_too_large_M] = _network(images_M[is_too_large_M], np.uint64(half), salt)
        is_too_large_M = images_M >= np.uint64(count)
    return images_M.astype(np.int64)


def permuted_within(places_M: Array, counts_M: Array, salts_M: Array) -> Array:
    """Return int64[M]: what `permuted` does, with a count and a salt, uint64, of its own for each place.

    Counts are below 2**53.
    """
    bits_M = np.frexp(np.maximum(counts_M - 1, 1).astype(np.float64))[1]
    half_M = np.maximum((bits_M + 1) // 2, 1).astype(np.uint64)
    images_M, counts_M = np.asarray(places_M).astype(np.uint64), counts_M.astype(np.uint64)
    rest_M = np.arange(len(images_M))
    while len(rest_M):
        images_M[rest_M] = _network(images_M[rest_M], half_M[rest_M], salts_M[rest_M])
        rest_M = rest_M[images_M[rest_M] >= counts_M[rest_M]]
    return images_M.astype(np.int64)


def _network(numbers_M: Array, half: Any, salt: Any) -> Array:
    """Return uint64[M]: the Feistel network over 4**half numbers; `half` and `salt` may be one for each number."""
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers_M >> half, numbers_M & low
    for turn in range(FEISTEL_ROUNDS):
        turned = salt + np.uint64(turn) if isinstance(salt, np.ndarray) else salt + turn
        left, right = right, left ^ (hashed(right, turned) & low)
    return np.asarray(left << half | right)


def bucketed(samples_M: Array, lengths_M: Array, batch_size: int, salt: int) -> list[Array]:
    """Sort some samples by length, cut them into batches, and shuffle the batches.

    Args:
        samples_M: the samples to sort; give at most BUCKET_BATCHES batches.
        lengths_M: lengths of the samples.
        batch_size: count of samples in a batch; the last batch cut may hold fewer.
        salt: salt of the shuffle.
    """
    by_length = samples_M[np.argsort(lengths_M, kind="stable")]
    batches = [by_length[first : first + batch_size] for first in range(0, len(by_length), batch_size)]
    order = np.argsort(hashed(np.arange(len(batches)), salt), kind="stable")
    return [batches[index] for index in order]


def in_groups(lengths_M: Array, group_M: Array) -> Array:
    """Return int64[M]: the places of some samples, sorted by length inside each group; the numbers of the groups rise."""
    return np.lexsort((lengths_M, group_M))


def held_out(documents_S: Array | range, fraction: float) -> Array:
    """Return bool[S]: True for held-out samples, which belong to `fraction` of the documents, at least one document.

    Whole documents are held out, so that a document is never in training and evaluation at once. The choice depends on the
    numbers of the documents only, so all commands that see the same parts agree. With a single document, each of its
    windows counts as a document. Samples come in the order of their documents in nearly every cache, and then 9 bytes a
    sample are needed for a moment.
    """
    count = len(documents_S)
    if fraction <= 0 or not count:
        return np.zeros(count, np.bool_)
    begins_S = _begins(documents_S)
    if begins_S is None:
        units = np.unique(np.asarray(documents_S))
        return np.isin(np.asarray(documents_S), units[_chosen_units(units, fraction)])
    if begins_S.all() or np.count_nonzero(begins_S) == 1:
        return _chosen_units(documents_S if begins_S.all() else range(count), fraction)
    is_chosen_U = _chosen_units(np.asarray(documents_S)[begins_S], fraction)
    is_chosen_S, begun = np.empty(count, np.bool_), 0
    for start in range(0, count, _BLOCK):
        unit = np.cumsum(begins_S[start : start + _BLOCK]) + (begun - 1)
        is_chosen_S[start : start + _BLOCK] = is_chosen_U[unit]
        begun = int(unit[-1]) + 1
    return is_chosen_S


_BLOCK = 1 << 14
"""Numbers that are looked at together: as many as fit into the nearest memory of a processor."""


def _begins(documents_S: Array | range) -> Array | None:
    """Return bool[S]: True where another document begins. None if their numbers do not rise."""
    begins_S = np.ones(len(documents_S), np.bool_)
    for start in range(1, len(documents_S), _BLOCK):
        block = np.asarray(documents_S[start - 1 : start + _BLOCK])
        if (block[1:] < block[:-1]).any():
            return None
        np.not_equal(block[1:], block[:-1], out=begins_S[start : start + _BLOCK])
    return begins_S


def _chosen_units(units_U: Array | range, fraction: float) -> Array:
    """Return bool[U]: True for a fraction of some different numbers: those with the smallest hashes, at least one, not all."""
    count = len(units_U)
    wanted = min(max(round(fraction * count), 1), max(count - 1, 1))
    upper_U = np.empty(count, np.uint32)
    for start in range(0, count, _BLOCK):
        block = np.asarray(units_U[start : start + _BLOCK])
        upper_U[start : start + _BLOCK] = hashed(block, _HELD_OUT) >> np.uint64(32)
    edge = np.partition(upper_U, wanted - 1)[wanted - 1]
    is_chosen_U: Array = upper_U < edge
    # of the few whose upper halves are the same, the lower halves decide
    edge_E = np.flatnonzero(upper_U == edge)
    numbers_E = np.array([units_U[place] for place in edge_E.tolist()])
    order_E = np.argsort(hashed(numbers_E, _HELD_OUT), kind="stable")
    is_chosen_U[edge_E[order_E[: wanted - int(np.count_nonzero(is_chosen_U))]]] = True
    return is_chosen_U


_HELD_OUT = 0x68656C64


def spread(samples: int, all_rows: int, rows: int) -> list[int]:
    """Return the numbers of evenly spread samples that have about `rows` rows in total.

    Args:
        samples: count of all samples.
        all_rows: count of rows of all samples.
        rows: the wanted count of rows.
    """
    count = min(samples, max(int(rows / (all_rows / samples)), 1))
    return [int(index) for index in np.unique(np.linspace(0, samples - 1, count).round())]
